from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rhyme.errors import ConfigError, EvaluationError
from rhyme.evaluation import Result, append_results
from rhyme.evaluation.pairing import Measured
from rhyme.report import ReportData, RunFacts, collect_results, render_runs
from rhyme.report.arms import _NOT_AN_ARM, arms, differences
from rhyme.report.beside import beside, first_of, gap
from rhyme.report.overlay import difference_plot, overlays
from rhyme.training import TrainConfig


def run(
    system: str = "moco",
    seed: int = 0,
    values: Sequence[float] = (0.5,),
    *,
    options: dict[str, Any] | None = None,
    **facts: Any,
) -> ReportData:
    """A run measured once a pair; pairs are numbered on from its seed."""
    config = {"system": system, "train": {"seed": seed, "steps": 9}, "model": options or {}}
    results = [
        {"protocol": "knn", "metric": "top1", "settings": {"k": 20}, "items": 9, "chance": 0.1,
         "encoder": encoder, "value": value - less, "seed": seed + k, "pair": f"p/{seed + k}"}
        for encoder, less in (("trained", 0.0), ("untrained", 0.2))
        for k, value in enumerate(values)
    ]  # fmt: skip
    return ReportData(
        system=system,
        run=f"runs/{system}-{seed}",
        facts=RunFacts(seed=seed, steps=9, **facts),
        config=yaml.safe_dump(config),
        results=results,
        metrics=[{"step": 3 * k, "loss": 4.0 - k + seed, "lr": 0.1} for k in range(4)],
    )


def test_runs_of_one_configuration_but_for_the_seed_are_one_arm() -> None:
    runs = [run(seed=0), run(seed=1), run("dual"), run(seed=2, options={"queue": 64})]
    found = arms(runs)
    assert [[r.run for r in arm.runs] for arm in found] == [
        ["runs/moco-0", "runs/moco-1"], ["runs/dual-0"], ["runs/moco-2"],
    ]  # fmt: skip
    assert [arm.name for arm in found] == ["moco, queue –", "dual", "moco, queue 64"]
    told = dict(differences(found))
    assert told["train.seed"] == ["0, 1", "0", "2"]
    assert told["model.queue"] == ["–", "–", "64"]
    assert "train.steps" not in told


def test_options_that_change_no_number_make_no_arms() -> None:
    free = {f"train.{name}" for name in TrainConfig(steps=1).operational}
    assert {n for n in _NOT_AN_ARM if n.startswith("train.")} == free | {"train.seed"}
    plain = run(seed=0)
    for name in TrainConfig(steps=1).operational:
        config = yaml.safe_load(plain.config)
        config["train"] |= {"seed": 1, name: "another"}
        other = dataclasses.replace(run(seed=1), config=yaml.safe_dump(config))
        assert [len(arm.runs) for arm in arms([plain, other])] == [2], name


def judged(data: Sequence[str], **changes: Any) -> ReportData:
    """A run whose figures are of data of one name with these fingerprints."""
    made = run(**changes)
    rows = [{**row, "data": "wz", "data_fingerprint": d} for d in data for row in made.results]
    return dataclasses.replace(made, results=rows)


def test_runs_of_one_configuration_on_different_data_are_different_arms(
    page: Callable[[str], Any],
) -> None:
    a, b = "aaaaaaaa11", "bbbbbbbb22"
    runs = [judged([a], values=[0.25]), judged([b], seed=1, values=[0.75])]
    found = arms(runs)
    assert [arm.name for arm in found] == ["moco, data aaaaaaaa", "moco, data bbbbbbbb"]
    lines = beside(found)
    assert [line.variant for line in lines] == ["data aaaaaaaa", "data bbbbbbbb"]
    assert all(gap is None for line in lines for gap in line.gaps)
    text = page(render_runs(runs)).text
    assert "0.500" not in text, "a mean over two sets of data"
    assert "No figure was measured of all of them." in text
    assert "Not all were judged on the same data" in text
    both = render_runs([judged([a, b]), judged([b, a], seed=1)])
    assert "Not all were judged on the same data" not in page(both).text
    more = [
        *runs, judged([a], seed=2), judged([], seed=3), judged([b], options={"queue": 8}),
        judged([b, a], seed=4), judged([b], seed=5),
    ]  # fmt: skip
    assert [(arm.name, len(arm.runs)) for arm in arms(more)] == [
        ("moco, queue –, data aaaaaaaa", 4), ("moco, queue –, data bbbbbbbb", 2),
        ("moco, queue 8", 1),
    ]  # fmt: skip


