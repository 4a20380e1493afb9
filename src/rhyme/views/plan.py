"""The plan: all draws of a batch together, and the way from 8-bit frames to views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError, UnknownName, nearest
from rhyme.views.batched import apply_batched, to_device
from rhyme.views.clips import SPACED, Clip, FrameDraws
from rhyme.views.contrast import ContrastTransform
from rhyme.views.crops import Frames, Interpolation, frame_sizes, resized
from rhyme.views.facts import Facts
from rhyme.views.geometry import compose
from rhyme.views.keys import Keys
from rhyme.views.placing import draw_clip, feasible
from rhyme.views.resample import upload
from rhyme.views.shift_crop import ShiftCropTransform
from rhyme.views.transforms import EvalTransform
from rhyme.views.turn import TurnTransform
from rhyme.views.view import View

__all__ = ["ClipPixels", "Draws", "Transform", "ViewDraw", "ViewPlan", "ViewSpec", "apply_view"]

Transform = ContrastTransform | ShiftCropTransform | EvalTransform | TurnTransform
"""Any transform of pixels."""


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """A view: a clip seen through a transform.

    Attributes:
        clip: name of the clip.
        transform: what becomes of its frames.
        consistent: ``"frame"`` draws the transform for each frame alone, ``"clip"`` once for all
            frames of the clip.
    """

    clip: str
    transform: Transform
    consistent: Literal["frame", "clip"] = "frame"


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


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """Named clips, and the views made of them.

    A draw is a pure function of an item's facts and key: it is the same in any batch, on any rank,
    in any worker.

    Attributes:
        clips: clips by name; one may refer to those before it.
        views: views by name.
    """

    clips: Mapping[str, Clip] = field(default_factory=dict)
    views: Mapping[str, ViewSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("a view plan needs at least one view", stage="views")
        for name, spec in self.views.items():
            _known(spec.clip, self.clips, f"view '{name}' takes unknown clip '{spec.clip}'")
        earlier: list[str] = []
        for name, clip in self.clips.items():
            for other in (clip.takes, clip.exclude):
                if other is not None:
                    _known(other, earlier, f"clip '{name}' refers to '{other}', no earlier clip")
            if clip.exclude is not None and self.frames(clip.exclude) != 1:
                raise ConfigError(
                    f"clip '{name}' excludes '{clip.exclude}', which has several frames",
                    remedy="exclude a clip of one frame",
                )
            earlier.append(name)
        chances = {clip.reverse for clip in self.clips.values() if clip.reverse > 0}
        if len(chances) > 1:
            raise ConfigError(
                "clips that may run backwards share one coin, so one probability",
                stage="views",
                value=sorted(chances),
                remedy="give all of them the same reverse, or 0",
            )
        for name in self.clips:
            self._check_parts(name)

    def frames(self, clip: str) -> int:
        """Number of frames of a clip."""
        rule = self.clips[clip]
        return rule.frames if rule.takes is None else self.frames(rule.takes)

    def parts(self, clip: str) -> int:
        """Number of parts that other clips cut a clip into; 1 if none does."""
        return max([c.part[1] for c in self.clips.values() if c.part and c.of == clip], default=1)

    def scaled(self, clip: str, frames: Tensor) -> Tensor:
        """Frames ``uint8 [t, 3, h, w]`` of a clip as all of its views scale them at first.

        What several views would do is done once, and what goes to a device is as small as it may
        be. Frames stay as they are where the views do different things.
        """
        if clip not in self._scales:
            return frames
        rows, columns, interpolation = self._scales[clip]
        return resized(frames, rows, columns, interpolation)

    @cached_property
    def _scales(self) -> dict[str, tuple[int, int, Interpolation]]:
        """Rows, columns and interpolation of the first step of all views, by clip."""
        wanted: dict[str, set[tuple[int, int, Interpolation] | None]] = {}
        for spec in self.views.values():
            how = spec.transform
            size = how.resize if isinstance(how, ContrastTransform) else None
            scale = None if size is None else (*size, how.interpolation)
            wanted.setdefault(spec.clip, set()).add(scale)
        common = {name: next(iter(scales)) for name, scales in wanted.items() if len(scales) == 1}
        return {name: scale for name, scale in common.items() if scale is not None}

    def feasible(self, facts: Facts) -> NDArray[np.bool_]:
        """``bool [b]``: items that no clip with ``short="drop"`` finds too short."""
        fits = np.ones(len(facts.id), dtype=bool)
        for name, clip in self.clips.items():
            fits &= feasible(clip, facts, self.parts(name))
        return fits

    def draw(self, facts: Facts, keys: Keys) -> Draws:
        """Draw all clips and views of ``b`` items.

        Args:
            facts: facts of the items.
            keys: their keys, in the same order.
        """
        if len(keys) != len(facts.id):
            raise ConfigError(f"{len(keys)} keys for {len(facts.id)} items", stage="views")
        targets: dict[str, NDArray[Any]] = {}
        chance = max(clip.reverse for clip in self.clips.values())
        if chance > 0:
            targets["reversed"] = keys.uniform("reverse") < chance
        clips = self._draw_clips(facts, keys, targets)
        width = np.asarray(facts.width, dtype=np.int64)
        height = np.asarray(facts.height, dtype=np.int64)
        sizes = np.stack([height, width], axis=1)
        views: dict[str, ViewDraw] = {}
        for name, spec in self.views.items():
            count = 1 if spec.consistent == "clip" else self.frames(spec.clip)
            scope = keys.within(f"view/{name}")
            views[name] = ViewDraw(
                frames=clips[spec.clip],
                parameters=spec.transform.draw(scope, count, width, height),
                sizes=sizes,
            )
        return Draws(clips=clips, views=views, targets=targets)

    def _draw_clips(
        self, facts: Facts, keys: Keys, targets: dict[str, NDArray[Any]]
    ) -> dict[str, FrameDraws]:
        """All clips; what else was drawn goes into ``targets``."""
        whole: dict[str, FrameDraws] = {}  # with the frames of all parts
        clips: dict[str, FrameDraws] = {}
        for name, clip in self.clips.items():
            if clip.same_as is not None:
                clips[name] = clips[clip.same_as]
                continue
            if clip.part is not None and clip.of is not None:
                first = clip.part[0] * self.frames(name)
                clips[name] = whole[clip.of].take(slice(first, first + self.frames(name)))
                continue
            parts = self.parts(name)
            whole[name] = draw_clip(
                clip,
                facts,
                keys.within(f"clip/{name}"),
                None if clip.exclude is None else clips[clip.exclude].index[:, 0],
                backwards=targets["reversed"] if clip.reverse > 0 else None,
                parts=parts,
            )
            clips[name] = whole[name].take(slice(None, None, parts))
            if clip.exclude is not None:
                targets[f"{name}/coincides"] = clips[name].coincides
            targets |= {f"{name}/{key}": value for key, value in whole[name].targets.items()}
        return clips

    def _check_parts(self, name: str) -> None:
        """Refuse a clip whose parts do not come out even."""
        clip, parts = self.clips[name], self.parts(name)
        own = [c.part[1] for c in self.clips.values() if c.part and c.of == name]
        if not own:
            return
        if any(number != parts for number in own):
            raise ConfigError(
                f"clip '{name}' is cut into different numbers of parts",
                stage="views",
                value=sorted(set(own)),
                remedy="cut it into equally many everywhere",
            )
        if clip.takes is not None or clip.exclude is not None or clip.place not in SPACED:
            raise ConfigError(
                f"clip '{name}' has no even spacing of its own, so no parts",
                stage="views",
                remedy='give it a stride, and place "random", "centre" or "edges"',
            )
        uneven = [s for s in clip.strides or (clip.stride or 1,) if s % parts]
        if clip.spacing is None and uneven:
            raise ConfigError(
                f"clip '{name}' has a stride that does not divide by its {parts} parts",
                stage="views",
                value=uneven[0],
                remedy=f"for parts at stride s give it stride {parts} * s",
            )

    def apply(
        self,
        pixels: Mapping[str, ClipPixels],
        draws: Draws,
        device: torch.device | None = None,
    ) -> dict[str, View]:
        """All views, from the decoded frames of each clip.

        Args:
            pixels: frames by clip.
            draws: what was drawn for their items.
            device: makes all views of a batch at once, on this device; None makes them here, item
                by item. The two differ by the rounding of some levels, see ``views.batched``.
        """
        if device is not None:
            pixels = {
                name: pixels[name].to(device) for name in {s.clip for s in self.views.values()}
            }
        return {
            name: apply_view(spec, pixels[spec.clip], draws.views[name], batched=device is not None)
            for name, spec in self.views.items()
        }


def apply_view(
    spec: ViewSpec, pixels: ClipPixels | Frames, draw: ViewDraw, *, batched: bool = False
) -> View:
    """Make one view.

    Args:
        spec: clip and transform.
        pixels: decoded frames, with times and maps where those are known.
        draw: what was drawn for this view.
        batched: make it for all items at once, where the frames are.

    Returns:
        The view: ``data`` float32 ``[b, t, 3, size, size]``, ``times``, ``map`` to original display
        pixels, ``valid``. Frames that are not valid are 0.
    """
    if not isinstance(pixels, ClipPixels):
        pixels = ClipPixels(frames=pixels)
    if batched:
        if not isinstance(pixels.frames, Tensor) or pixels.sizes is None:
            pixels = pixels.to(pixels.frames[0].device)
        assert isinstance(pixels.frames, Tensor) and pixels.sizes is not None  # noqa: PT018
        data, maps = apply_batched(
            spec.transform, pixels.frames, draw.parameters, draw.sizes, pixels.sizes
        )
    else:
        data, maps = spec.transform.apply(pixels.frames, draw.parameters, draw.sizes)
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


def _known(name: str, known: Any, message: str) -> None:
    if name not in known:
        raise UnknownName(message, stage="views", remedy=nearest(name, known))
