"""From decoded frames and draws to views: one by one, or all that share a transform at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.views.batched import Transform, apply_batched, to_device
from rhyme.views.clips import FrameDraws
from rhyme.views.crops import Frames, frame_sizes
from rhyme.views.geometry import compose
from rhyme.views.resample import upload
from rhyme.views.view import View

__all__ = ["ClipPixels", "Draws", "ViewDraw", "apply_view", "views_together"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewDraw:
    """What was drawn for one view of ``b`` items.

    Attributes:
        frames: the frames of its clip.
        parameters: the transform's parameters, ``[b, t, ...]`` or ``[b, 1, ...]``.
        sizes: ``int64 [b, 2]`` rows and columns of the frames that it was drawn for.
    """

    frames: FrameDraws
    parameters: Mapping[str, NDArray[Any]]
    sizes: NDArray[np.int64]

    def rows(self, items: NDArray[np.int64]) -> ViewDraw:
        """The draws of some items."""
        return ViewDraw(
            frames=self.frames.rows(items),
            parameters={name: value[items] for name, value in self.parameters.items()},
            sizes=self.sizes[items],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Everything drawn for a batch.

    Attributes:
        clips: frames of each clip, by name.
        views: draws of each view, by name.
        targets: what a system may want to know beside the pixels: ``reversed``, ``bool [b]``, where
            clips may run backwards; ``<clip>/stride``, ``int64 [b]``, for every clip with several;
            ``<clip>/coincides``, ``bool [b]``, for every clip that excludes another.
    """

    clips: Mapping[str, FrameDraws]
    views: Mapping[str, ViewDraw]
    targets: Mapping[str, NDArray[Any]]

    def rows(self, items: NDArray[np.int64]) -> Draws:
        """The draws of some items."""
        return Draws(
            clips={name: clip.rows(items) for name, clip in self.clips.items()},
            views={name: view.rows(items) for name, view in self.views.items()},
            targets={name: value[items] for name, value in self.targets.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipPixels:
    """The decoded frames of one clip of ``b`` items.

    Attributes:
        frames: ``uint8 [b, t, 3, h, w]``, or for each item ``[t, 3, h_i, w_i]``.
        times: ``float64 [b, t]`` seconds at which they are shown; None takes the nominal ones.
        maps: ``float64 [b, 2, 3]`` to original display pixels from those of the size that the
            views were drawn for; None where that is the original.
        sizes: ``int64 [b, 2]`` rows and columns of each item's frames where they are padded to a
            common size; None takes all of them.
    """

    frames: Frames
    times: NDArray[np.float64] | None = None
    maps: NDArray[np.float64] | None = None
    sizes: NDArray[np.int64] | None = None

    def to(self, device: torch.device) -> ClipPixels:
        """The same with all frames in one tensor on the device, sent as bytes."""
        sizes = frame_sizes(self.frames) if self.sizes is None else self.sizes
        return replace(self, frames=to_device(self.frames, device), sizes=sizes)


def apply_view(transform: Transform, pixels: ClipPixels, draw: ViewDraw) -> View:
    """Make one view, item by item.

    Args:
        transform: of the frames.
        pixels: decoded frames, with times and maps where those are known.
        draw: what was drawn for this view.

    Returns:
        The view: ``data`` float32 ``[b, t, 3, size, size]``, ``times``, ``map`` to original display
        pixels, ``valid``. Frames that are not valid are 0.
    """
    data, maps = transform.apply(pixels.frames, draw.parameters, draw.sizes)
    return _view(data, maps, pixels, draw)


def views_together(
    transform: Transform, pixels: Sequence[ClipPixels], draws: Sequence[ViewDraw]
) -> list[View]:
    """Make the views that share a transform, of all items at once and where the frames are.

    Several views cost a GPU's host as many launches as one. They are what each would be alone.

    Args:
        transform: that of all views.
        pixels: frames for each view from :meth:`ClipPixels.to`, all of one shape.
        draws: what was drawn for each.

    Returns:
        A view for each, as of :func:`apply_view`.
    """
    frames = [cast(Tensor, one.frames) for one in pixels]
    sizes = [cast(NDArray[np.int64], one.sizes) for one in pixels]
    if len(draws) == 1:
        made = apply_batched(transform, frames[0], draws[0].parameters, draws[0].sizes, sizes[0])
        return [_view(*made, pixels[0], draws[0])]
    parameters = {
        name: np.concatenate([draw.parameters[name] for draw in draws])
        for name in draws[0].parameters
    }
    data, maps = apply_batched(
        transform,
        torch.cat(frames),
        parameters,
        np.concatenate([draw.sizes for draw in draws]),
        np.concatenate(sizes),
    )
    parts = zip(data.chunk(len(draws)), np.split(maps, len(draws)), strict=True)
    return [_view(*part, one, draw) for part, one, draw in zip(parts, pixels, draws, strict=True)]


def _view(data: Tensor, maps: NDArray[np.float64], pixels: ClipPixels, draw: ViewDraw) -> View:
    """The view of finished frames ``[b, t, 3, size, size]`` and maps to the frames given."""
    if pixels.maps is not None:
        maps = compose(pixels.maps[:, None], maps)
    empty = np.flatnonzero(~draw.frames.valid)
    if len(empty):
        data.flatten(0, 1).index_fill_(0, upload(empty, data.device), 0.0)
    times = draw.frames.times if pixels.times is None else pixels.times
    return View(
        data=data,
        times=torch.from_numpy(np.ascontiguousarray(times)),
        map=torch.from_numpy(maps.astype(np.float32)),
        valid=torch.from_numpy(draw.frames.valid),
    )
