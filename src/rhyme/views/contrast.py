"""The augmentations of the contrastive family: MoCo, SimCLR, VFS and their relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError
from rhyme.views.colour import recolour
from rhyme.views.crops import (
    ATTEMPTS,
    Frames,
    Interpolation,
    box_map,
    cut_boxes,
    draw_boxes,
    fit_boxes,
    frame_sizes,
    resize_boxes,
    resized,
)
from rhyme.views.geometry import compose, crop_resize_map, flip_map
from rhyme.views.keys import Keys
from rhyme.views.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Parameters,
    Triple,
    check_bounds,
    check_range,
    check_size,
    check_std,
    chunks,
    normalise,
    per_row,
)

__all__ = ["ContrastTransform"]


@dataclass(frozen=True, kw_only=True)
class ContrastTransform:
    """The augmentations of MoCo, SimCLR and their relatives, every parameter exposed.

    Order: random crop, flip, colour jitter (its four parts in random order), grayscale, blur,
    solarise, normalise. The defaults are MoCo v2's (arXiv 2003.04297); see the class methods
    for the others.

    Attributes:
        size: side of the view in pixels.
        scale: bounds of the crop's share of the frame's area.
        ratio: bounds of the crop's width / height.
        resize: rows and columns that every frame is scaled to, whatever its aspect; the crop then
            is a square of ``size`` at a random place in it, and ``scale`` and ``ratio`` play no
            part. None crops a random box and scales that.
        interpolation: of the resize, which is antialiased.
        flip: probability of a horizontal flip.
        jitter: probability of colour jitter.
        strength: factor on the reach of all four parts of the jitter (SimCLR's s).
        brightness: factor within 1 ± this (or shift, see ``brightness_mode``).
        brightness_mode: ``"multiply"``, or ``"add"`` a shift within ± ``brightness`` of the range.
        contrast: factor within 1 ± this.
        saturation: factor within 1 ± this.
        hue: shift within ± this, in turns; at most 0.5.
        gray: probability of grayscale.
        gray_first: grayscale before the jitter (MoCo v1) instead of after it.
        gray_mode: what becomes of a gray view: its ``"luma"``, or one of its three channels, drawn
            anew, in place of all (``"channel"``).
        blur: probability of Gaussian blur.
        blur_sigma: bounds of its standard deviation in pixels.
        blur_kernel: width of the kernel as a share of ``size``; None takes all that matters.
        solarize: probability of solarisation (BYOL's second view).
        solarize_threshold: 8-bit level from which on levels are inverted.
        skip: probability that jitter, grayscale, blur and solarisation are left out together.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel, on the [0, 1] scale.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    flip: float = 0.5
    jitter: float = 0.8
    strength: float = 1.0
    brightness: float = 0.4
    brightness_mode: Literal["multiply", "add"] = "multiply"
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    gray_first: bool = False
    gray_mode: Literal["luma", "channel"] = "luma"
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: float | None = None
    solarize: float = 0.0
    solarize_threshold: float = 128.0
    skip: float = 0.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("flip", "jitter", "gray", "blur", "solarize", "skip"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("strength", "brightness", "contrast", "saturation"):
            check_range(name, getattr(self, name), 0.0, float("inf"))
        if self.gray_mode not in ("luma", "channel"):
            raise ConfigError(
                "unknown gray_mode", value=self.gray_mode, remedy="choose luma or channel"
            )
        check_range("hue", self.hue, 0.0, 0.5)
        check_range("hue * strength", self.hue * self.strength, 0.0, 0.5)
        check_bounds("scale", self.scale, 1.0)
        check_bounds("ratio", self.ratio)
        check_bounds("blur_sigma", self.blur_sigma)
        check_std(self.std)
        if self.resize is not None and min(self.resize) < self.size:
            raise ConfigError(
                "the resized frame is smaller than the crop",
                value=self.resize,
                remedy=f"give both sides of resize at least {self.size}",
            )

    @classmethod
    def moco_v1(cls, size: int = 224, **changes: Any) -> ContrastTransform:
        """MoCo v1: crop, grayscale, strong jitter always on, flip; no blur."""
        preset: dict[str, Any] = {"jitter": 1.0, "hue": 0.4, "gray_first": True, "blur": 0.0}
        return cls(size=size, **(preset | changes))

    @classmethod
    def moco_v2(cls, size: int = 224, **changes: Any) -> ContrastTransform:
        """MoCo v2 and CycleContrast."""
        return cls(size=size, **changes)

    @classmethod
    def simclr(
        cls,
        size: int = 224,
        strength: float = 1.0,
        impl: Literal["v1", "v2"] = "v2",
        **changes: Any,
    ) -> ContrastTransform:
        """SimCLR (arXiv 2002.05709, appendix A): bicubic crops, blur of 10 % of the size, [0, 1].

        Args:
            size: side of the view.
            strength: s, scales all four parts of the jitter (1 for ImageNet, 0.5 for CIFAR); at
                most 2.5.
            impl: ``"v1"`` shifts the brightness, ``"v2"`` scales it.
            changes: any other field.
        """
        preset: dict[str, Any] = {
            "scale": (0.08, 1.0),
            "interpolation": "bicubic",
            "strength": strength,
            "brightness": 0.8,
            "brightness_mode": "add" if impl == "v1" else "multiply",
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
            "blur_kernel": 0.1,
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }
        return cls(size=size, **(preset | changes))

    @classmethod
    def vfs_nc(cls, size: int = 224, **changes: Any) -> ContrastTransform:
        """VFS for label propagation: crop and flip, colours kept."""
        preset: dict[str, Any] = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}
        return cls(size=size, **(preset | changes))

    @classmethod
    def dual(cls, size: int = 112, weak: bool = False, **changes: Any) -> ContrastTransform:
        """DUAL (arXiv 2107.01194): no flip, no grayscale; to be drawn once a clip.

        Frames are scaled to 128 rows and 171 columns for a crop of 112, and in proportion for
        others. The published code hands (128, 171) to a function that wants columns first, so its
        frames are 171 high; we take what its relatives do. It draws the jitter by two coins of 0.8,
        which is one of 0.64.

        Args:
            size: side of the view.
            weak: leave jitter and blur out of every fifth clip (DUAL's first view).
            changes: any other field.
        """
        preset: dict[str, Any] = {
            "resize": (round(size * 128 / 112), round(size * 171 / 112)),
            "flip": 0.0,
            "jitter": 0.8 * 0.8,
            "brightness": 0.8,
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
            "gray": 0.0,
            "skip": 0.2 if weak else 0.0,
        }
        return cls(size=size, **(preset | changes))

    @classmethod
    def cstp(cls, size: int = 112, **changes: Any) -> ContrastTransform:
        """CSTP (arXiv 2112.08913): colours changed in 30 % of all draws; levels in [-1, 1]."""
        preset: dict[str, Any] = {
            "gray_mode": "channel",
            "skip": 0.7,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
        return cls(size=size, **(preset | changes))

    @property
    def aspect(self) -> float | None:
        """Width by height that every frame is scaled to; None where each keeps its own."""
        return None if self.resize is None else self.resize[1] / self.resize[0]

    def draw(
        self, keys: Keys, frames: int, width: NDArray[np.int64], height: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Parameters ``[b, frames, ...]`` for items of ``width x height`` pixels."""

        def chance(name: str, probability: float) -> NDArray[np.bool_]:
            return keys.uniform(name, frames) < probability

        def factor(name: str, reach: float) -> NDArray[np.float32]:
            reach *= self.strength
            low = max(0.0, 1.0 - reach)
            return keys.uniform(name, frames, low=low, high=1.0 + reach).astype(np.float32)

        def within(name: str, reach: float) -> NDArray[np.float32]:
            reach *= self.strength
            return keys.uniform(name, frames, low=-reach, high=reach).astype(np.float32)

        kept = ~chance("skip", self.skip)
        additive = self.brightness_mode == "add"
        sigma = keys.uniform("sigma", frames, low=self.blur_sigma[0], high=self.blur_sigma[1])
        channel = {}
        if self.gray_mode == "channel":
            channel["channel"] = keys.integers("channel", 3, frames)
        order = keys.words("order", frames * 4).reshape(len(keys), frames, 4)
        return {
            "box": self._draw_boxes(keys, frames, width, height),
            "flip": chance("flip", self.flip),
            "jitter": chance("jitter", self.jitter) & kept,
            "order": np.argsort(order, axis=-1, kind="stable"),
            "brightness": (within if additive else factor)("brightness", self.brightness),
            "contrast": factor("contrast", self.contrast),
            "saturation": factor("saturation", self.saturation),
            "hue": within("hue", self.hue),
            "gray": chance("gray", self.gray) & kept,
            **channel,
            "sigma": np.where(chance("blur", self.blur) & kept, sigma, 0.0),
            "solarize": chance("solarize", self.solarize) & kept,
        }

    def apply(
        self, frames: Frames, draw: Parameters, sizes: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Views ``float32 [b, t, 3, size, size]`` and maps ``float64 [b, t, 2, 3]``.

        Args:
            frames: 8-bit frames.
            draw: parameters from :meth:`draw`.
            sizes: ``int64 [b, 2]`` rows and columns of the frames that the boxes were drawn for;
                maps lead to their pixels, also where the frames given are smaller copies.
        """
        b, t = len(frames), frames[0].shape[0]
        boxes, maps = self.place(draw, sizes, frame_sizes(frames), t)
        flips = per_row(draw["flip"], b, t).reshape(b, t)
        levels = torch.empty(b, t, 3, self.size, self.size)
        for i, clip in enumerate(frames):
            if self.resize is None:
                crop = resize_boxes(clip, boxes[i], self.size, self.interpolation)
            else:
                small = resized(clip, *self.resize, self.interpolation)
                crop = cut_boxes(small, boxes[i], self.size)
            levels[i] = crop
            if flips[i].any():
                mirrored = torch.from_numpy(flips[i])
                levels[i, mirrored] = levels[i, mirrored].flip(-1)
        rows_of = {name: per_row(value, b, t) for name, value in draw.items()}
        flat = levels.flatten(0, 1)
        for rows in chunks(len(flat), flat[0].numel(), together=t):
            part = {name: value[rows] for name, value in rows_of.items()}
            flat[rows] = normalise(recolour(self, flat[rows], part), self.mean, self.std)
        return levels, maps

    def place(
        self, draw: Parameters, sizes: NDArray[np.int64], actual: NDArray[np.int64], t: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Boxes ``[b, 1 or t, 4]`` in frames of the ``actual`` sizes, and maps ``[b, t, 2, 3]``.

        With ``resize`` boxes are corners ``[b, 1 or t, 2]`` in the scaled frame. Maps lead to
        pixels of the sizes that were drawn for, also where frames are smaller copies.
        """
        boxes = draw["box"]
        if self.resize is None:
            maps = box_map(boxes, self.size)
            boxes = fit_boxes(boxes, sizes, actual)
        else:
            step = (sizes if len(sizes) else actual) / np.array(self.resize)
            y, x = (step[:, None, k] for k in range(2))
            top, left, side = boxes[..., 0] * y, boxes[..., 1] * x, self.size
            maps = crop_resize_map(top, left, side * y, side * x, side, side)
        maps = compose(maps, flip_map(draw["flip"], self.size))
        return boxes, np.repeat(maps, t, axis=1) if maps.shape[1] != t else maps

    def _draw_boxes(
        self, keys: Keys, frames: int, width: NDArray[np.int64], height: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        place = keys.uniform("place", frames, 2)
        if self.resize is not None:
            room = np.array(self.resize) - self.size + 1
            return np.floor(place * room).astype(np.int64)
        area = keys.uniform("area", frames, ATTEMPTS, low=self.scale[0], high=self.scale[1])
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        aspect = keys.uniform("aspect", frames, ATTEMPTS, low=float(low), high=float(high))
        return draw_boxes(area, aspect, place, width, height, self.ratio)
