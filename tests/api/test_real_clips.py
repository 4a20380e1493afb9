"""Real clips: training and judging by folds of sources, and a scan of everything there is."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest

from rhyme import api
from rhyme.api import DataOptions
from rhyme.catalog import Catalog
from rhyme.evaluation import group_hashes
from support.tiny_runs import flags, rhyme

OPTIONS = DataOptions(
    label_column="label", group_column="scene_group", split_column="fold", fold="0"
)
REDUCED = {
    "train.steps": 4,
    "train.batch_size": 4,
    "train.schedule.warmup_steps": 0,
    "train.log_every": 1,
    "model.transform.size": 48,
    "model.queue": 32,
    "model.cycle_queue": 40,
    "model.support": 10,
    "data.cache_frames": 4,
    "data.cache_size": 56,
}
SCENES_A_CLASS_AND_FOLD = 3


@pytest.fixture(scope="module")
def clips(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of 24 scenes: of every fold three scenes of each class, with their table."""
    source = real_data / "action" / "surveillance_fight"
    if not (source / "labels.csv").is_file():
        pytest.skip("the folder of real data has no action/surveillance_fight")
    folder = tmp_path_factory.mktemp("real") / "clips"
    chosen: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    with (source / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            scenes = chosen.setdefault((row["label"], row["fold"]), {})
            if len(scenes) < SCENES_A_CLASS_AND_FOLD:
                scenes.setdefault(row["scene_group"], row)
    rows = [row for scenes in chosen.values() for row in scenes.values()]
    for row in rows:
        target = folder / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row["file"], target)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_fold_of_real_clips(clips: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = rhyme(
        "train", "cycle_contrast", "--data", clips, "--out", run, "--json",
        "--label-column", "label", "--group-column", "scene_group",
        "--split-column", "fold", "--fold", "0", *flags(REDUCED),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.document["steps"] == 4
    assert math.isfinite(done.document["loss"])

    items = Catalog.open(run / "catalog.arrow")
    assert len(items) == 24
    parts = {name: items.select(split=name) for name in ("train", "val", "test")}
    folds = {
        name: {part.item(i).labels["fold"] for i in range(len(part))}
        for name, part in parts.items()
    }
    assert folds == {"test": {"0"}, "val": {"1"}, "train": {"2", "3"}}
    groups = {name: set(part.group_names) for name, part in parts.items()}
    assert groups["train"].isdisjoint(groups["test"] | groups["val"])
    seen = set(api.load(run).package.extra["train_groups"])
    assert seen == set(group_hashes(groups["train"]))

    judged = rhyme("evaluate", run, "--frames", "2", "--json")
    assert judged.code == 0, judged.err
    knn = [r for r in judged.document["results"] if (r["protocol"], r["metric"]) == ("knn", "top1")]
    assert [r["encoder"] for r in knn].count("untrained") == 3
    trained = next(r for r in knn if r["encoder"] == "trained")
    assert trained["items"] == len(parts["test"]) == 6
    assert trained["settings"]["fold"] == "0"
    assert trained["chance"] == pytest.approx(0.5)
    assert 0 <= trained["value"] <= 1


def test_another_fold_is_refused_to_that_encoder(clips: Path, tmp_path: Path) -> None:
    """An encoder a fold: what tested in one fold has trained in the other."""
    run = tmp_path / "run"
    api.train(
        "moco", clips, out=run, options=OPTIONS, progress=False,
        overrides={k: v for k, v in REDUCED.items() if k.split(".")[-1] not in
                   ("cycle_queue", "support")},
    )  # fmt: skip
    refused = rhyme(
        "evaluate", run, "--data", clips, "--label-column", "label",
        "--group-column", "scene_group", "--split-column", "fold", "--fold", "2",
    )  # fmt: skip
    assert refused.code == 1
    assert "was trained on" in refused.err
    assert not (run / "results.jsonl").exists()


def test_a_mixed_folder_is_scanned_whole(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "action"
    if not folder.is_dir():
        pytest.skip("the folder of real data has no action")
    scanned = rhyme(
        "scan", folder, "--out", tmp_path / "action.catalog", "--labels", "none",
        "--depth", "header", "--workers", "0", "--json",
    )  # fmt: skip
    assert scanned.code in (0, 3), scanned.err
    facts = scanned.document["facts"]
    assert facts["items"] >= 290
    assert facts["files"] + facts["quarantined"] >= 295
    assert facts["label_column"] is None
    items = Catalog.open(tmp_path / "action.catalog")
    assert len(items) == facts["items"]
    assert all(item.stop > item.start for item in map(items.item, range(len(items))))