def test_one_collection_in_two_folders_is_one(page: Callable[[str], Any]) -> None:
    """Data are known by their fingerprint; a copy of a folder has another name alone."""
    base = [judged(["aaaaaaaa11"], seed=k, values=[0.5]) for k in range(2)]
    mine = [judged(["aaaaaaaa11"], system="dual", seed=k, values=[0.6 + k / 10]) for k in range(2)]
    mine = [
        dataclasses.replace(run, results=[{**row, "data": "copy"} for row in run.results])
        for run in mine
    ]
    (line,) = beside(arms([*base, *mine]))
    assert line.variant == ""
    assert line.gaps[1] is not None
    assert line.gaps[1].values == pytest.approx((0.1, 0.2))
    bare = [
        dataclasses.replace(run, results=[{**r, "data_fingerprint": None} for r in run.results])
        for run in (*base, *mine)
    ]
    assert [line.variant for line in beside(arms(bare))] == ["data wz", "data copy"]


def trained_on(name: str, made: ReportData, checkpoint: str = "") -> ReportData:
    """A run that says what it was trained on; its rows name their checkpoint."""
    event = {"event": "data", "data": name, "collection": name * 8, "fingerprint": made.run}
    results = [{**row, "checkpoint": checkpoint or made.run} for row in made.results]
    return dataclasses.replace(made, events=[event], results=results)


def test_runs_of_one_configuration_trained_on_different_data_are_different_arms() -> None:
    a, b = "aaaaaaaa11", "bbbbbbbb22"
    runs = [
        trained_on("one", judged([a], values=[0.25])),
        trained_on("two", judged([a], values=[0.75])),
        trained_on("one", judged([a], seed=1, values=[0.35])),
    ]  # fmt: skip
    found = arms(runs)
    assert [(arm.name, len(arm.runs)) for arm in found] == [
        ("moco, trained on one (oneoneon)", 2), ("moco, trained on two (twotwotw)", 1),
    ]  # fmt: skip
    (line,) = beside(found)
    assert [s.mean for s in line.trained if s] == pytest.approx([0.3, 0.75])
    more = [*runs, trained_on("two", judged([b], seed=2)), judged([b], seed=3)]
    assert [arm.name for arm in arms(more)] == [
        "moco, data aaaaaaaa, trained on one (oneoneon)",
        "moco, data aaaaaaaa, trained on two (twotwotw)",
        "moco, data bbbbbbbb",
    ]


def test_runs_of_one_seed_count_each_and_the_page_says_so(page: Callable[[str], Any]) -> None:
    runs = [trained_on("one", run(values=[v]), f"c{v}") for v in (0.4, 0.6)]
    runs.append(trained_on("one", run("dual", values=[0.7])))
    (line,) = beside(arms(runs))
    first, other = line.trained
    assert first is not None
    assert (first.mean, first.n) == (pytest.approx(0.5), 2)
    assert line.gaps[1] is not None
    assert line.gaps[1].values == pytest.approx((0.2,))
    assert [s.n for s in line.untrained if s] == [1, 1]
    assert "Several runs of one seed: moco." in page(render_runs(runs)).text
    twice = [runs[0], trained_on("one", run(values=[0.4]), "c0.4"), runs[2]]
    assert "Several runs of one seed" not in page(render_runs(twice)).text, "the same encoder"
    # Of one run that was judged twice the later figure counts.
    rows = [*runs[0].results, *runs[1].results]
    (line,) = beside(arms([dataclasses.replace(runs[0], results=rows), runs[2]]))
    assert line.trained[0] is not None
    assert (line.trained[0].mean, line.trained[0].n) == (pytest.approx(0.6), 1)
    assert other == line.trained[1]


