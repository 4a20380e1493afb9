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
from rhyme.views.transforms import Parameters, Triple, check_range, check_size, check_std, per_row

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
        squares, square_maps = self._squares(frames)
        b, t = squares.shape[:2]
        rows = b * t
        part = {name: per_row(value, b, t) for name, value in draw.items()}
        crops = self._cut(squares.reshape(rows, 3, self.resize, self.resize), part)
        corner = np.concatenate([part["offset"], np.full((rows, 2), self.size)], axis=1)
        maps = compose(box_map(corner, self.size), flip_map(part["flip"], self.size))
        maps = maps.reshape(b, t, 2, 3)
        if square_maps is not None:
            maps = compose(square_maps[:, None], maps)
        return self._colour(crops, part).reshape(b, t, 3, self.size, self.size), maps

    def _squares(self, frames: Frames) -> tuple[Tensor, NDArray[np.float64] | None]:
        """Frames as ``uint8 [b, t, 3, resize, resize]``, and the maps where they were changed."""
        wanted = (self.resize, self.resize)
        if isinstance(frames, Tensor) and frames.shape[-2:] == wanted:
            return frames, None
        if all(clip.shape[-2:] == wanted for clip in frames):
            return torch.stack(list(frames)), None
        made = [
            centre_square(clip, self.resize, self.resize, self.interpolation) for clip in frames
        ]
        return torch.stack([clip for clip, _ in made]), np.stack([box for _, box in made])

    def _cut(self, squares: Tensor, draw: Parameters) -> NDArray[np.uint8]:
        """``uint8 [rows, 3, size, size]``: one strided copy a row, mirrored while copying."""
        source = squares.numpy()
        out = np.empty((len(source), 3, self.size, self.size), dtype=np.uint8)
        places = draw["offset"].tolist()
        for row, ((top, left), mirrored) in enumerate(
            zip(places, draw["flip"].tolist(), strict=True)
        ):
            crop = source[row, :, top : top + self.size, left : left + self.size]
            out[row] = crop[..., ::-1] if mirrored else crop
        return out

    def _colour(self, crops: NDArray[np.uint8], draw: Parameters) -> Tensor:
        """One affine function of the levels a row and channel, made of all colour changes."""
        sums = crops.sum(axis=(2, 3), dtype=np.int64)  # whole numbers: exact in any order
        mean = luma(torch.from_numpy(sums.astype(np.float64))[..., None, None]).numpy()
        mean = mean[:, 0, 0, 0] / (255.0 * self.size * self.size)
        contrast = draw["contrast"].astype(np.float64)
        gain = draw["gain"].astype(np.float64) * draw["brightness"].astype(np.float64)[:, None]
        scale = gain * contrast[:, None]
        shift = gain * ((1.0 - contrast) * mean)[:, None]
        std, centre = np.array(self.std), np.array(self.mean)
        gray = draw["gray"]
        # Gray rows take their luma between the colour changes and the normalisation.
        plain = ~gray[:, None]
        scale = np.where(plain, scale / std, scale) / 255.0
        shift = np.where(plain, (shift - centre) / std, shift)
        levels = torch.from_numpy(crops).float()
        levels.mul_(_column(scale)).add_(_column(shift))
        if gray.any():
            rows = torch.from_numpy(np.flatnonzero(gray))
            shades = luma(levels[rows]) - _column(centre[None])
            levels[rows] = shades * _column(1.0 / std[None])
        return levels


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(*values.shape, 1, 1)
