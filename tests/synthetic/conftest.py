from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rhyme.synthetic import POOL, VideoSpec, WorldConfig, draw_video, write_world


@pytest.fixture(scope="session")
def many_specs() -> list[VideoSpec]:
    return [draw_video(11, POOL, i) for i in range(4000)]


@pytest.fixture(scope="session")
def small_config() -> WorldConfig:
    return WorldConfig(videos=10, seed=5, size=30, untrimmed=5)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory, small_config: WorldConfig) -> Path:
    root = tmp_path_factory.mktemp("worlds") / "small"
    write_world(small_config, root)
    return root


@pytest.fixture
def find() -> Callable[..., VideoSpec]:
    """The first video that has the given values of attributes."""

    def search(**wanted: object) -> VideoSpec:
        for i in range(2000):
            spec = draw_video(2, POOL, i)
            if all(getattr(spec, k) == v for k, v in wanted.items()):
                return spec
        raise LookupError(wanted)

    return search


@pytest.fixture
def decode() -> Callable[[Path], NDArray[np.uint8]]:
    def read(path: Path) -> NDArray[np.uint8]:
        with av.open(str(path)) as container:
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])

    return read