def test_folds_of_one_collection_are_one_arm(page: Callable[[str], Any]) -> None:
    for name in ("fold", "split_number"):
        folds: list[ReportData] = []
        for k in range(3):
            fold = judged(["aaaaaaaa11"], seed=k, values=[0.4 + 0.1 * k])
            rows = [{**r, "settings": {"k": 20, name: k}, "seed": 0} for r in fold.results]
            folds.append(dataclasses.replace(fold, results=rows))
        (arm,) = arms(folds)
        (line,) = beside([arm])
        assert line.trained[0] is not None
        assert (line.trained[0].mean, line.trained[0].n) == (pytest.approx(0.5), 3)
        assert "Not all were judged on the same data" not in page(render_runs(folds)).text


def test_differences_are_paired_by_data_split_and_seed() -> None:
    base = [run(seed=k, values=[v]) for k, v in enumerate((0.5, 0.6, 0.9))]
    mine = [run("dual", seed=k, values=[v]) for k, v in enumerate((0.6, 0.8, 0.95))]
    (line,) = beside(arms([*base, *mine]))
    first, second = line.trained
    assert first is not None
    assert second is not None
    assert first.mean == pytest.approx(2 / 3)
    assert line.gaps[0] is None
    found = line.gaps[1]
    assert found is not None
    assert found.values == pytest.approx((0.1, 0.2, 0.05))
    assert found.spread.mean == pytest.approx(0.35 / 3)
    # The spread of the pairs, far below that of the arms.
    assert found.spread.sd == pytest.approx(0.0763763, rel=1e-4)
    assert (found.wins, found.verdict) == (3, "up")
    assert line.chance == pytest.approx(0.1)
    assert [s.mean for s in line.untrained if s] == pytest.approx(
        [2 / 3 - 0.2, 0.78333 - 0.2], 1e-3
    )
    assert first_of([line]) is line


def figures(values: dict[str, float]) -> list[Measured]:
    """Figures by split; ``a/1`` is that of seed 1 in a."""
    return [
        Measured(split=key.partition("/")[0], seed=key.partition("/")[2], value=value)
        for key, value in values.items()
    ]


def test_what_shares_no_pair_is_compared_by_means() -> None:
    found = gap(figures({"a": 0.6, "b": 0.8}), figures({"c": 0.1, "d": 0.3}))
    assert found is not None
    assert found.values == ()
    assert found.verdict == ""
    assert found.spread.mean == pytest.approx(0.5)
    assert found.spread.sd == pytest.approx((2 * 0.02) ** 0.5)
    assert gap([], figures({"a": 1.0})) is None
    # One pair among several figures would contradict the means beside it.
    one = gap(figures({"a": 0.6, "b": 0.8}), figures({"b": 0.7}))
    assert one is not None
    assert one.values == ()
    assert one.spread.mean == pytest.approx(0.0)
    alone = gap(figures({"b": 0.8}), figures({"b": 0.7}))
    assert alone is not None
    assert alone.values == pytest.approx((0.1,))
    assert alone.spread.sd is None
    errors = gap(
        figures({"a": 1.0, "b": 2.0, "c": 3.0}), figures({"a": 2.0, "b": 3.0, "c": 4.0}), lower=True
    )
    assert errors is not None
    assert (errors.wins, errors.verdict) == (3, "up")


def test_pairs_that_leave_figures_out_are_told(page: Callable[[str], Any]) -> None:
    base = [run(seed=k, values=[0.5]) for k in range(2)]
    mine = [run("dual", seed=k, values=[0.5 + 0.1 * k]) for k in range(4)]
    told = "Over the pairs that both arms have, while the means rest on other figures too"
    assert f"{told}: k-NN, top-1 accuracy." in page(render_runs([*base, *mine])).text
    assert told not in page(render_runs([*base, *mine[:2]])).text


