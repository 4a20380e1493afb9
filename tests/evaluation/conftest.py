from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from rhyme.catalog import Catalog, scan
from rhyme.catalog.schema import build_table, stable_id
from rhyme.encoders import InferencePlan, build_backbone, save_package
from rhyme.evaluation import SplitData
from rhyme.synthetic import WorldConfig, write_world
from rhyme.tasks import FeatureTable

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def rows_catalog(groups, *, splits=None, **labels):
    """A catalog of made-up rows: no file is ever opened."""
    n = len(groups)
    rows = [
        {
            "id": stable_id(f"{i}.mp4", 0.0),
            "path": f"{i}.mp4",
            "kind": "video",
            "start": 0.0,
            "stop": 1.0,
            "fps": 8.0,
            "frames": 8,
            "width": 24,
            "height": 24,
            "audio": False,
            "group": str(groups[i]),
            "split": None if splits is None else splits[i],
            "status": "ok",
            "bytes": 1,
            "mtime_ns": 1,
            "spacing": 0.04,
            "files": [],
            **{f"label:{name}": values[i] for name, values in labels.items()},
        }
        for i in range(n)
    ]
    main = next(iter(labels), None)
    meta = {"version": 1, "root": "made_up", "label_column": main, "quarantine": []}
    return Catalog(build_table(rows, list(labels), [], meta))


@pytest.fixture(name="rows_catalog")
def rows_catalog_fixture():
    return rows_catalog


def table_of(features, groups):
    features = np.asarray(features, dtype=np.float32)
    n, f, _ = features.shape
    return FeatureTable(
        features=features,
        times=np.tile(np.arange(f, dtype=np.float64), (n, 1)),
        index=np.arange(n),
        ids=np.arange(n, dtype=np.uint64),
        group=np.asarray(groups, dtype=np.int64),
    )


def separable(seed=0, counts=(30, 15, 18), noise=0.4, d=8, frames=4):
    """Three classes; every item its own group; class centre, item offset, frame noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, d))
    parts, labels, first = [], [], 0
    for count in counts:
        y = np.arange(count) % 3
        x = centres[y][:, None] + noise * rng.normal(size=(count, 1, d))
        x = x + 0.3 * rng.normal(size=(count, frames, d))
        parts.append(table_of(x, first + np.arange(count)))
        labels.append(y)
        first += count
    return SplitData(
        train=parts[0],
        val=parts[1],
        test=parts[2],
        labels=dict(zip(("train", "val", "test"), labels, strict=True)),
        classes=("a", "b", "c"),
    )


@pytest.fixture
def split():
    return separable()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny generated world, its catalog and an encoder package that was never trained."""
    folder = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        counts=(30, 10, 14), size=24, frames=8, sound=False, truth="labels", seed=3
    )
    write_world(config, folder / "data")
    catalog = scan(folder / "data", out=folder / "data.catalog")
    save_package(
        folder / "encoder",
        build_backbone("small", seed=11),
        InferencePlan(size=24, resize=24),
        card={"system": "made_up", "seed": 1},
    )
    return catalog, folder / "encoder"
