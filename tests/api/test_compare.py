"""``rhyme compare``: runs sorted into arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhyme import api
from rhyme.evaluation import Result, append_results, read_results
from rhyme.run import RunFolder, read_jsonl
from support.tiny_runs import OVERRIDES, refused, rhyme, videos

VALUES = {0.0: (0.50, 0.60), 0.1: (0.58, 0.66)}
"""k-NN by weight of the cycle term and seed."""


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of two configurations of one system, and one run of another system."""
    made: list[Path] = []
    todo = [
        *(("cycle_contrast", w, s, v) for w, vs in VALUES.items() for s, v in enumerate(vs)),
        ("moco", None, 0, 0.4),
    ]
    for system, weight, seed, value in todo:
        config = {
            "system": system,
            "model": {"queue": 64} | ({} if weight is None else {"cycle_weight": weight}),
            "train": {"seed": seed, "steps": 9},
        }
        run = RunFolder.create(tmp_path / f"{system}-{weight}-{seed}", config)
        rows = [
            Result(
                system=system, checkpoint=f"{system}{weight}", data="clips", data_fingerprint="f",
                protocol="knn", metric="top1", value=figure, seed=seed, pair=f"f/{seed}", items=9,
                encoder=encoder,
            )
            for encoder, figure in (("trained", value), ("untrained", 0.3))
        ]  # fmt: skip
        append_results(run.results, rows)
        made.append(run.path)
    return made


def test_two_configurations_of_one_system_are_two_arms(runs: list[Path]) -> None:
    found = {line.arm: line for line in api.compare(runs).lines}
    assert set(found) == {
        "cycle_contrast cycle_weight 0.0", "cycle_contrast cycle_weight 0.0 untrained",
        "cycle_contrast cycle_weight 0.1", "cycle_contrast cycle_weight 0.1 untrained",
        "moco", "moco untrained",
    }  # fmt: skip
    for weight, values in VALUES.items():
        line = found[f"cycle_contrast cycle_weight {weight}"]
        assert (line.mean, line.n) == (pytest.approx(sum(values) / 2), 2)
        assert line.difference is not None
        assert line.difference.mean == pytest.approx(sum(values) / 2 - 0.3), "against untrained"


def made(
    path: Path,
    figures: Mapping[str, float],
    *,
    seed: int = 0,
    model: str = "resnet18",
    judged: str = "f",
    **event: object,
) -> Path:
    """A run with figures of the trained and the untrained encoder, and its event ``data``."""
    config = {"system": "moco", "model": {"backbone": model}, "train": {"seed": seed}}
    run = RunFolder.create(path, config)
    if event:
        run.event("data", **event)
    row = Result(
        system="moco", checkpoint=path.name, data="clips", data_fingerprint=judged, protocol="knn",
        metric="top1", value=0.0, seed=seed, pair=f"{judged}/seed{seed}", items=9,
    )  # fmt: skip
    append_results(run.results, [replace(row, encoder=e, value=v) for e, v in figures.items()])
    return run.path


def test_an_arm_is_held_against_its_own_untrained_encoder(tmp_path: Path) -> None:
    a = made(tmp_path / "a", {"trained": 0.6, "untrained": 0.5})
    b = made(tmp_path / "b", {"trained": 0.4, "untrained": 0.2}, model="small")
    for order in ([a, b], [b, a]):
        lines = {line.arm: line for line in api.compare(order).lines}
        for name, gain in (("resnet18", 0.1), ("small", 0.2)):
            difference = lines[f"moco backbone {name}"].difference
            assert difference is not None
            assert difference.baseline == f"moco backbone {name} untrained"
            assert difference.mean == pytest.approx(gain)
            assert lines[f"moco backbone {name} untrained"].difference is None


ONE: dict[str, Any] = {"data": "one", "items": 9, "groups": 9, "collection": "1" * 64}
TWO: dict[str, Any] = {**ONE, "data": "two", "collection": "2" * 64}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (ONE, TWO, ("one (11111111)", "two (22222222)")),
        # as runs of before tell it, by numbers alone
        ({"data": "one", "items": 9, "groups": 9}, {"data": "two", "items": 8, "groups": 8},
         ("one", "two")),
    ],
)  # fmt: skip
def test_one_recipe_trained_on_two_collections_is_two_arms(
    first: dict[str, Any], second: dict[str, Any], names: tuple[str, str], tmp_path: Path
) -> None:
    runs = [
        made(tmp_path / "a", {"trained": 0.6}, **first),
        made(tmp_path / "b", {"trained": 0.4}, **second),
        made(tmp_path / "c", {"trained": 0.8}, seed=1, **first),
    ]
    lines = {line.arm: (line.mean, line.n) for line in api.compare(runs).lines}
    assert lines == {
        f"moco trained on {names[0]}": (pytest.approx(0.7), 2),
        f"moco trained on {names[1]}": (pytest.approx(0.4), 1),
    }


