"""What is trained on: the items that can be read; and what a guess among their classes scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhyme.catalog import Catalog, scan
from rhyme.evaluation import evaluate
from rhyme.evaluation.chance import majority_share


@pytest.mark.parametrize(
    ("train", "share"),
    [
        ([0, 0, 1], 0.5),
        ([0, 1, 1], 0.25),
        ([0, 0, 1, 1], 0.375),
        ([0, 0, 1, 1, 2, 2], 1 / 3),
        ([0, 3], 0.25),
    ],
)
def test_chance_is_a_mean_over_classes_that_are_equally_frequent(
    train: list[int], share: float
) -> None:
    test = np.array([0, 0, 1, 2])
    assert majority_share(np.array(train), test) == pytest.approx(share)
    renamed = np.array([3, 2, 1, 0])  # in which order the classes stand says nothing
    assert majority_share(renamed[train], renamed[test]) == pytest.approx(share)


def pictures(root: Path, counts: dict[str, tuple[int, int]]) -> Catalog:
    """So many training and test pictures of each class."""
    rng = np.random.default_rng(0)
    rows = [("path", "label", "split")]
    for label, sides in counts.items():
        for split, count in zip(("train", "test"), sides, strict=True):
            for k in range(count):
                path = f"{label}_{split}{k}.png"
                Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(root / path)
                rows.append((path, label, split))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return scan(root)


def test_a_damaged_item_is_not_counted_and_leaves_no_batch_of_one(world, tmp_path) -> None:
    """34 training items, of which 33 can be read, in batches of 16: batch norm needs two rows."""
    catalog = pictures(tmp_path, {"a": (16, 2), "b": (18, 6)})
    (tmp_path / "b_train7.png").write_bytes(b"no picture" * 30)
    done = evaluate(
        world[1],
        catalog,
        protocols=("linear_sgd",),
        settings={"linear_sgd": {"preset": "coclr", "epochs": 2, "milestones": [1]}},
        untrained_seeds=(),
    )
    assert not done.skipped
    (row,) = done.results
    assert (row.details["fitted_items"], row.details["batch_size"]) == (33, 16)
    assert row.chance == 6 / 8
