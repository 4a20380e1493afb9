"""Views of a batch made in groups of items, so that few decoded frames are held at a time.

A clip of 16 frames of a film in full HD takes 100 MB before it is cut to size; a batch of such
would take gigabytes. What an item's views are does not depend on its company, so groups give the
same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from rhyme.loading.decode import HELD
from rhyme.views import ClipPixels, Draws, View, ViewPlan

__all__ = ["Decoded", "Gathering", "stacked"]

Decoded = Mapping[str, tuple[Tensor, np.ndarray]]
"""Frames ``uint8 [t, 3, h, w]`` of an item and seconds ``[t]`` at which they are shown, by clip."""


class Gathering:
    """Takes decoded items in any order, and gives the views of their batch.

    Args:
        plan: the views.
        items: of the batch.
        keep: hold all decoded frames and make no views: somebody else will.
    """

    def __init__(self, plan: ViewPlan, items: int, *, keep: bool = False) -> None:
        self.decoded: list[Decoded] = [{}] * items
        self._plan, self._keep = plan, keep
        self._waiting: list[tuple[int, int]] = []  # places in the batch and in the draws
        self._bytes = 0
        self._views: dict[str, View] = {}

    def add(self, item: int, place: int, decoded: Decoded, draws: Draws) -> None:
        """Take an item.

        Args:
            item: its place in the batch.
            place: its place in the draws.
            decoded: its frames.
            draws: of this item and others; equal ones until the next ``flush``.
        """
        self.decoded[item] = decoded
        self._waiting.append((item, place))
        self._bytes += sum(frames.nbytes for frames, _ in decoded.values())
        if self._bytes > HELD:
            self.flush(draws)

    def flush(self, draws: Draws) -> None:
        """Make the views of what is held, and let its frames go."""
        if self._keep or not self._waiting:
            return
        rows, places = np.array(self._waiting).T
        pixels = stacked(self._plan, [self.decoded[item] for item in rows])
        views = self._plan.apply(pixels, draws.rows(places))
        if np.array_equal(rows, np.arange(len(self.decoded))):
            self._views = views
        else:
            for name, view in views.items():
                self._put(name, view, torch.from_numpy(rows.copy()))
        for item in rows:
            self.decoded[item] = {}
        self._waiting, self._bytes = [], 0

    def views(self) -> dict[str, View]:
        """Views of all items, after the last flush."""
        return self._views

    def _put(self, name: str, view: View, rows: Tensor) -> None:
        tensors = {f.name: getattr(view, f.name) for f in fields(view)}
        tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
        if name not in self._views:
            made = {k: v.new_empty(len(self.decoded), *v.shape[1:]) for k, v in tensors.items()}
            self._views[name] = replace(view, **made)
        for key, value in tensors.items():
            getattr(self._views[name], key)[rows] = value


def stacked(plan: ViewPlan, decoded: list[Decoded]) -> dict[str, ClipPixels]:
    """Frames and times of all items, by clip."""
    return {
        name: ClipPixels(
            frames=[item[name][0] for item in decoded],
            times=np.stack([item[name][1] for item in decoded]),
        )
        for name in plan.clips
    }