def test_what_is_no_other_training_data_keeps_an_arm_together(tmp_path: Path) -> None:
    """Splits by other seeds, and collections of which each was judged on its own."""
    split = [
        made(tmp_path / f"s{k}", {"trained": 0.5}, seed=k, **ONE, fingerprint=f"split{k}")
        for k in range(2)
    ]
    assert [(line.arm, line.n) for line in api.compare(split).lines] == [("moco", 2)]
    whole = made(tmp_path / "all", {"trained": 0.5}, **ONE, splits={"train": 9})
    part = made(tmp_path / "part", {"trained": 0.5}, **ONE, splits={"train": 5, "test": 4})
    assert len(api.compare([whole, part]).lines) == 2, "all of a collection, and a part"
    worlds = [
        made(tmp_path / f"w{k}", {"trained": 0.5}, seed=k, judged=f"w{k}", **event)
        for k, event in enumerate((ONE, TWO))
    ]
    assert [line.arm for line in api.compare(worlds).lines] == ["moco", "moco"]


def test_no_run_is_dropped_without_a_word(tmp_path: Path) -> None:
    """Two runs of which nothing says how they differ, and one judged twice on its way."""
    runs = [made(tmp_path / name, {"trained": v}) for name, v in (("a", 0.6), ("b", 0.4))]
    found = api.compare(runs)
    assert [(line.arm, line.mean, line.n) for line in found.lines] == [
        ("moco", pytest.approx(0.5), 2)
    ]
    assert any("moco: several encoders of one seed" in note for note in found.notes)
    rows = read_results(RunFolder.open(runs[0]).results)
    append_results(
        RunFolder.open(runs[0]).results, [replace(rows[0], checkpoint="later", value=0.9)]
    )
    found = api.compare(runs[:1])
    assert [(line.mean, line.n) for line in found.lines] == [(pytest.approx(0.9), 1)]
    assert any(f"{runs[0]}: 1 figures are of an earlier encoder" in note for note in found.notes)


def test_a_run_tells_its_collection_whatever_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    videos(folder, 20)
    small = {name: v for name, v in OVERRIDES["moco"].items() if name != "train.batch_size"}
    events = [
        read_jsonl(
            api.new_run(
                "moco_world_demo", folder, out=tmp_path / f"run{seed}", seed=seed,
                overrides={**small, "train.batch_size": 4},
            ).events
        )[0]
        for seed in (0, 1)
    ]  # fmt: skip
    assert len({event["fingerprint"] for event in events}) == 2
    (collection,) = {event["collection"] for event in events}
    assert len(collection) == 64


def test_seeds_of_one_configuration_are_one_arm(runs: list[Path]) -> None:
    found = {line.arm: line.n for line in api.compare(runs[:2]).lines}
    assert found == {"cycle_contrast": 2, "cycle_contrast untrained": 2}


def test_the_command_takes_an_arm_as_baseline(runs: list[Path]) -> None:
    done = rhyme("compare", *runs, "--baseline", "cycle_contrast cycle_weight 0.0", "--json")
    assert done.code == 0, done.err
    lines = {line["arm"]: line for line in done.document["lines"]}
    gain = lines["cycle_contrast cycle_weight 0.1"]["difference"]
    assert (gain["mean"], gain["n"], gain["paired"]) == (pytest.approx(0.07), 2, True)
    refused(rhyme("compare", *runs, "--baseline", "cycle_contrast"), 2, "cycle_weight")


def test_a_report_takes_the_files_that_compare_takes(runs: list[Path], tmp_path: Path) -> None:
    (row, *_) = read_results(RunFolder.open(runs[0]).results)
    file, page = tmp_path / "shelf.jsonl", tmp_path / "paper.html"
    append_results(file, [replace(row, system="net w.pth", value=0.77)])
    done = rhyme("report", file, *runs[:2], "--out", page)
    assert done.code == 0, done.err
    told = page.read_text(encoding="utf-8")
    assert "net w.pth minus CycleContrast: +0.220" in told, "runs first, files behind them"
    refused(rhyme("report", file, "--out", page), 2, "at least two")
    refused(rhyme("report", *runs[:2], file, file, "--out", page), 2, "given twice")