def test_every_training_seed_counts_beside_an_encoder_off_the_shelf() -> None:
    """Its rows bear the seed of the evaluation, which says nothing of a training."""
    shelf = run("shelf", values=[0.6] * 4)
    rows = [
        {**row, "seed": 0, "pair": f"f/s{k}/0/seed0", "details": {"weights": {"sha256": "ab"}}}
        for k, row in enumerate(row for row in shelf.results if row["encoder"] == "trained")
    ]
    shelf = dataclasses.replace(shelf, kind="results", config="", results=rows)
    ours: list[ReportData] = []
    for seed, value in enumerate((0.50, 0.64, 0.66)):
        own = run(seed=seed, values=[value] * 4)
        rows = [
            {**row, "seed": seed, "pair": f"f/s{k}/0/seed{seed}"}
            for k, row in enumerate(row for row in own.results if row["encoder"] == "trained")
        ]
        ours.append(dataclasses.replace(own, results=rows))
    (line,) = beside(arms([shelf, *ours]))
    found = line.gaps[1]
    assert found is not None
    assert found.spread.mean == pytest.approx(0.0)
    assert (len(found.values), found.verdict, found.whole) == (4, "", True)


def test_another_seed_of_the_evaluation_makes_no_pair() -> None:
    def evaluated(made: ReportData, checkpoint: str) -> ReportData:
        rows = [
            {**row, "seed": 0, "pair": f"f/s/{k % 3}/seed0", "checkpoint": checkpoint}
            for k, row in enumerate(made.results)
        ]
        return dataclasses.replace(made, results=rows)

    base = evaluated(run(values=[0.5, 0.6, 0.4]), "a")
    mine = evaluated(run("dual", values=[0.7, 0.7, 0.7]), "b")
    (line,) = beside(arms([base, mine]))
    assert [(s.mean, s.n, s.sd) for s in line.trained if s] == [
        (pytest.approx(0.5), 1, None), (pytest.approx(0.7), 1, None),
    ]  # fmt: skip
    assert [s.n for s in line.untrained if s] == [1, 1]
    assert line.gaps[1] is not None
    assert line.gaps[1].values == pytest.approx((0.2,))
    assert line.gaps[1].verdict == ""


def test_equal_pairs_are_neither_better_nor_worse(page: Callable[[str], Any]) -> None:
    base = [run(seed=k, values=[0.1 + 0.2]) for k in range(3)]
    same = [run("dual", seed=k, values=[0.3]) for k in range(3)]
    assert "better in 0 of 3 pairs, equal in 3" in page(render_runs([*base, *same])).text
    found = gap(figures({"a": 0.3, "b": 0.6}), figures({"a": 0.1 + 0.2, "b": 0.5}))
    assert found is not None
    assert (found.wins, found.ties, found.verdict) == (1, 1, "")


def test_a_difference_is_called_minus(page: Callable[[str], Any]) -> None:
    text = page(render_runs([run(), run("dual", values=[0.6])])).text
    assert "dual minus moco: +0.100 (better in 1 of 1 pair)" in text
    assert " less " not in text


def test_curves_of_an_arm_share_a_style_and_lie_on_common_axes() -> None:
    odd = dataclasses.replace(run("dual"), metrics=[{"step": 1, "loss": 1.0, "grad_norm": 1.0}])
    found = {o.chart.title: o for o in overlays(arms([run(seed=0), run(seed=1), odd]))}
    assert list(found) == ["Loss"]  # the others are of one arm alone
    loss = found["Loss"]
    assert [c.style for c in loss.chart.curves] == [1, 1, 2]
    assert [c.name for c in loss.chart.curves] == ["moco, seed 0", "moco, seed 1", "dual, seed 0"]
    assert loss.last == (1.5, 1.0)
    same = overlays(arms([run(seed=0), run(seed=1)]))
    assert [o.chart.title for o in same] == ["Loss", "Learning rate"]


