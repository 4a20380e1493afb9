"""Action segmentation: MS-TCN on frozen features, one for each frame of untrimmed videos.

Features are taken once, of a window centred on every frame; the network is trained on the videos of
the training split and judged on those of the test split, whose groups are held out. The last epoch
counts and nothing is chosen, so validation videos have no part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from rhyme.encoders import EncoderPackage
from rhyme.errors import EvaluationError, RhymeError, UnknownName, nearest
from rhyme.evaluation.frame_labels import (
    FrameLabels,
    read_bundle,
    read_frame_labels,
    video_name,
)
from rhyme.evaluation.left_out import skipped_details, skipped_notes
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.videos import VideoData
from rhyme.tasks import (
    OVERLAPS,
    SegmenterConfig,
    Timeline,
    Window,
    fit_segmenter,
    predict_frames,
    score_segmentation,
    standardise,
    timelines,
    video_features,
)
from rhyme.tasks.table import Float, Integer

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(SegmenterConfig):
    """Settings of the protocol, beside those of the network.

    Attributes:
        parts: what is judged: ``"pooled"``, or parts that the encoder names; all where empty.
        window: frames around each frame; the encoder's clip where None.
        stride: native frames between them; the encoder's where None.
        every: take features of every n-th frame, and repeat the predictions back (2 is customary
            for 50Salads).
        background: classes whose segments are left out of edit score and F1; a class of any other
            name counts, whatever it means.
        bundle: number of a published split in ``splits/``; the catalog's split where None.
        standardise: take out mean and deviation of the training frames first.
    """

    parts: tuple[str, ...] = ()
    window: int | None = None
    stride: int | None = None
    every: int = 1
    background: tuple[str, ...] = ("background",)
    bundle: int | None = None
    standardise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule()

    def rule(self) -> Window:
        """The window of a frame."""
        return Window(frames=self.window, stride=self.stride, every=self.every)

    def network(self) -> SegmenterConfig:
        """Size and training of the network."""
        return SegmenterConfig(**{f.name: getattr(self, f.name) for f in fields(SegmenterConfig)})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """The videos to train or to test on, and the reason by name of those that have no part.

    Of a bundle every video counts that it lists, else those for which there are labels.
    """

    name: Literal["train", "test"]
    videos: list[Timeline]
    listed: bool = False
    skipped: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Video:
    """A labelled video and its features by part, one row in ``every`` frames."""

    line: Timeline
    labels: Integer
    features: dict[str, Float]


def run(data: VideoData, settings: Settings) -> list[Metric]:
    """Accuracy, edit score and F1 of each part of the features.

    Args:
        data: encoder and collection; videos without frame labels are passed over.
        settings: the settings.

    Returns:
        ``accuracy``, ``edit``, ``f1_10``, ``f1_25`` and ``f1_50`` of the pooled feature, all in
        [0, 1], and the same with ``@part`` behind for each named part. Chance is the most frequent
        training class given to every frame. Videos of a bundle, or with labels, that could not be
        used are told.

    Raises:
        EvaluationError: no labelled video to train or to test on, or a group that the encoder has
            seen in the test videos of a bundle.
    """
    train, test = _sides(data, settings)
    labels = read_frame_labels(data.catalog, [*train.videos, *test.videos])
    told = _Told(data, settings, labels, train.videos, test.videos)
    trained, tested = (
        list(_extracted(data, settings, labels, side, told)) for side in (train, test)
    )
    notes: list[str] = []
    for side, found in ((train, trained), (test, tested)):
        if not found:
            some = list(side.skipped.items())[:2]
            why = "; ".join(f"{name}: {reason}" for name, reason in some)
            raise EvaluationError(
                f"no video of the split '{side.name}' has frame labels"
                + (f" ({why})" if why else ""),
                stage="segmentation",
                remedy="give groundTruth/<video>.txt with a label a line for each frame, or a "
                "generated world with untrimmed videos",
            )
        what = f"{side.name} videos " + ("of the bundle" if side.listed else "with labels")
        notes += skipped_notes(side.skipped, len(found) + len(side.skipped), what)
    lost = skipped_details({**test.skipped, **train.skipped})
    metrics: list[Metric] = []
    for part in _parts(settings, trained[0].features):
        metrics += _judged(data, settings, labels.classes, part, trained, tested, told)
    return [replace(m, details={**m.details, **lost}, notes=tuple(notes)) for m in metrics]


def _sides(data: VideoData, settings: Settings) -> tuple[_Side, _Side]:
    """Videos to train and to test on."""
    if settings.bundle is None:
        return (
            _Side(name="train", videos=timelines(data.catalog, data.train)),
            _Side(name="test", videos=timelines(data.catalog, data.test)),
        )
    every = timelines(data.catalog, np.arange(len(data.catalog)))
    there = {video_name(line) for line in every}

    def side(name: Literal["train", "test"], split: int) -> _Side:
        wanted = read_bundle(data.catalog.root, name, split)
        return _Side(
            name=name,
            videos=[line for line in every if video_name(line) in wanted],
            listed=True,
            skipped=dict.fromkeys(sorted(wanted - there), "no such video in the collection"),
        )

    train, test = side("train", settings.bundle), side("test", settings.bundle)
    hit = sorted({data.catalog.item(int(v.rows[0])).group for v in test.videos} & data.seen)
    if hit:
        raise EvaluationError(
            f"the encoder was trained on {len(hit)} groups of the bundle's test videos",
            stage="segmentation",
            value=hit[:5],
            remedy="train on another collection, or on this one with the bundle's split",
        )
    return train, test


class _Told:
    """Progress in frames: each is encoded once, and the training frames pass in every epoch."""

    def __init__(
        self,
        data: VideoData,
        settings: Settings,
        labels: FrameLabels,
        train: list[Timeline],
        test: list[Timeline],
    ) -> None:
        def frames(videos: list[Timeline]) -> int:
            return sum(len(v) for v in videos if v.path in labels.codes)

        self._tell = data.progress
        self._epochs = settings.epochs * frames(train) // settings.every
        self._share = frames(train) + frames(test)
        self._parts = len(settings.parts) or 1
        self._data = data
        self._done = 0

    def parts(self, count: int) -> None:
        """How many parts are judged, once that is known."""
        self._parts = count

    def __call__(self, frames: int) -> None:
        if self._tell is None:
            return
        self._done += frames
        own = self._share + self._parts * self._epochs
        done = min(self._done, own)
        self._tell(self._data.place * own + done, self._data.encoders * own)


def _extracted(
    data: VideoData,
    settings: Settings,
    labels: FrameLabels,
    side: _Side,
    told: _Told,
) -> Iterator[_Video]:
    """Features and labels of the videos that have both; the side gets why others have not."""
    for line in side.videos:
        codes = labels.codes.get(line.path)
        if codes is None or not (codes >= 0).any():
            if codes is not None or line.path in labels.skipped or side.listed:
                side.skipped[line.path] = labels.skipped.get(line.path, "no labels of its frames")
            continue
        try:
            features = video_features(
                data.encoder, data.plan, data.catalog, line, settings.rule(), device=data.device
            )
        except RhymeError as error:
            side.skipped[line.path] = error.reason
            continue
        told(len(line))
        told.parts(len(_parts(settings, features)))
        wanted = {name: features[name] for name in _parts(settings, features)}
        yield _Video(line=line, labels=codes, features=wanted)


def _check(package: EncoderPackage, settings: Settings, options: str) -> None:
    _parts(settings, ("pooled", *package.config.parts))


def _parts(settings: Settings, features: Collection[str]) -> tuple[str, ...]:
    for part in settings.parts:
        if part not in features:
            raise UnknownName(
                f"the encoder names no part '{part}'",
                stage="segmentation",
                remedy=nearest(part, features),
            )
    return settings.parts or tuple(features)


def _judged(
    data: VideoData,
    settings: Settings,
    classes: tuple[str, ...],
    part: str,
    train: list[_Video],
    test: list[_Video],
    told: _Told,
) -> list[Metric]:
    """Train on one part of the features and judge the test videos."""
    every = settings.every
    plain = {side: [v.features[part] for v in vs] for side, vs in (("a", train), ("b", test))}
    if settings.standardise:
        scale = standardise(np.concatenate(plain["a"]))
        plain = {side: [scale.apply(x) for x in rows] for side, rows in plain.items()}
    model = fit_segmenter(
        [(x, v.labels[::every]) for x, v in zip(plain["a"], train, strict=True)],
        len(classes),
        settings.network(),
        seed=data.seed,
        device=data.device,
        progress=told,
    )
    predicted = [
        np.repeat(predict_frames(model, x), every)[: len(v.labels)]
        for x, v in zip(plain["b"], test, strict=True)
    ]
    truth = [v.labels for v in test]
    background = [code for code, name in enumerate(classes) if name in settings.background]
    known = np.concatenate([v.labels for v in train])
    frequent = int(np.bincount(known[known >= 0], minlength=len(classes)).argmax())
    score = score_segmentation(list(zip(predicted, truth, strict=True)), background=background)
    guess = score_segmentation(
        [(np.full_like(y, frequent), y) for y in truth], background=background
    )
    details: dict[str, Any] = {
        "part": part,
        "dim": int(plain["a"][0].shape[1]),
        "segment_classes": list(classes),
        "train_videos": len(train),
        "test_videos": score.videos,
        "segments_predicted": score.predicted,
        "segments_true": score.true,
        "counts": {str(o): list(c) for o, c in score.counts.items()},
    }
    suffix = "" if part == "pooled" else f"@{part}"
    figures = [("accuracy", score.accuracy, guess.accuracy, score.frames),
               ("edit", score.edit, guess.edit, score.videos)]  # fmt: skip
    figures += [(f"f1_{o}", score.f1[o], guess.f1[o], score.videos) for o in OVERLAPS]
    return [
        Metric(name=name + suffix, value=value, items=items, chance=chance, details=details)
        for name, value, chance, items in figures
    ]


PROTOCOL = Protocol(
    id="segmentation",
    title="a label for every frame of untrimmed videos, by MS-TCN on frozen features",
    settings=Settings,
    run=run,
    needs_labels=False,
    reads="videos",
    check=_check,
)
