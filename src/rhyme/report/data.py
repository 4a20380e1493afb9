"""What a report is made from: plain data, no object of another room.

Everything is frozen and every field but the system's name may be missing: a report of a run that
has only just begun says what is missing instead of failing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError
from rhyme.report.findings import ClassShare, EmbeddingMaps

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A picture with what is known of it.

    Attributes:
        pixels: uint8 ``[h, w, 3]`` RGB, or None where the picture is not at hand.
        label: class name or caption.
        file: path of its file, relative to the collection.
        time: seconds from the start of the file.
        span: seconds at which its item starts and ends in the file.
        group: source it belongs to; frames of one group are at home with each other.
        score: cosine similarity to the query, in [-1, 1].
        same_class: whether it shares the query's class; None without labels.

    Raises:
        DataError: the pixels are not uint8 ``[h, w, 3]`` with at least one pixel.
    """

    pixels: NDArray[np.uint8] | None = None
    label: str = ""
    file: str = ""
    time: float | None = None
    span: tuple[float, float] | None = None
    group: str | int | None = None
    score: float | None = None
    same_class: bool | None = None

    def __post_init__(self) -> None:
        if self.pixels is None:
            return
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise DataError(
                "a frame of a report needs pixels of type uint8 and shape [h, w, 3]",
                file=self.file or None,
                stage="report",
                value=(str(dtype), shape),
                remedy="convert the picture to RGB bytes, channels last",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """A query frame and the frames that a search finds for it, best first.

    Attributes:
        query: the frame that is searched for.
        hits: found frames in falling order of ``score``.
        why: why it is shown; empty for one that was drawn by seed.
    """

    query: Frame
    hits: Sequence[Frame]
    why: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rhyme:
    """One way out and back: query, neighbours in other videos, frames it returns to.

    Attributes:
        query: the frame that is sent out.
        neighbours: strongest support frames, all of other groups, with their attention weights
            in [0, 1]; the weights left out are those of the frames not shown.
        returns: candidate frames nearest to the soft nearest neighbour, with their cosine, best
            first.
        returned: whether the nearest candidate is of the query's group.
        entropy: entropy of the attention over the whole support, in nats.
        support: number of frames of the support.
        why: why it is shown; empty for one that was drawn by seed.
    """

    query: Frame
    neighbours: Sequence[tuple[Frame, float]]
    returns: Sequence[tuple[Frame, float]]
    returned: bool
    entropy: float | None = None
    support: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentStrip:
    """A clip in segments, its shuffled copy, and how alike the segments of both are.

    Attributes:
        clip: frames of the clip in order, equally many of each of its s segments.
        order: the segment, from 0, that stands at each place of the shuffled copy.
        trained: ``[s, s]`` cosines under the trained encoder: segments of the clip (rows) with
            those of the shuffled copy (columns), put back to the places that they came from.
        untrained: the same under the encoder with fresh weights.

    Raises:
        DataError: the sizes do not fit.
    """

    clip: Sequence[Frame]
    order: Sequence[int]
    trained: NDArray[np.float32]
    untrained: NDArray[np.float32]

    def __post_init__(self) -> None:
        s = len(self.order)
        fits = sorted(self.order) == list(range(s)) and len(self.clip) % max(s, 1) == 0
        if not s or not fits or any(m.shape != (s, s) for m in (self.trained, self.untrained)):
            raise DataError(
                "a strip of segments needs frames, an order and matrices of one number of segments",
                stage="report",
                value=(len(self.clip), list(self.order), self.trained.shape, self.untrained.shape),
            )


@dataclass(frozen=True, kw_only=True)
class Told:
    """A label of a pair of clips, and what a head says.

    Attributes:
        name: what is told, in words.
        drawn: the label, in words.
        told: the answer, in words.
        right: whether they are the same.
    """

    name: str
    drawn: str
    told: str
    right: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenClip:
    """A clip as an encoder sees it, and where that was taken from.

    Attributes:
        frames: some of its frames, in order.
        times: seconds in the file of all its frames.
        outline: corners of its crop as shares (x, y) of the frame, from the view's top left on.
        top: the middle of the view's upper edge, alike.
    """

    frames: Sequence[Frame]
    times: Sequence[float]
    outline: Sequence[tuple[float, float]]
    top: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipPair:
    """Two clips of one item, drawn to overlap, and what is told of them.

    Attributes:
        frame: a frame of the item.
        start: seconds at which the item starts in its file.
        stop: seconds at which it ends.
        clips: the two clips.
        labels: labels and answers.
    """

    frame: Frame
    start: float
    stop: float
    clips: tuple[SeenClip, SeenClip]
    labels: Sequence[Told]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How the encoder came to be. What is None is not known and not printed.

    Attributes:
        data: name of the collection.
        data_fingerprint: fingerprint of its catalog.
        items: items trained on.
        groups: groups (sources) among them.
        seed: run seed.
        steps: optimiser steps done.
        seconds: wall-clock time of the training in seconds.
        device: e.g. ``"cpu"`` or the name of the accelerator.
        versions: version by package name.
        commit: revision of the code.
        command: command line that made the run.
        package_hash: SHA-256 of the exported encoder.
        initial_weights: which weights it started from; None for drawn ones.
    """

    data: str | None = None
    data_fingerprint: str | None = None
    items: int | None = None
    groups: int | None = None
    seed: int | None = None
    steps: int | None = None
    seconds: float | None = None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    commit: str | None = None
    command: str | None = None
    package_hash: str | None = None
    initial_weights: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """All that a report shows.

    Attributes:
        system: system id, e.g. ``"cycle_contrast"``.
        system_title: its name for readers, e.g. ``"CycleContrast"``; the id when empty.
        title: heading of the page; made from the system and the data when empty.
        kind: ``"run"``, or ``"collection"`` for the pictures of an embedded collection alone,
            where missing curves and tables are no gap; ``"results"`` for an encoder of which
            rows are known and nothing else, for the page of several runs.
        run: the run folder as the reader would type it, for the commands the page suggests.
        facts: how the run was made.
        config: text of ``config.yaml``.
        metrics: rows of ``metrics.jsonl``: ``step``, ``epoch``, ``loss``, ``parts``,
            ``diagnostics``, ``lr``, ``items_per_s``, ``wait_share``, ``probes``.
        results: rows of ``results.jsonl``: ``protocol``, ``metric``, ``value``, ``encoder``
            (``"trained"``, ``"untrained"`` or another name), ``seed``, ``settings``, ``items``.
        headline: (protocol, metric) of the figure on top; chosen by the page when None.
        rhymes: ways out and back, of which the page shows up to twelve.
        rhymes_measured: (came home, queries) over the whole measurement that the rhymes were
            drawn from; None when only those given were measured.
        strips: retrieval strips.
        worst: searches that fail worst, most certain first.
        classes: how often each class is found, the worst first.
        classes_k: number of found frames that ``classes`` counts among.
        maps: the features in the plane; None where they were not drawn.
        pairs: pairs of clips with their labels, of systems that tell overlaps.
        pairs_measured: (label, balanced accuracy, chance) over all pairs that were asked for.
        segments: clips in segments with their shuffled copies.
        absent: sections that cannot be drawn, by id: why, and what helps.
        notes: what was left out, quarantine counts, known limits.
        events: rows of ``events.jsonl``: ``time`` (seconds since 1970), ``event``, other facts.
    """

    system: str
    system_title: str = ""
    title: str = ""
    kind: Literal["run", "collection", "results"] = "run"
    run: str = "RUN"
    facts: RunFacts = field(default_factory=RunFacts)
    config: str = ""
    metrics: Sequence[Row] = ()
    results: Sequence[Row] = ()
    headline: tuple[str, str] | None = None
    rhymes: Sequence[Rhyme] = ()
    rhymes_measured: tuple[int, int] | None = None
    strips: Sequence[Strip] = ()
    worst: Sequence[Strip] = ()
    classes: Sequence[ClassShare] = ()
    classes_k: int = 0
    maps: EmbeddingMaps | None = None
    pairs: Sequence[ClipPair] = ()
    pairs_measured: Sequence[tuple[str, float, float]] = ()
    segments: Sequence[SegmentStrip] = ()
    absent: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    notes: Sequence[str] = ()
    events: Sequence[Row] = ()

    @property
    def name(self) -> str:
        """The system's name for readers."""
        return self.system_title or self.system