def test_the_plot_has_a_dot_a_pair_on_either_side_of_nothing() -> None:
    base = [run(seed=k) for k in range(3)]
    mine = [run("dual", seed=k, values=[v]) for k, v in enumerate((0.6, 0.5, 0.45))]
    plot = difference_plot(beside(found := arms([*base, *mine])), found)
    at = [float(x) for x in re.findall(r'class="pair p2" cx="([\d.]+)%"', plot)]
    assert at == pytest.approx([100.0, 50.0, 25.0], abs=0.1)
    assert "+0.100, 0.000" in plot.replace("+0.000", "0.000")
    alone = arms([run(seed=0), run("dual", seed=5)])
    assert difference_plot(beside(alone), alone) == ""


def test_the_page_says_what_holds_and_what_does_not(page: Callable[[str], Any]) -> None:
    base = [run(seed=k, values=[0.5], data="world", commit="aa") for k in range(3)]
    mine = [run("dual", seed=k, values=[0.6 + 0.1 * k], commit="bb") for k in range(3)]
    bare = dataclasses.replace(run("vfs"), results=[])
    text = render_runs([*base, *mine, bare])
    read = page(text)
    assert [a["id"] for a in read.all("section")] == [
        "figures", "curves", "configuration", "runs", "limits",
    ]  # fmt: skip
    assert "moco (3 runs), dual (3 runs), vfs (1 run)" in read.text
    assert "0.700 ± 0.100 n = 3 ▲ better in all pairs, +0.200 ± 0.100 better in 3 of 3 pairs" in (
        read.text
    )
    assert "untrained 0.300 ± 0.000" in read.text
    assert "Not evaluated, and missing in the figures: vfs-0." in read.text
    assert "One run only: vfs." in read.text
    assert "trained with different revisions of the code" in read.text
    assert "Losses of different systems measure different things" in read.text
    assert not read.all("script")
    assert "url(" not in text
    assert re.search(r"https?://", text) is None
    assert len([a for a in read.all("th") if a.get("scope") == "row"]) == 1 + 2 + 7


def test_a_page_of_many_runs_stays_below_its_limit(
    monkeypatch: pytest.MonkeyPatch, page: Callable[[str], Any]
) -> None:
    runs = [run(system, seed=k) for system in ("moco", "dual") for k in range(8)]

    def sizes(limit: int) -> tuple[int, int, str]:
        monkeypatch.setattr("rhyme.report.page.LIMIT_BYTES", limit)
        text = render_runs(runs)
        return len(text.encode()), text.count('<path class="line c1" d="M4'), page(text).text

    most, curves, told = sizes(10**7)
    assert curves == 2 * 8  # loss and learning rate
    assert "curves of the first" not in told
    fewer, curves, told = sizes(most - 1)
    assert (fewer < most, curves) == (True, 2 * 5)
    assert "Of every arm the curves of the first 5 runs alone are drawn." in told
    one, curves, _ = sizes(fewer - 1)
    assert (one < fewer, curves) == (True, 2)
    none, curves, told = sizes(one - 1)
    assert (none < one, curves) == (True, 0)
    assert "Curves were left out" in told
    assert "better in 0 of 8 pairs" in told  # figures always stay


def test_names_and_options_from_outside_are_escaped(page: Callable[[str], Any]) -> None:
    bad = "<script>'\"&\x1b\udcff"
    one = dataclasses.replace(run(), system_title=bad, run=bad)
    two = dataclasses.replace(run("dual"), system_title=bad, config="- not a mapping\n")
    three = dataclasses.replace(run("vfs"), system_title=bad, config=": : no yaml [")
    text = render_runs([one, two, three], title=bad)
    text.encode()
    read = page(text)
    assert not read.all("script")
    assert "<script>" in read.text
    assert "\x1b" not in text


