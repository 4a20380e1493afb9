"""Features along a whole video: one for each frame, of a window centred on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rhyme.catalog import Catalog
from rhyme.encoders import InferencePlan
from rhyme.errors import ConfigError
from rhyme.loading.decode import Readers
from rhyme.loading.inference import eval_transform
from rhyme.tasks.extract import encode_parts
from rhyme.tasks.table import Float, Integer
from rhyme.views import frame_counts, frame_times

__all__ = ["Timeline", "Window", "timelines", "video_features"]

_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which frames stand for a moment.

    Attributes:
        frames: frames of the window; None for those of the encoder's plan.
        stride: native frames between them; None for the plan's.
        every: native frames between neighbouring moments.
    """

    frames: int | None = None
    stride: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} of a window must be at least 1", value=value)

    def offsets(self, plan: InferencePlan, fps: float) -> Integer:
        """Frames of the window relative to its moment, at a rate of frames a second."""
        frames = plan.frames if self.frames is None else self.frames
        stride = self.stride
        if stride is None:
            native = int(getattr(plan, "stride", 0))
            stride = native or max(1, round(plan.spacing * fps))
        return (np.arange(frames) - frames // 2) * stride


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """All frames of a video, whichever items it was cut into.

    Attributes:
        path: the video.
        kind: kind of its items.
        rows: ``int64 [n]`` its items in the catalog, in order of time.
        counts: ``int64 [n]`` frames of each.
        numbers: ``int64 [t]`` number of each frame within the file.
        fps: frames a second.
    """

    path: str
    kind: str
    rows: Integer
    counts: Integer
    numbers: Integer
    fps: float

    def __len__(self) -> int:
        return len(self.numbers)


def timelines(catalog: Catalog, rows: Sequence[int] | Integer) -> list[Timeline]:
    """The videos of some items, in the order of their first item; stills and sound are none.

    Args:
        catalog: the items.
        rows: rows of the catalog.
    """
    picked = np.asarray(rows, dtype=np.int64)
    facts = catalog.facts(picked)
    counts = frame_counts(facts)
    by_path: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    for place, row in enumerate(picked.tolist()):
        item = catalog.item(row)
        if item.fps > 0 and item.kind in ("video", "frames"):
            by_path.setdefault(item.path, []).append(place)
            kinds[item.path] = item.kind
    found: list[Timeline] = []
    for path, members in by_path.items():
        order = np.array(sorted(members, key=lambda i: float(facts.start[i])))
        first = np.rint(facts.start[order] * facts.fps[order]).astype(np.int64)
        numbers = [np.arange(n) + f for n, f in zip(counts[order], first, strict=True)]
        found.append(
            Timeline(
                path=path,
                kind=kinds[path],
                rows=picked[order],
                counts=counts[order],
                numbers=np.concatenate(numbers).astype(np.int64),
                fps=float(facts.fps[order[0]]),
            )
        )
    return found


@torch.inference_mode()
def video_features(
    module: nn.Module,
    plan: InferencePlan,
    catalog: Catalog,
    video: Timeline,
    window: Window | None = None,
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> dict[str, Float]:
    """Features of every ``every``-th frame of a video, of a window around each.

    Every frame is decoded once, and few are held. At the ends of the video frames repeat. A frame
    encoder's feature of a window is the mean of its frames'.

    Args:
        module: an encoder in evaluation mode, on the device.
        plan: how it wants its input.
        catalog: the items.
        video: one of :func:`timelines`.
        window: the window; the plan's clip around every frame by default.
        batch_size: windows a forward pass.
        device: where the encoder runs.

    Returns:
        ``float32 [t', d]`` by part: ``"pooled"``, and the parts that the encoder names.

    Raises:
        MediaError: the video cannot be decoded.
        CatalogError: it has gone or changed since the scan.
    """
    window = window or Window()
    offsets = window.offsets(plan, video.fps)
    found: dict[str, list[Float]] = {}
    for clips in _windows(_pixels(plan, catalog, video), len(video), offsets, window.every,
                          batch_size):  # fmt: skip
        for name, rows in encode_parts(module, clips.to(device)).items():
            found.setdefault(name, []).append(rows.float().cpu().numpy())
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _pixels(plan: InferencePlan, catalog: Catalog, video: Timeline) -> Iterator[Tensor]:
    """All frames of a video as the encoder wants them, ``[n, 3, size, size]`` at a time."""
    transform = eval_transform(plan)
    readers = Readers(catalog, limit=1)
    for row, count in zip(video.rows.tolist(), video.counts.tolist(), strict=True):
        facts = catalog.facts([row])
        times = frame_times(facts, np.arange(count)[None])[0]
        size = np.stack([facts.height, facts.width], axis=1)
        for first in range(0, count, _CHUNK):
            frames, _ = readers.frames(row, times[first : first + _CHUNK])
            yield transform.apply(frames[None], {}, size)[0][0]
    readers.close()


def _windows(
    chunks: Iterator[Tensor], total: int, offsets: Integer, every: int, batch_size: int
) -> Iterator[Tensor]:
    """Windows ``[m, w, 3, size, size]`` around every ``every``-th of ``total`` frames."""
    held = torch.empty(0)
    first = stop = 0  # the frames that are held
    moments = np.arange(0, total, every)
    for begin in range(0, len(moments), batch_size):
        wanted = moments[begin : begin + batch_size, None] + offsets[None, :]
        wanted = wanted.clip(0, total - 1)
        parts = [held[max(int(wanted.min()) - first, 0) :]] if stop > first else []
        first = max(first, min(int(wanted.min()), stop))
        while stop <= int(wanted.max()):
            parts.append(next(chunks))
            stop += len(parts[-1])
        held = torch.cat(parts) if len(parts) > 1 else parts[0]
        first = stop - len(held)
        yield held[torch.from_numpy(wanted - first)]
