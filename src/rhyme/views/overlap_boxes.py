"""Pairs of crops of one size whose areas overlap by a drawn rate (CSTP).

A pair is a size ``(w, h)``, the size of what both share ``(s_w, s_h)`` with ``s_w s_h = γ w h``,
and a place of the box around both, which has ``2w − s_w`` columns and ``2h − s_h`` rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rhyme.views.crops import ATTEMPTS, draw_boxes
from rhyme.views.facts import Facts
from rhyme.views.keys import Keys

if TYPE_CHECKING:
    from rhyme.views.overlap import Overlap

__all__ = ["label_first_boxes", "released_boxes", "turned_back"]

_REDRAWS = 64  # proposals of the released sampler; the full overlap, one in five, always fits
_NEAR = np.array([(a, b, d) for a in (0, 1) for b in (0, 1) for d in (-2, -1, 0, 1, 2)])

Made = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Spatial labels ``int64 [b]``, and boxes ``int64 [b, 2, 4]``: top, left, rows, columns."""


def label_first_boxes(rule: Overlap, facts: Facts, keys: Keys, turns: NDArray[np.int64]) -> Made:
    """A uniform label, then crops for it, in the coordinates of the upright frame.

    Of ten proposed sizes the first is taken with which the box around both crops fits into the
    frame; if none does, the first is shrunk until it fits. Sizes are whole pixels, chosen so that
    the overlap misses its rate by as little as whole pixels allow.
    """
    full = np.stack([facts.width, facts.height], axis=1).astype(np.float64)
    label = keys.integers("spatial", len(rule.rates))
    rates = np.array(rule.rates)
    rate = rates[label][:, None]
    area = keys.uniform("area", ATTEMPTS, low=rule.scale[0], high=rule.scale[1])
    low, high = (float(v) for v in np.log(rule.ratio))
    aspect = np.exp(keys.uniform("aspect", ATTEMPTS, low=low, high=high))
    spread = keys.uniform("spread", ATTEMPTS)
    target = area * full.prod(axis=1, keepdims=True)
    size = np.stack([np.sqrt(target * aspect), np.sqrt(target / aspect)], axis=-1)
    around = size * (2.0 - _shared(rates.min() if rule.level_zoom else rate, spread))
    room = (full[:, None] / around).min(axis=-1)
    first = (room >= 1.0).argmax(axis=1)
    rows = np.arange(len(label))
    size = size[rows, first] * np.minimum(room[rows, first], 1.0)[:, None]
    share = _shared(rate, spread)[rows, first]
    whole, shared = _whole(size, share, rate[:, 0], full)
    return label, _placed(whole, shared, full, keys)


