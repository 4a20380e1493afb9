"""The plan: all draws of a batch together, and the way from 8-bit frames to views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError, UnknownName, nearest
from rhyme.views.batched import Transform
from rhyme.views.clips import SPACED, Clip, FrameDraws
from rhyme.views.contrast import ContrastTransform
from rhyme.views.crops import Interpolation, resized
from rhyme.views.facts import Facts
from rhyme.views.keys import Keys
from rhyme.views.making import ClipPixels, Draws, ViewDraw, apply_view, views_together
from rhyme.views.placing import draw_clip, feasible
from rhyme.views.view import View

__all__ = ["Transform", "ViewPlan", "ViewSpec"]


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

    @property
    def aspect(self) -> float | None:
        """Width by height that all views scale every frame to first; None where one keeps its own.

        Frames that are held for the views may then be scaled to it whole.
        """
        found = {
            spec.transform.aspect if isinstance(spec.transform, ContrastTransform) else None
            for spec in self.views.values()
        }
        return found.pop() if len(found) == 1 else None

    def feasible(self, facts: Facts) -> NDArray[np.bool_]:
        """``bool [b]``: items that no clip with ``short="drop"`` or ``least`` finds too short."""
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
        if device is None:
            return {
                name: apply_view(spec.transform, pixels[spec.clip], draws.views[name])
                for name, spec in self.views.items()
            }
        there = {name: pixels[name].to(device) for name in {s.clip for s in self.views.values()}}
        made: dict[str, View] = {}
        for names in self._alike(there):
            specs = [self.views[name] for name in names]
            views = views_together(
                specs[0].transform,
                [there[spec.clip] for spec in specs],
                [draws.views[name] for name in names],
            )
            made |= zip(names, views, strict=True)
        return {name: made[name] for name in self.views}

    def _alike(self, pixels: Mapping[str, ClipPixels]) -> list[list[str]]:
        """Names of the views that one transform makes of frames of one shape."""
        found: dict[tuple[Any, ...], list[str]] = {}
        for name, spec in self.views.items():
            shape = tuple(cast(Tensor, pixels[spec.clip].frames).shape)
            found.setdefault((spec.transform, spec.consistent, shape), []).append(name)
        return list(found.values())


def _known(name: str, known: Any, message: str) -> None:
    if name not in known:
        raise UnknownName(message, stage="views", remedy=nearest(name, known))
