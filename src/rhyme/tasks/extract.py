"""Features of a catalog's items: one pass over the pixels for any number of encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rhyme.catalog import Catalog
from rhyme.encoders import Features, InferencePlan
from rhyme.errors import DataError, EvaluationError, UnknownName, nearest
from rhyme.heap import keep_freed
from rhyme.loading import FrameCache, inference_batches
from rhyme.tasks.table import FeatureTable, Float
from rhyme.views import ClipSampling

__all__ = ["Progress", "encode", "encode_parts", "extract_features", "extract_many"]

Progress = Callable[[int, int], None]
"""Called with (done, total) moments."""


def encode(module: nn.Module, pixels: Tensor, part: str | None = None) -> Tensor:
    """Features of moments, as the module stands (the caller puts it into eval mode).

    Args:
        module: an encoder. One with a true attribute ``reads_clips`` is given whole clips
            ``[m, t, c, h, w]``; any other is given frames, and a clip is the mean of its frames.
        pixels: normalised pixels ``[m, t, c, h, w]`` on the module's device.
        part: a named part of the features instead of the pooled ones.

    Returns:
        ``[m, d]``.

    Raises:
        UnknownName: for a part that the encoder does not name.
        EvaluationError: when the module returns no ``Features``.
    """
    found = encode_parts(module, pixels)
    wanted = "pooled" if part is None else part
    if wanted not in found:
        named = [name for name in found if name != "pooled"]
        raise UnknownName(
            f"the encoder names no part '{part}'",
            stage="encode",
            remedy=nearest(wanted, named) if named else "it names none at all",
        )
    return found[wanted]


def encode_parts(module: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """The pooled feature of moments and all named parts of it, in one pass.

    Args:
        module: an encoder, as for :func:`encode`.
        pixels: normalised pixels ``[m, t, c, h, w]`` on the module's device.

    Returns:
        ``[m, d]`` by name, ``"pooled"`` first.

    Raises:
        EvaluationError: when the module returns no ``Features``.
    """
    clips = bool(getattr(module, "reads_clips", False))
    count, frames = pixels.shape[:2]
    output = module(pixels if clips else pixels.flatten(0, 1))
    if not isinstance(output, Features):
        raise EvaluationError(
            "the encoder returns no Features", stage="encode", value=type(output).__name__
        )
    named = {"pooled": output.pooled, **output.parts}
    if clips:
        return named
    return {name: x.unflatten(0, (count, frames)).mean(dim=1) for name, x in named.items()}


def extract_many(
    modules: Mapping[str, nn.Module],
    plan: InferencePlan,
    catalog: Catalog,
    *,
    frames_per_item: int = 4,
    sampling: ClipSampling | None = None,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    part: str | None = None,
    cache: FrameCache | None = None,
    progress: Progress | None = None,
) -> dict[str, FeatureTable]:
    """Features of every item under several encoders that share an inference plan.

    The pixels are decoded once. Modules are put into eval mode on ``device`` and left there.

    Args:
        modules: encoders by name.
        plan: how they want their input.
        catalog: the items.
        frames_per_item: equally spaced frames (or clips) an item.
        sampling: clips by a rule of a published protocol instead; each item then has one row, the
            mean over its clips. Of an encoder of frames a clip is the mean of its frames.
        batch_size: frames a forward pass; a clip counts as its frames.
        workers: decoding processes; 0 decodes here.
        device: where the encoders run.
        part: a named part of the features instead of the pooled ones.
        cache: decoded frames to use instead of the files.
        progress: called with (done, total) moments.

    Returns:
        A table an encoder. Items of which not all moments could be decoded are in ``left_out``
        instead.

    Raises:
        DataError: when no item could be read.
    """
    keep_freed()
    clips = None if sampling is None else sampling.of(catalog.facts())
    length = plan.frames if clips is None else clips.index.shape[1]
    batches = inference_batches(
        catalog,
        plan,
        frames_per_item=frames_per_item,
        clips=clips,
        batch_size=max(1, batch_size // length),
        workers=workers,
        cache=cache,
    )
    total = len(catalog) * frames_per_item if clips is None else len(clips)
    for module in modules.values():
        module.eval().to(device)
    found: dict[str, list[Float]] = {name: [] for name in modules}
    rows: list[np.ndarray] = []
    times: list[np.ndarray] = []
    done = 0
    with torch.inference_mode():
        for pixels, index, seconds in batches:
            moved = pixels.to(device)
            for name, module in modules.items():
                found[name].append(encode(module, moved, part).float().cpu().numpy())
            rows.append(np.asarray(index, dtype=np.int64))
            times.append(np.asarray(seconds, dtype=np.float64))
            done += len(pixels)
            if progress is not None:
                progress(done, total)
    if not rows:
        raise DataError("no item could be read", stage="extract", remedy="scan the data again")
    row, time = np.concatenate(rows), np.concatenate(times)
    # moments of one item in the order of time, items in the order of the catalog
    order = np.lexsort((time, row))
    row, time = row[order], time[order]
    items, first, counts = np.unique(row, return_index=True, return_counts=True)
    wanted = np.full(len(catalog), frames_per_item)
    if clips is not None:
        wanted = np.bincount(clips.rows, minlength=len(catalog))
    whole = counts == wanted[items]
    if not whole.any():
        raise DataError(
            f"no item gave all its {'frames' if clips is None else 'clips'}",
            stage="extract",
            value=f"{int(counts.max())} of {int(wanted[items[counts.argmax()]])}",
        )
    kept = items[whole]
    facts = catalog.facts(kept)
    missing = np.setdiff1d(np.arange(len(catalog)), kept)
    taken = first[whole][:, None] + np.arange(frames_per_item)

    def rows_of(values: NDArray[np.floating]) -> NDArray[np.floating]:
        """``[m, ...]`` as ``[n, f, ...]``: an item's moments, or their mean."""
        if clips is None:
            return values[taken]
        sums = np.add.reduceat(values.astype(np.float64), first, axis=0)[whole]
        shape = (-1, *[1] * (values.ndim - 1))
        return (sums / counts[whole].reshape(shape))[:, None].astype(values.dtype)

    return {
        name: FeatureTable(
            features=rows_of(np.concatenate(parts)[order]).astype(np.float32),
            times=rows_of(time).astype(np.float64),
            index=kept,
            ids=np.asarray(facts.id),
            group=np.asarray(facts.group, dtype=np.int64),
            left_out=tuple(int(i) for i in missing),
        )
        for name, parts in found.items()
    }


def extract_features(
    module: nn.Module,
    plan: InferencePlan,
    catalog: Catalog,
    *,
    frames_per_item: int = 4,
    sampling: ClipSampling | None = None,
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    part: str | None = None,
    cache: FrameCache | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """Features of every item under one encoder; arguments and errors of :func:`extract_many`.

    Args:
        module: the encoder.
        plan: how it wants its input.
        catalog: the items.
        frames_per_item: equally spaced frames (or clips) an item.
        sampling: clips by a rule of a published protocol instead, one row an item.
        batch_size: frames a forward pass.
        workers: decoding processes; 0 decodes here.
        device: where the encoder runs.
        part: a named part of the features instead of the pooled ones.
        cache: decoded frames to use instead of the files.
        progress: called with (done, total) moments.

    Returns:
        The table.
    """
    tables = extract_many(
        {"encoder": module},
        plan,
        catalog,
        frames_per_item=frames_per_item,
        sampling=sampling,
        batch_size=batch_size,
        workers=workers,
        device=device,
        part=part,
        cache=cache,
        progress=progress,
    )
    return tables["encoder"]
