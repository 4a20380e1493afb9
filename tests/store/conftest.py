from __future__ import annotations

import os
import shutil

import pytest
import torch

from rhyme.catalog import scan
from rhyme.encoders import InferencePlan, build_backbone, save_package
from rhyme.synthetic import WorldConfig, write_world

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Ten videos of two seconds, two to a group, and two encoder packages."""
    folder = tmp_path_factory.mktemp("store")
    config = WorldConfig(
        counts=(6, 2, 2), size=24, frames=16, sound=False, truth="labels", videos_per_group=2
    )
    write_world(config, folder / "data")
    plan = InferencePlan(size=24, resize=24)
    for name, seed in (("encoder", 0), ("other", 1)):
        save_package(folder / name, build_backbone("small", seed=seed), plan)
    return folder


@pytest.fixture(scope="session")
def catalog(made):
    return scan(made / "data", out=made / "data.catalog")


@pytest.fixture(scope="session")
def written(made, catalog, tmp_path_factory):
    """A finished store, only to be read."""
    from rhyme.store import write_store

    folder = tmp_path_factory.mktemp("written") / "s.store"
    write_store(folder, made / "encoder", catalog, every=0.5)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the finished store, to be harmed."""
    shutil.copytree(written, tmp_path / "s.store")
    return tmp_path / "s.store"


@pytest.fixture
def data(made, tmp_path):
    """A copy of the videos, to be changed."""
    shutil.copytree(made / "data", tmp_path / "data")
    return tmp_path / "data"