def test_splits_of_one_collection_are_no_other_data(page: Callable[[str], Any]) -> None:
    runs = [
        dataclasses.replace(
            trained_on("one", run(system, seed=seed)),
            facts=RunFacts(seed=seed, data_fingerprint=f"split {seed}"),
        )
        for system in ("moco", "dual")
        for seed in range(2)
    ]
    told = "trained on different data"
    read = page(render_runs(runs))
    assert told not in read.text
    assert "oneoneoneone" in read.text, "the collection stands in the list of runs"
    assert told in page(render_runs([*runs, trained_on("two", run("vfs"))])).text


def from_file(folder: Path, *rows: Result) -> list[ReportData]:
    append_results(folder / "rows.jsonl", rows)
    return collect_results([folder / "rows.jsonl"], titles={"moco": "MoCo"})


def row(value: float, system: str = "net w.pth", **changes: Any) -> Result:
    facts: dict[str, Any] = {
        "system": system, "checkpoint": "c", "data": "world", "data_fingerprint": "f",
        "protocol": "knn", "metric": "top1", "value": value, "seed": 0, "pair": "p/0", "items": 9,
        "settings": {"k": 20},
    }  # fmt: skip
    return Result(**{**facts, **changes})


def test_encoders_of_a_file_of_results_are_arms(tmp_path: Path, page: Callable[[str], Any]) -> None:
    weights = {"weights": {"file": "w.pth", "sha256": "a" * 64}, "plan": {"size": 32}}
    found = from_file(
        tmp_path,
        row(0.7, details=weights),
        *(row(0.2 + 0.1 * k, encoder="untrained", seed=k, details=weights) for k in range(3)),
        row(0.9, details={**weights, "plan": {"size": 48}}),
        row(0.4, "moco", checkpoint="m0"),
        row(0.6, "moco", checkpoint="m1", seed=1, pair="p/1"),
        row(0.5, "moco", encoder="image", checkpoint="m2"),
        row(0.1, "resnet", encoder="untrained", details={"weights": {}}),
    )
    mine = run(values=[0.5])
    rows = [{**r, "data": "world", "data_fingerprint": "f", "export": "encoder"}
            for r in mine.results]  # fmt: skip
    runs = [dataclasses.replace(mine, results=rows), *found]
    groups = arms(runs)
    assert [(arm.name, len(arm.runs)) for arm in groups] == [
        ("moco", 1), ("net w.pth (size 32)", 1), ("net w.pth (size 48)", 1), ("MoCo", 2),
        ("MoCo image", 1), ("resnet", 1),
    ]  # fmt: skip
    (line,) = beside(groups)
    assert [s and s.mean for s in line.trained] == [
        *(pytest.approx(v) for v in (0.5, 0.7, 0.9, 0.5, 0.5)), None,
    ]  # fmt: skip
    assert [s and (round(s.mean, 9), s.n) for s in line.untrained] == [
        (0.3, 1), (0.3, 3), None, None, None, (0.1, 1),
    ]  # fmt: skip
    told = page(render_runs(runs))
    assert "net w.pth (size 32) (1 encoder from a file of results)" in told.text
    assert "Known by their rows of results alone: net w.pth (size 32); " in told.text
    assert "One run only: moco." in told.text, "what was not trained here has no seeds to add"
    assert "All options are equal." in told.text


def test_curves_stay_where_a_file_of_results_has_none(tmp_path: Path) -> None:
    groups = arms([run(seed=0), run(seed=1), *from_file(tmp_path, row(0.7))])
    assert [o.chart.title for o in overlays(groups)] == ["Loss", "Learning rate"]


def test_a_file_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!DOCTYPE html>\n")
    with pytest.raises(EvaluationError, match="no result rows") as found:
        collect_results([tmp_path / "page.html"])
    assert "page.html" in str(found.value)


def test_one_run_is_no_comparison() -> None:
    for runs in ([], [run()]):
        with pytest.raises(ConfigError, match="at least two"):
            render_runs(runs)
