"""Real clips: folds by person, evaluated and searched (the folder is named by RHYME_DATA)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rhyme.catalog import scan
from rhyme.encoders import InferencePlan, build_backbone, save_package
from rhyme.evaluation import evaluate, fold_splits, make_splits


@pytest.fixture(scope="module")
def weizmann():
    folder = os.environ.get("RHYME_DATA")
    if folder is None or not (Path(folder) / "action/weizmann4_64px").is_dir():
        pytest.skip("set RHYME_DATA to the folder of real data")
    return Path(folder) / "action/weizmann4_64px"


def test_folds_by_person_keep_persons_apart(weizmann, tmp_path):
    catalog = scan(
        weizmann,
        out=tmp_path / "c.catalog",
        labels=str(weizmann / "labels.csv"),
        label_column="label",
        group_column="person",
    )
    split = fold_splits(catalog, "person", test_fold=3)
    splits = make_splits(split)
    persons = {split.item(int(i)).labels["person"] for i in splits.test}
    assert persons == {"3"}
    save_package(
        tmp_path / "e",
        build_backbone("small", seed=0),
        InferencePlan(size=48, resize=48),
    )
    done = evaluate(tmp_path / "e", split, untrained_seeds=(0,), protocols=("knn", "cycle"))
    knn = next(r for r in done.results if (r.protocol, r.metric) == ("knn", "top1"))
    assert knn.items == 4
    assert knn.settings["fold"] == "3"
    assert knn.chance == pytest.approx(0.25)
    # one person is one group: no cycle through other groups
    assert "three groups" in done.skipped["cycle"]
