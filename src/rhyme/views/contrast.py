"""The augmentations of the contrastive family: MoCo, SimCLR, VFS and their relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.views.colour import recolour
from rhyme.views.crops import (
    ATTEMPTS,
    Frames,
    Interpolation,
    box_map,
    draw_boxes,
    fit_boxes,
    frame_sizes,
    resize_boxes,
)
from rhyme.views.geometry import compose, flip_map
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

    Order: random resized crop, flip, colour jitter (its four parts in random order), grayscale,
    blur, solarise, normalise. The defaults are MoCo v2's (arXiv 2003.04297); see the class methods
    for the others.

    Attributes:
        size: side of the view in pixels.
        scale: bounds of the crop's share of the frame's area.
        ratio: bounds of the crop's width / height.
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
        blur: probability of Gaussian blur.
        blur_sigma: bounds of its standard deviation in pixels.
        blur_kernel: width of the kernel as a share of ``size``; None takes all that matters.
        solarize: probability of solarisation (BYOL's second view).
        solarize_threshold: 8-bit level from which on levels are inverted.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel, on the [0, 1] scale.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
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
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: float | None = None
    solarize: float = 0.0
    solarize_threshold: float = 128.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("flip", "jitter", "gray", "blur", "solarize"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("strength", "brightness", "contrast", "saturation"):
            check_range(name, getattr(self, name), 0.0, float("inf"))
        check_range("hue", self.hue, 0.0, 0.5)
        check_range("hue * strength", self.hue * self.strength, 0.0, 0.5)
        check_bounds("scale", self.scale, 1.0)
        check_bounds("ratio", self.ratio)
        check_bounds("blur_sigma", self.blur_sigma)
        check_std(self.std)

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

        area = keys.uniform("area", frames, ATTEMPTS, low=self.scale[0], high=self.scale[1])
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        aspect = keys.uniform("aspect", frames, ATTEMPTS, low=float(low), high=float(high))
        place = keys.uniform("place", frames, 2)
        additive = self.brightness_mode == "add"
        sigma = keys.uniform("sigma", frames, low=self.blur_sigma[0], high=self.blur_sigma[1])
        order = keys.words("order", frames * 4).reshape(len(keys), frames, 4)
        return {
            "box": draw_boxes(area, aspect, place, width, height, self.ratio),
            "flip": chance("flip", self.flip),
            "jitter": chance("jitter", self.jitter),
            "order": np.argsort(order, axis=-1, kind="stable"),
            "brightness": (within if additive else factor)("brightness", self.brightness),
            "contrast": factor("contrast", self.contrast),
            "saturation": factor("saturation", self.saturation),
            "hue": within("hue", self.hue),
            "gray": chance("gray", self.gray),
            "sigma": np.where(chance("blur", self.blur), sigma, 0.0),
            "solarize": chance("solarize", self.solarize),
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
            crop = resize_boxes(clip, boxes[i], self.size, self.interpolation)
            for k in range(t):
                levels[i, k] = crop[k].flip(-1) if flips[i, k] else crop[k]
        rows_of = {name: per_row(value, b, t) for name, value in draw.items()}
        flat = levels.flatten(0, 1)
        for rows in chunks(len(flat), flat[0].numel()):
            part = {name: value[rows] for name, value in rows_of.items()}
            flat[rows] = normalise(recolour(self, flat[rows], part), self.mean, self.std)
        return levels, maps

    def place(
        self, draw: Parameters, sizes: NDArray[np.int64], actual: NDArray[np.int64], t: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Boxes ``[b, 1 or t, 4]`` in frames of the ``actual`` sizes, and maps ``[b, t, 2, 3]``.

        Maps lead to pixels of the sizes that were drawn for, also where frames are smaller copies.
        """
        boxes = fit_boxes(draw["box"], sizes, actual)
        maps = compose(box_map(draw["box"], self.size), flip_map(draw["flip"], self.size))
        return boxes, np.repeat(maps, t, axis=1) if maps.shape[1] != t else maps
