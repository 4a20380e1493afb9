from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class FakeFacts:
    id: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    fps: np.ndarray
    frames: np.ndarray
    width: np.ndarray
    height: np.ndarray
    group: np.ndarray

    def rows(self, rows) -> FakeFacts:
        return FakeFacts(**{name: column[rows] for name, column in vars(self).items()})


@pytest.fixture
def make_facts():
    def make(b=8, frames=16, fps=8.0, start=0.0, width=32, height=24) -> FakeFacts:
        count = np.broadcast_to(np.asarray(frames), (b,)).astype(np.int64)
        rate = np.broadcast_to(np.asarray(fps), (b,)).astype(np.float64)
        begin = np.broadcast_to(np.asarray(start), (b,)).astype(np.float64)
        return FakeFacts(
            id=np.arange(b, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15),
            start=begin.copy(),
            stop=begin + count / np.where(rate > 0, rate, 1.0),
            fps=rate.copy(),
            frames=count.copy(),
            width=np.full(b, width, dtype=np.int64),
            height=np.full(b, height, dtype=np.int64),
            group=np.arange(b, dtype=np.int64),
        )

    return make
