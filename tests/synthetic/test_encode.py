"""The bytes of a file depend on its pictures only, whatever lies in memory beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rhyme.synthetic.encode import encode

Bytes = NDArray[np.uint8]


@pytest.mark.parametrize("size", [30, 66])
def test_the_same_pictures_give_the_same_bytes_many_times_over(size: int, tmp_path: Path) -> None:
    """With x264's macroblock tree, 2 to 67 of 150 such files differ on a machine with AVX-512."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    times = np.arange(40)[:, None, None]
    waves = (np.sin((columns + 3 * times) / 5), np.cos((rows - 2 * times) / 4))
    smooth = np.stack([*waves, np.sin((rows + columns + times) / 7)], axis=-1)
    noise = rng.integers(0, 8, smooth.shape)
    film = (120 * (smooth + 1) + noise).astype(np.uint8)
    files: set[str] = set()
    memory: list[Bytes] = []
    for number in range(60):
        path = tmp_path / f"{number}.mp4"
        encode(path, used(film, memory, rng), size=size, rate=Fraction(8), gop=8)
        files.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(files) == 1


def used(film: Bytes, memory: list[Bytes], rng: np.random.Generator) -> Iterator[Bytes]:
    """The pictures, with memory taken, filled and let go between them."""
    for picture in film:
        yield picture[None]
        memory.append(np.full(rng.integers(100, 200_000), rng.integers(256), np.uint8))
        if len(memory) > 50:
            del memory[::2]
