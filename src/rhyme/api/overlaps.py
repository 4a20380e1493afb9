"""What the heads of a CSTP run say of clips that they never saw: accuracies, pairs to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.api.data import part
from rhyme.api.encoder import encoder_of
from rhyme.api.fit import FRAMES, build_system, catalog_of, frame_cache
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, RhymeError
from rhyme.loading import Batch, CatalogSource
from rhyme.objectives import balanced_accuracy
from rhyme.recipes import load_recipe
from rhyme.report import ClipPair, Frame, ReportData, SeenClip, Told
from rhyme.run import RunFolder
from rhyme.systems.cstp import CLIPS, Cstp
from rhyme.training import resolve_device
from rhyme.training.packages import load_part
from rhyme.views import OverlapPlan, apply_points

__all__ = ["OverlapAnswers", "overlap_answers"]

MOST_ITEMS, PASSES, SHOWN, SEEN = 256, 4, 6, 4
_BATCH = 32
_NAMES = {
    "temporal": "overlap in time",
    "spatial": "overlap in the frame",
    "pace": "pace",
    "rotation": "turn",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OverlapAnswers:
    """Labels of pairs of held-out clips, and what the heads make of them.

    Attributes:
        truths: ``int64 [n]``, or ``[n, 2]`` where each clip is asked, by name of the label.
        told: the answers, alike.
        classes: numbers of labels by name.
        items: items that the pairs come from.
        pairs: some of them, to be drawn.
    """

    truths: Mapping[str, NDArray[np.int64]]
    told: Mapping[str, NDArray[np.int64]]
    classes: Mapping[str, int]
    items: int
    pairs: tuple[ClipPair, ...] = ()

    def balanced_accuracy(self, name: str) -> float:
        """The mean over labels of the share that is told right."""
        told, truths = (torch.from_numpy(t[name]).flatten() for t in (self.told, self.truths))
        return float(balanced_accuracy(told, truths, self.classes[name]))

    def chance(self, name: str) -> float:
        """The balanced accuracy of answers that have nothing to do with the clips."""
        return 1.0 / len(np.unique(self.truths[name]))


@torch.no_grad()
def overlap_answers(
    run: str | Path,
    *,
    split: str = "test",
    seed: int = 0,
    passes: int = PASSES,
    max_items: int = MOST_ITEMS,
    shown: int = 0,
    device: str = "auto",
) -> OverlapAnswers:
    """Ask the heads of a trained CSTP run about held-out items.

    Pairs are drawn and augmented as in the training, by another seed, with their true labels: also
    of a run that was trained on shuffled ones.

    Args:
        run: run folder.
        split: split of its catalog.
        seed: of items and draws.
        passes: pairs of each item.
        max_items: more are left out, chosen by seed.
        shown: pairs to draw, one an item, the first by seed.
        device: where the encoder runs.

    Raises:
        ConfigError: the run is of another system, or was trained without labels.
        RunError: no such run, or it has no encoder yet.
    """
    folder = RunFolder.open(run)
    where = resolve_device(device)
    system = trained_system(folder).to(where).eval()
    items = part(catalog_of(folder.path), split)
    order = np.random.default_rng([seed, 3]).permutation(len(items))[:max_items]
    items = items.select(indices=np.sort(order))
    overlap = replace(system.config.overlap, labels="drawn")
    plan: OverlapPlan = replace(system.plans()["train"], overlap=overlap)
    recipe = load_recipe(folder.config)
    source = CatalogSource(
        items,
        plan,
        batch_size=min(_BATCH, len(items)),
        seed=recipe.train.seed + 1 + seed,
        cache=frame_cache(recipe, items, folder.path / FRAMES, plan.aspect),
        drop_last=False,
    )
    truths: dict[str, list[Tensor]] = {name: [] for name in system.labels}
    told: dict[str, list[Tensor]] = {name: [] for name in system.labels}
    pairs: list[ClipPair] = []
    for batch in islice(source.batches(), source.batches_per_epoch * passes):
        clips = torch.stack([batch.views[name].data for name in CLIPS], dim=1).to(where)
        features, _ = system.encoder(clips.flatten(0, 1), heads=())
        logits = system.tell(features.pooled.unflatten(0, clips.shape[:2]))
        answers = {name: value.argmax(dim=-1).cpu() for name, value in logits.items()}
        right = system.truths(batch.targets)
        for name in system.labels:
            truths[name].append(right[name])
            told[name].append(answers[name])
        for row in range(min(len(batch), shown - len(pairs))):
            pairs.append(_pair(source.catalog, system, batch, row, answers, right))
    source.close()
    return OverlapAnswers(
        truths={name: torch.cat(rows).numpy() for name, rows in truths.items()},
        told={name: torch.cat(rows).numpy() for name, rows in told.items()},
        classes={name: system.config.classes[name] for name in system.labels},
        items=len(source.catalog),
        pairs=tuple(pairs),
    )


def with_overlaps(data: ReportData, run: RunFolder, *, seed: int, device: str) -> ReportData:
    """Report data of a CSTP run with pairs of held-out clips; as it is where no label is told."""
    try:
        found = overlap_answers(run.path, seed=seed, shown=SHOWN, device=device)
    except ConfigError:
        return data
    measured = [
        (_NAMES[name], found.balanced_accuracy(name), found.chance(name)) for name in found.truths
    ]
    return replace(data, pairs=found.pairs, pairs_measured=measured)


def trained_system(folder: RunFolder) -> Cstp:
    """The system of a finished CSTP run, with the weights of its exports.

    Raises:
        ConfigError: the run is of another system, or was trained without labels.
    """
    system = build_system(load_recipe(folder.config))
    if not isinstance(system, Cstp) or not len(system.labels):
        raise ConfigError(
            "only CSTP runs with labels have overlaps to tell",
            file=folder.path,
            remedy="train one: rhyme train cstp",
        )
    system.encoder.backbone.load_state_dict(encoder_of(folder.path).module.state_dict())
    load_part(folder.path / "exports" / "labels", system.labels)
    return system


def _pair(
    catalog: Catalog,
    system: Cstp,
    batch: Batch,
    row: int,
    answers: Mapping[str, Tensor],
    truths: Mapping[str, Tensor],
) -> ClipPair:
    """A row of a batch for the report."""
    c = system.config
    words = {
        "temporal": [f"{100 * rate:.0f} %" for rate in c.overlap.rates],
        "spatial": [f"{100 * rate:.0f} %" for rate in c.overlap.rates],
        "pace": [f"{pace}x" for pace in c.overlap.paces],
        "rotation": ["0°", "90°", "180°", "270°"],
    }
    labels: list[Told] = []
    for name in (name for name in _NAMES if name in answers):
        both = [t[name][row].flatten().tolist() for t in (truths, answers)]
        for k, (drawn, said) in enumerate(zip(*both, strict=True)):
            which = f", clip {k + 1}" if len(both[0]) > 1 else ""
            labels.append(
                Told(
                    name=_NAMES[name] + which,
                    drawn=words[name][drawn],
                    told=words[name][said],
                    right=drawn == said,
                )
            )
    place = int(batch.index[row])
    item = catalog.item(place)
    facts = catalog.facts([place])
    size = (int(facts.width[0]), int(facts.height[0]))
    clips = tuple(_seen(system, batch, row, name, size) for name in CLIPS)
    middle = float(np.mean([time for clip in clips for time in clip.times]))
    return ClipPair(
        frame=Frame(
            pixels=_decode(catalog, place, middle), file=item.path, time=middle, group=item.group
        ),
        start=float(facts.start[0]),
        stop=float(facts.stop[0]),
        clips=(clips[0], clips[1]),
        labels=labels,
    )


def _seen(system: Cstp, batch: Batch, row: int, name: str, size: tuple[int, int]) -> SeenClip:
    view = batch.views[name]
    assert view.map is not None
    assert view.times is not None
    base, side = system.config.transform, system.config.transform.size
    std, mean = (torch.tensor(v).reshape(3, 1, 1) for v in (base.std, base.mean))
    levels = ((view.data[row] * std + mean).clamp(0, 1) * 255).round().byte()
    picked = np.linspace(0, len(levels) - 1, min(SEEN, len(levels))).round().astype(int)
    low, high, middle = -0.5, side - 0.5, (side - 1) / 2
    marks = torch.tensor(
        [[low, low], [high, low], [high, high], [low, high], [middle, low]], dtype=torch.float64
    )
    there = apply_points(view.map[row, 0].double(), marks).numpy()
    shares = (there + 0.5) / np.array(size)
    times = view.times[row].tolist()
    return SeenClip(
        frames=[
            Frame(pixels=np.ascontiguousarray(levels[k].permute(1, 2, 0).numpy()), time=times[k])
            for k in picked
        ],
        times=times,
        outline=[(float(x), float(y)) for x, y in shares[:4]],
        top=(float(shares[4, 0]), float(shares[4, 1])),
    )


def _decode(catalog: Catalog, place: int, time: float) -> NDArray[np.uint8] | None:
    try:
        reader = catalog.reader(place)
        try:
            pixels, _ = reader.read([time])
        finally:
            reader.close()
    except RhymeError:
        return None
    return np.ascontiguousarray(torch.as_tensor(pixels)[0].permute(1, 2, 0).numpy())
