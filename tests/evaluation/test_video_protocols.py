"""Protocols for video with a clip encoder: splits from official lists, rules, counts, presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhyme.catalog import Catalog, OfficialLists, relabelled, scan
from rhyme.encoders import InferencePlan, build_backbone, save_package
from rhyme.errors import UnknownName
from rhyme.evaluation import Evaluation, compare, evaluate
from rhyme.synthetic import WorldConfig, write_world

QUICK = {
    "finetune": {"preset": "dual", "epochs": 1, "milestones": [], "schedule": "cosine",
                 "frames": 4, "clips": "linspace3"},
    "linear_sgd": {"preset": "coclr", "epochs": 2, "milestones": [1]},
    "linear_stored": {"epochs": 4, "milestones": [2]},
    "retrieval": {"preset": "dual"},
}  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny world under the names of UCF101 with lists of the same form, and a clip encoder."""
    root = tmp_path_factory.mktemp("ucf")
    config = WorldConfig(counts=(24, 4, 4), size=24, frames=8, sound=False, truth="labels", seed=1)
    write_world(config, root / "world")
    films = sorted((root / "world").rglob("*.mp4"))
    lists = root / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Away\n2 Back\n")
    names: list[str] = []
    for k, film in enumerate(films):
        label = ("Away", "Back")[k % 2]
        names.append(f"{label}/v_{label}_g{k // 4 + 1:02}_c{k // 2 % 2 + 1:02}.avi")
        target = root / "data" / names[-1].replace(".avi", ".mp4")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(film.read_bytes())
    for number in (1, 2, 3):
        tested = [f"_g{g:02}_" for g in (2 * number - 1, 2 * number)]
        parts = {
            "test": [n for n in names if any(g in n for g in tested)],
            "train": [n for n in names if not any(g in n for g in tested)],
        }
        for part, chosen in parts.items():
            (lists / f"{part}list{number:02}.txt").write_text("\n".join(chosen))
    scan(root / "data", out=root / "ucf.arrow")
    save_package(
        root / "encoder",
        build_backbone("small3d", seed=0),
        InferencePlan(size=24, resize=24, frames=4, stride=2),
        card={"system": "made_up", "seed": 1},
    )
    return root, lists


def split(collection: tuple[Path, Path], number: int) -> Catalog:
    root, lists = collection
    official = OfficialLists(form="ucf101", path=lists, number=number)
    return relabelled(Catalog.open(root / "ucf.arrow"), official)


@pytest.fixture(scope="module")
def done(collection: tuple[Path, Path]) -> Evaluation:
    return evaluate(
        collection[0] / "encoder",
        split(collection, 1),
        protocols=tuple(QUICK),
        settings=QUICK,
        clips="linspace3",
        untrained_seeds=(0,),
    )


def test_every_figure_stands_beside_chance_untrained_and_its_count(done: Evaluation) -> None:
    assert not done.skipped
    by_metric: dict[tuple[str, str], list[str]] = {}
    for row in done.results:
        by_metric.setdefault((row.protocol, row.metric), []).append(row.encoder)
        assert row.chance is not None
        assert row.items == len(done.splits.test) == 8
        assert row.settings["split_number"] == 1
        assert row.settings["sampling"] == "linspace3, 4 frames, stride 2, clamp"
    assert {protocol for protocol, _ in by_metric} == set(QUICK)
    assert ("retrieval", "recall_at_50_own_mean") in by_metric
    assert all(encoders == ["trained", "untrained"] for encoders in by_metric.values())
    assert "items" in done.columns


def test_what_was_done_is_told(done: Evaluation) -> None:
    told = "\n".join(done.notes)
    assert "official lists of UCF101" in told
    assert "split 1 of 3" in told
    assert "clips by linspace3: 4 frames, stride 2; 0 of 32 videos are shorter" in told
    assert "a fifth of the training groups, at least one, was set aside" in told
    row = next(r for r in done.results if r.protocol == "finetune")
    assert row.settings["clips"] == "linspace3"
    assert (row.settings["preset"], row.settings["stride"]) == ("dual", 2)


def test_nothing_is_chosen_so_the_whole_training_list_takes_part(done: Evaluation) -> None:
    train, val = len(done.splits.train), len(done.splits.val)
    assert (train + val, len(done.splits.test)) == (24, 8)
    assert val > 0
    for row in done.results:
        told = row.details["gallery" if row.protocol == "retrieval" else "fitted_items"]
        assert told == 24, row.protocol


def test_the_mean_over_three_splits(collection: tuple[Path, Path]) -> None:
    rows = []
    for number in (1, 2, 3):
        found = evaluate(
            collection[0] / "encoder",
            split(collection, number),
            protocols=("knn",),
            settings={"knn": {"k": 3, "levels": ["video"]}},
            clips="tiled+last",
            untrained_seeds=(0,),
        )
        rows += found.results
    assert len({row.data_fingerprint for row in rows if row.encoder == "trained"}) == 1
    lines = compare(rows).lines
    assert [line.n for line in lines] == [3, 3]
    trained = [row.value for row in rows if row.encoder == "trained"]
    assert lines[0].mean == pytest.approx(sum(trained) / 3)
    assert lines[0].difference is not None
    assert lines[0].difference.n == 3


def test_short_videos_are_counted_not_dropped(collection: tuple[Path, Path]) -> None:
    found = evaluate(
        collection[0] / "encoder",
        split(collection, 1),
        protocols=("finetune",),
        settings={"finetune": {**QUICK["finetune"], "frames": 16, "epochs": 1}},
        untrained_seeds=(),
    )
    row = found.results[0]
    assert (row.items, row.details["short_videos"], row.details["unreadable"]) == (8, 8, 0)
    assert any("8 of 8 test videos are shorter than a clip" in note for note in found.notes)


def test_an_unknown_rule_is_refused_before_anything_is_decoded(collection) -> None:
    with pytest.raises(UnknownName, match="unknown rule"):
        evaluate(collection[0] / "encoder", split(collection, 1), clips="linspce10")