def _shared(rate: NDArray[np.float64] | float, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares ``[b, n, 2]`` of width and height that both crops have, whose product is the rate."""
    width = rate + spread * (1.0 - rate)
    return np.stack([width, rate / width], axis=-1)


def _whole(
    size: NDArray[np.float64],
    share: NDArray[np.float64],
    rate: NDArray[np.float64],
    full: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whole pixels for size and shared part, ``[b, 2]`` each: of those that fit, the nearest."""
    base = np.clip(np.floor(size + 1e-9), 1.0, full)
    tried = np.maximum(base[:, None] - _NEAR[None, :, :2], 1.0)
    width = np.rint(tried[..., 0] * share[:, None, 0]) + _NEAR[None, :, 2]
    width = np.clip(width, 1.0, tried[..., 0])
    target = rate[:, None] * tried.prod(axis=-1)
    height = np.clip(np.rint(target / width), 1.0, tried[..., 1])
    shared = np.stack([width, height], axis=-1)
    miss = np.abs(shared.prod(axis=-1) - target) / target
    outside = (2.0 * tried - shared > full[:, None]).any(axis=-1)
    best = (miss + 1e-9 * np.arange(len(_NEAR)) + 10.0 * outside).argmin(axis=1)
    rows = np.arange(len(size))
    return tried[rows, best], shared[rows, best]


def _placed(
    size: NDArray[np.float64], shared: NDArray[np.float64], full: NDArray[np.float64], keys: Keys
) -> NDArray[np.int64]:
    """Boxes of both crops, somewhere in the frame, the second towards any of four corners."""
    room = np.maximum(full - (2.0 * size - shared), 0.0)
    start = np.floor(keys.uniform("place", 2) * (room + 1.0))
    second = keys.uniform("corner", 2) < 0.5  # whether the second crop is the further one
    away = np.minimum(size - shared, full - size)
    corners = np.stack([start + away * ~second, start + away * second], axis=1)
    boxes = np.concatenate([corners[..., ::-1], np.stack([size, size], axis=1)[..., ::-1]], axis=-1)
    return boxes.astype(np.int64)


def released_boxes(rule: Overlap, facts: Facts, keys: Keys, turns: NDArray[np.int64]) -> Made:
    """The published draw: label, corner and shift anew until the second crop is inside.

    The first crop stays, so that rates at which a second one seldom fits become rare. Both crops
    are drawn as if in one frame, but lie in frames that were turned before, each by its own
    quarters: where these differ, the overlap in the scene is not that of the label. Two frames of
    different shape have their common part to lie in.
    """
    upright = np.stack([facts.width, facts.height], axis=1).astype(np.int64)
    odd = (turns % 2 == 1)[..., None]
    turned = np.where(odd, upright[:, None, ::-1], upright[:, None])
    common = turned.min(axis=1)
    area = keys.uniform("area", 1, ATTEMPTS, low=rule.scale[0], high=rule.scale[1])
    low, high = (float(v) for v in np.log(rule.ratio))
    aspect = keys.uniform("aspect", 1, ATTEMPTS, low=low, high=high)
    place = keys.uniform("place", 1, 2)
    box = draw_boxes(area, aspect, place, common[:, 0], common[:, 1], rule.ratio)[:, 0]
    y, x, h, w = (box[:, k, None] for k in range(4))
    label = keys.integers("spatial", len(rule.rates), _REDRAWS)
    rate = np.array(rule.rates)[label]
    low_width = np.maximum(np.floor(rate * w + 1e-9), 1)
    width = low_width + np.floor(keys.uniform("spread", _REDRAWS) * (w - low_width + 1))
    height = np.minimum(np.floor(rate * w * h / width + 1e-9), h)
    side = np.where(keys.uniform("corner", 2, _REDRAWS) < 0.5, -1, 1)
    x2, y2 = x + side[:, 0] * (w - width), y + side[:, 1] * (h - height)
    wide, tall = common[:, :1], common[:, 1:]
    inside = (x2 >= 0) & (y2 >= 0) & (x2 + w <= wide) & (y2 + h <= tall)
    rows, found = np.arange(len(box)), inside.argmax(axis=1)
    good = inside[rows, found]
    chosen = np.where(good, label[rows, found], 0)
    second = np.stack([y2[rows, found], x2[rows, found]], axis=1)
    second = np.where(good[:, None], second, box[:, :2])
    pair = np.stack([box, np.concatenate([second, box[:, 2:]], axis=1)], axis=1).astype(np.int64)
    return chosen, turned_back(pair, turns, upright)


def turned_back(
    boxes: NDArray[np.int64], turns: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Boxes in frames that were turned counter-clockwise, as boxes in the upright frames.

    Args:
        boxes: ``[b, v, 4]`` top, left, rows, columns.
        turns: ``[b, v]`` quarter turns.
        size: ``[b, 2]`` columns and rows of the upright frames.
    """
    y, x, h, w = np.moveaxis(boxes, -1, 0)
    wide, tall = size[:, None, 0], size[:, None, 1]
    cases = [
        (y, x, h, w),
        (x, wide - y - h, w, h),
        (tall - y - h, wide - x - w, h, w),
        (tall - x - w, y, w, h),
    ]
    return np.choose(turns[..., None] % 4, [np.stack(case, axis=-1) for case in cases])
