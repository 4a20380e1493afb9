"""The colour changes of :class:`ContrastTransform` in their drawn order, row by row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from rhyme.views import photometric as ops
from rhyme.views.blur import Blur, blur
from rhyme.views.resample import upload
from rhyme.views.transforms import Parameters, on_rows

if TYPE_CHECKING:
    from rhyme.views.contrast import ContrastTransform

__all__ = ["recolour"]

_REACH = 4.0  # half width of a blur in standard deviations


def recolour(
    transform: ContrastTransform, levels: Tensor, draw: Parameters, blurred: Blur = blur
) -> Tensor:
    """All but crop and normalisation, on any device; may work in place.

    Args:
        transform: the options.
        levels: ``float32 [m, 3, h, w]``, 0 .. 255.
        draw: parameters of each row, ``[m, ...]``.
        blurred: the blur to use.
    """

    def colourless(x: Tensor, rows: Tensor) -> Tensor:
        if transform.gray_mode == "luma":
            return ops.grayscale(x)
        return ops.one_channel(x, upload(draw["channel"], x.device)[rows])

    gray = partial(on_rows, rows=draw["gray"], operation=colourless)
    levels = gray(levels) if transform.gray_first else levels
    parts = {
        "brightness": ops.add_brightness if transform.brightness_mode == "add" else ops.brightness,
        "contrast": ops.contrast,
        "saturation": ops.saturation,
        "hue": ops.hue,
    }
    used = {n: (k, part) for k, (n, part) in enumerate(parts.items()) if getattr(transform, n) > 0}
    values = {name: upload(draw[name], levels.device) for name in used}
    for turn in range(len(parts)):
        for name, (number, part) in used.items():
            rows, value = draw["jitter"] & (draw["order"][:, turn] == number), values[name]
            levels = on_rows(levels, rows, lambda x, r, f=part, v=value: f(x, v[r]))
    levels = levels if transform.gray_first else gray(levels)
    wide = draw["sigma"] > 0
    sigma = draw["sigma"][wide]
    share = transform.blur_kernel
    kernel = np.inf if share is None else int(share * transform.size / 2)
    radius = np.minimum(np.ceil(_REACH * sigma), kernel).astype(np.int64)
    levels = on_rows(levels, wide, lambda x, _: blurred(x, sigma, radius))
    threshold = transform.solarize_threshold
    return on_rows(levels, draw["solarize"], lambda x, _: ops.solarize(x, threshold))
