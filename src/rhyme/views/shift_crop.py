"""The cheap augmentation for small pictures: shifted crops without resampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError
from rhyme.views.crops import Frames, Interpolation, box_map, centre_square
from rhyme.views.geometry import compose, flip_map
from rhyme.views.keys import Keys
from rhyme.views.photometric import luma
from rhyme.views.resample import upload
from rhyme.views.transforms import (
    Parameters,
    Triple,
    check_range,
    check_size,
    check_std,
    display_of,
    on_rows,
    per_row,
)

__all__ = ["ShiftCropTransform"]


@dataclass(frozen=True, kw_only=True)
class ShiftCropTransform:
    """Crop at a whole-pixel shift, flip, linear colour changes, grayscale, normalise.

    Made for frames that are kept in memory at ``resize`` pixels: nothing is resampled then, and the
    colour part is one multiplication and one addition a pixel. Colours are not clipped.

    Attributes:
        size: side of the view in pixels.
        resize: side of the frame that is cropped from; frames of another size are first scaled
            (shorter side) and cut to this central square.
        flip: probability of a horizontal flip.
        contrast: factor on the distance from the crop's mean luma, within 1 ± this.
        brightness: factor within 1 ± this.
        channel_gain: factor of each channel, within 1 ± this.
        gray: probability of grayscale.
        interpolation: of the resize, where one is needed.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel, on the [0, 1] scale.
    """

    size: int = 24
    resize: int = 30
    flip: float = 0.5
    contrast: float = 0.4
    brightness: float = 0.4
    channel_gain: float = 0.2
    gray: float = 0.2
    interpolation: Interpolation = "bilinear"
    mean: Triple = (0.45, 0.45, 0.45)
    std: Triple = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        check_size(self.size)
        check_std(self.std)
        for name in ("flip", "gray", "contrast", "brightness", "channel_gain"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        if self.resize < self.size:
            raise ConfigError(
                "the frame is smaller than the crop",
                value=self.resize,
                remedy=f"give resize >= {self.size}",
            )

    def draw(
        self, keys: Keys, frames: int, width: NDArray[np.int64], height: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Parameters ``[b, frames, ...]``; they do not depend on the size of the items."""

        def factor(name: str, reach: float, *shape: int) -> NDArray[np.float32]:
            drawn = keys.uniform(name, frames, *shape, low=1.0 - reach, high=1.0 + reach)
            return drawn.astype(np.float32)

        return {
            "offset": keys.integers("offset", self.resize - self.size + 1, frames, 2),
            "flip": keys.uniform("flip", frames) < self.flip,
            "contrast": factor("contrast", self.contrast),
            "brightness": factor("brightness", self.brightness),
            "gain": factor("gain", self.channel_gain, 3),
            "gray": keys.uniform("gray", frames) < self.gray,
        }

    def apply(
        self, frames: Frames, draw: Parameters, sizes: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Views ``float32 [b, t, 3, size, size]`` and maps ``float64 [b, t, 2, 3]``."""
        squares, square_maps = self._squares(frames, sizes)
        b, t = squares.shape[:2]
        crops = self._cut(squares, draw)
        part = {name: per_row(value, b, t) for name, value in draw.items()}
        maps = self.place(draw, t)
        if square_maps is not None:
            maps = compose(square_maps[:, None], maps)
        return self.colour(torch.from_numpy(crops), part).reshape(b, t, *crops.shape[1:]), maps

    def place(self, draw: Parameters, t: int) -> NDArray[np.float64]:
        """Maps ``[b, t, 2, 3]`` from view pixels to those of the square that is cropped from."""
        corner = draw["offset"]
        boxes = np.concatenate([corner, np.full_like(corner, self.size)], axis=-1)
        maps = compose(box_map(boxes, self.size), flip_map(draw["flip"], self.size))
        return np.repeat(maps, t, axis=1) if maps.shape[1] != t else maps

    def _squares(
        self, frames: Frames, sizes: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float64] | None]:
        """Frames as ``uint8 [b, t, 3, resize, resize]``, and the maps where they were changed."""
        wanted = (self.resize, self.resize)
        plain = bool((sizes == self.resize).all())
        if plain and isinstance(frames, Tensor) and frames.shape[-2:] == wanted:
            return frames, None
        if plain and all(clip.shape[-2:] == wanted for clip in frames):
            return torch.stack(list(frames)), None
        made = [
            centre_square(clip, self.resize, self.resize, self.interpolation, display_of(sizes, i))
            for i, clip in enumerate(frames)
        ]
        return torch.stack([clip for clip, _ in made]), np.stack([box for _, box in made])

    def _cut(self, squares: Tensor, draw: Parameters) -> NDArray[np.uint8]:
        """``uint8 [b * t, 3, size, size]``: a strided copy a draw, mirrored while copying."""
        b, t, side = *squares.shape[:2], self.size
        drawn = draw["flip"].size  # b, or b * t
        source = squares.numpy().reshape(drawn, b * t // drawn, *squares.shape[2:])
        out = np.empty((*source.shape[:3], side, side), dtype=np.uint8)
        places = draw["offset"].reshape(drawn, 2).tolist()
        for row, ((top, left), mirrored) in enumerate(
            zip(places, draw["flip"].reshape(drawn).tolist(), strict=True)
        ):
            crop = source[row, ..., top : top + side, left : left + side]
            out[row] = crop[..., ::-1] if mirrored else crop
        return out.reshape(b * t, *out.shape[2:])

    def colour(self, crops: Tensor, draw: Parameters) -> Tensor:
        """One affine function of the levels a row and channel, made of all colour changes.

        Args:
            crops: ``uint8 [m, 3, size, size]`` on any device.
            draw: parameters of each row, ``[m, ...]``.

        Returns:
            ``float32 [m, 3, size, size]``, normalised.
        """
        device = crops.device
        levels, full = crops.float(), 255.0 * self.size * self.size
        # Whole numbers add up exactly in any order: in float32 up to 2**24, in float64 up to 2**53.
        exact = torch.float32 if full <= 2**24 else torch.float64
        sums = levels.sum(dim=(2, 3), dtype=exact).double()
        mean = luma(sums[..., None, None])[:, :, 0, 0] / full
        bright, gain = draw["brightness"].astype(np.float64), draw["gain"].astype(np.float64)
        contrast = draw["contrast"].astype(np.float64)[:, None]
        gain = gain * bright[:, None]
        shift = upload(gain, device) * (upload(1.0 - contrast, device) * mean)
        scale, std, centre = gain * contrast, np.array(self.std), np.array(self.mean)
        # Gray rows take their luma between the colour changes and the normalisation.
        gray = draw["gray"]
        plain = ~gray[:, None]
        scale = np.where(plain, scale / std, scale) / 255.0
        shift = (shift - upload(np.where(plain, centre, 0.0), device)) / upload(
            np.where(plain, std, 1.0), device
        )
        levels = levels.mul_(_column(upload(scale, device))).add_(_column(shift))
        middle, spread = (_column(upload(v[None], device)) for v in (centre, 1.0 / std))
        return on_rows(levels, gray, lambda x, _: (luma(x) - middle) * spread)


def _column(values: Tensor) -> Tensor:
    return values.float().reshape(*values.shape, 1, 1)
