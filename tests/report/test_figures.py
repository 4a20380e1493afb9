from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from rhyme.report import ReportData, render
from rhyme.report.charts import line_chart, tick_text, ticks
from rhyme.report.series import Chart, Curve, charts, smooth, thin
from rhyme.report.story import verdict
from rhyme.report.summary import compare, headline
from rhyme.report.table import dot_plot, table
from rhyme.report.text import clean, duration, figure, lower_is_better, moment, short_path

Rows = Callable[..., Any]


def test_figures_of_different_data_of_one_name_are_different_lines(make_result: Rows) -> None:
    a, b = (
        {"data": "wz", "data_fingerprint": "a" * 64},
        {"data": "wz", "data_fingerprint": "b" * 64},
    )
    lines = compare([make_result(0.2, **a), make_result(0.8, seed=1, **b)])
    assert [(c.variant, c.trained.mean) for c in lines if c.trained] == [
        ("data aaaaaaaa", 0.2), ("data bbbbbbbb", 0.8),
    ]  # fmt: skip
    other = make_result(0.5, data="other", data_fingerprint="c" * 64)
    assert [c.variant for c in compare([make_result(0.2, **a), other])] == ["data wz", "data other"]
    assert [c.variant for c in compare([make_result(0.2, **a), make_result(0.8, **a, seed=1)])] == [
        ""
    ]
    moved = {**a, "data": "copy"}
    assert [
        c.variant for c in compare([make_result(0.2, **a), make_result(0.8, **moved, seed=1)])
    ] == [""]


def test_unpaired_difference_adds_both_spreads(make_result: Rows) -> None:
    rows = [make_result(v, seed=s) for s, v in ((0, 0.6), (1, 0.7))]
    rows += [make_result(v, "untrained", s) for s, v in ((5, 0.3), (6, 0.4), (7, 0.5))]
    (line,) = compare(rows)
    assert line.trained is not None
    assert line.gain is not None
    assert line.trained.mean == pytest.approx(0.65)
    assert line.trained.sd == pytest.approx(0.0707107, abs=1e-6)
    assert not line.paired
    assert line.gain.mean == pytest.approx(0.25)
    assert line.gain.sd == pytest.approx(math.sqrt(0.005 + 0.01))


def on_splits(make_result: Rows, *splits: tuple[float, list[float]]) -> list[Any]:
    """A trained value and draws of fresh weights on each of several splits."""
    rows: list[Any] = []
    for k, (trained, draws) in enumerate(splits):
        rows.append(make_result(trained, seed=k, pair=f"f/s{k}/0/seed{k}"))
        rows += [
            make_result(v, "untrained", s, pair=f"f/s{k}/0/seed{s}") for s, v in enumerate(draws)
        ]
    return rows


def test_paired_difference_is_over_splits_not_over_numbers_of_seeds(make_result: Rows) -> None:
    """What the untrained encoder has on a split is averaged first: every draw counts."""
    (line,) = compare(on_splits(make_result, (0.5, [0.1, 0.3, 0.5]), (0.9, [0.2, 0.6, 0.7])))
    assert line.paired
    assert line.trained is not None
    assert line.untrained is not None
    assert line.gain is not None
    assert line.gain.mean == pytest.approx(line.trained.mean - line.untrained.mean)
    assert (line.gain.mean, line.gain.n) == (pytest.approx((0.2 + 0.4) / 2), 2)
    assert line.gain.sd == pytest.approx(0.2 / math.sqrt(2))


def test_draws_of_the_trained_seeds_numbers_are_no_pairs(make_result: Rows) -> None:
    """On one split, fresh weights of seed k have nothing to do with the training of seed k."""
    rows = [make_result(0.5 + s, seed=s) for s in range(3)]
    (line,) = compare([*rows, *(make_result(0.4 + s, "untrained", s) for s in range(3))])
    assert not line.paired
    assert line.gain is not None
    assert line.gain.sd == pytest.approx(math.sqrt(2))


def test_a_repeated_measurement_counts_once(make_result: Rows) -> None:
    (line,) = compare([make_result(0.1), make_result(0.6)])
    assert line.trained is not None
    assert (line.trained.mean, line.trained.n) == (0.6, 1)


def test_settings_keep_lines_apart_and_name_them(make_result: Rows) -> None:
    rows = [make_result(0.1 * k, settings={"k": k, "temperature": 0.07}) for k in (1, 5)]
    lines = compare(rows)
    assert [line.variant for line in lines] == ["k 1", "k 5"]


def test_chance_is_taken_from_rows_settings_or_a_metric_of_its_own(make_result: Rows) -> None:
    assert compare([make_result(0.5, chance=0.1)])[0].chance == 0.1
    assert compare([make_result(0.5, settings={"chance": 0.2})])[0].chance == 0.2
    lines = compare([make_result(0.5), make_result(0.25, metric="top1_chance")])
    assert [(line.metric, line.chance) for line in lines] == [("top1", 0.25)]


def test_values_that_are_not_finite_are_counted_not_averaged(make_result: Rows) -> None:
    rows = [make_result(0.4, seed=0), make_result("nan", seed=1), make_result(None, seed=2)]
    (line,) = compare(rows)
    assert line.trained is not None
    assert line.trained.mean == 0.4
    assert line.lost == 1
    assert "1 measured value not finite" in render(ReportData(system="moco", results=rows))


def test_lower_is_better_turns_the_verdict(make_result: Rows) -> None:
    rows = [
        make_result(2.0, metric="median_rank"),
        make_result(5.0, "untrained", metric="median_rank"),
    ]
    (line,) = compare(rows)
    assert line.better is True
    assert table([line]).lines[0].gain == "\N{MINUS SIGN}3.000"


def test_words_tell_what_is_better_not_letters_in_a_name() -> None:
    for name in ("median_rank", "mean rank", "epe", "end_point_error", "loss", "loss@z", "rmse"):
        assert lower_is_better(name), name
    measured = """top1 frame_top1 top1_1pct top1@stationary recall_at_1 group_recall_at_10 map j f
        recall_at_1_own_mean return_rate return_rate_query return_rate_uniform@c same_class_mass
        nearest_same_class accuracy exact j_and_f miou ranking_accuracy coherence_margin
        intra_variance edit f1_10 accuracy@non_stationary"""
    listed = ["top1_repeat1", "top1_lossless", "top1_timeseries", "top1_loss", "top1@loss"]
    for name in [*measured.split(), *listed]:
        assert not lower_is_better(name), name


def test_a_difference_that_no_digit_shows_is_neither_a_gain_nor_a_loss(make_result: Rows) -> None:
    (line,) = compare([make_result(0.4, seed=0), make_result(0.4004, "untrained", seed=0)])
    assert line.better is None
    assert table([line]).lines[0].better == ""
    assert "no difference" in verdict(ReportData(system="moco"), line)


def beside(
    make_result: Rows, trained: float, *untrained: float, items: int = 120, **facts: Any
) -> list[Any]:
    rows = [make_result(v, "untrained", s, items=items, **facts) for s, v in enumerate(untrained)]
    return [make_result(trained, items=items, **facts), *rows]


@pytest.mark.parametrize(
    ("trained", "untrained", "clear", "mark"),
    [
        (0.407, (0.388, 0.400, 0.412), False, ""),  # +0.007 ± 0.012
        (0.383, (0.378, 0.400, 0.422), False, ""),  # -0.017 ± 0.022
        (0.413, (0.388, 0.400, 0.412), True, "up"),
        (0.300, (0.388, 0.400, 0.412), True, "down"),
        (0.900, (0.1,), None, ""),  # one value each: nothing to exceed
        (0.4002, (0.4, 0.4, 0.4), False, ""),  # no digit shows it
    ],
)
def test_only_what_exceeds_its_spread_is_marked(
    make_result: Rows,
    page: Callable[[str], Any],
    trained: float,
    untrained: tuple[float, ...],
    clear: bool | None,
    mark: str,
) -> None:
    rows = beside(make_result, trained, *untrained, items=100_000)
    (line,) = compare(rows)
    assert line.clear is clear
    assert table([line]).lines[0].better == mark
    read = page(render(ReportData(system="moco", results=rows)))
    (cell,) = [a for a in read.all("td") if a.get("data-label") == "Difference"]
    assert (cell["class"] or "").split() == ["n", *([mark] if mark else [])]
    assert len(read.of_class("unclear")) == (0 if clear else 1)


def test_a_spread_is_said_to_be_of_the_untrained_draws_alone(make_result: Rows) -> None:
    alone = "the spread of the untrained draws alone"
    rows = beside(make_result, 0.6, 0.3, 0.32)
    text = render(ReportData(system="moco", results=rows))
    assert alone in text
    # sqrt((0.6 * 0.4 + 0.31 * 0.69) / 120)
    assert "a share of 120 test items: the difference of +0.290 has a standard error" in text
    assert "of up to 0.062 from that alone, if videos are independent" in text
    text = render(ReportData(system="moco", results=[*rows, make_result(0.7, seed=1)]))
    assert alone not in text
    assert "None is over the test items" in text


def test_limits_tell_worse_from_unclear(make_result: Rows) -> None:
    rows = [
        *beside(make_result, 0.2, 0.4, 0.42),
        *({**r, "protocol": "linear"} for r in beside(make_result, 0.41, 0.4, 0.44)),
    ]
    text = render(ReportData(system="moco", results=rows))
    assert "The trained encoder is worse than an untrained one in: k-NN, top-1 accuracy." in text
    unclear = "or than twice its standard error from the test items, in: Linear probe, top-1"
    assert unclear in text


def test_few_test_items_leave_a_difference_unmarked(
    make_result: Rows, page: Callable[[str], Any]
) -> None:
    """Whatever the untrained draws agree on: the items could have been others."""
    rows = beside(make_result, 0.5, 0.25, 0.25, 0.25, items=16)
    (line,) = compare(rows)
    assert line.error == pytest.approx(math.sqrt((0.25 + 0.1875) / 16))
    assert line.clear is False
    assert table([line]).lines[0].better == ""
    read = page(render(ReportData(system="moco", results=rows)))
    assert "from 16 test items alone ± 0.165 standard error" in read.text, "at the headline"
    assert (
        "no clear difference (+0.250 ± 0.000, with a standard error of 0.165 from 16 test items "
        "alone)" in read.text
    )
    (many,) = compare(beside(make_result, 0.5, 0.25, 0.25, 0.25, items=160))
    assert table([many]).lines[0].better == "up"


def test_few_test_items_leave_a_difference_open_that_has_no_spread(make_result: Rows) -> None:
    """One more right answer of 16 is neither a gain nor a loss, however often it was measured."""
    for trained, untrained in ((0.5625, 0.5), (0.5, 0.5625)):
        rows = beside(make_result, trained, untrained, items=16)
        (line,) = compare(rows)
        assert line.gain is not None
        assert (line.gain.sd, line.clear) == (None, False)
        text = render(ReportData(system="moco", results=rows))
        assert "no clear difference" in text
        assert "with a standard error of 0.176 from 16 test items alone" in text
        assert "is worse than an untrained one" not in text
        assert "than twice its standard error from the test items, in: k-NN" in text
    rows = beside(make_result, 0.9, 0.1, items=16)
    (line,) = compare(rows)
    assert line.clear is None, "large enough for the items, and of an unknown spread"
    told = "a gain of 0.800; measured once each, it has no spread."
    assert verdict(ReportData(system="moco"), line).endswith(told)


def test_frames_of_few_videos_are_few_items(make_result: Rows) -> None:
    for name, counted in (
        ("test_items", "videos"), ("test_videos", "videos"), ("test_groups", "groups"),
        ("query_groups", "groups"),
    ):  # fmt: skip
        rows = beside(make_result, 0.5, 0.25, 0.25, items=160, details={name: 16})
        (line,) = compare(rows)
        assert (line.items, line.independent, line.clear) == (160, 16, False)
        text = render(ReportData(system="moco", results=rows))
        assert f"160 test items of 16 {counted}" in text
        assert f"from that alone, if {counted} are independent" in text
    own = {"test_items": 160, "test_groups": 160}
    text = render(
        ReportData(results=beside(make_result, 0.5, 0.2, items=160, details=own), system="a")
    )
    assert "a share of 160 test items: " in text, "each is a group of its own"
    (odd,) = compare(beside(make_result, 2.0, 1.0, 1.1, metric="map"))
    assert (odd.error, odd.clear) == (None, True), "of no bounded figure"


def test_a_few_items_that_are_all_right_are_no_certainty(
    make_result: Rows, page: Callable[[str], Any]
) -> None:
    rows = beside(make_result, 1.0, 1.0, 1.0, items=3)
    (line,) = compare(rows)
    assert line.error is None
    read = page(render(ReportData(system="moco", results=rows)))
    assert "judged on 3 test items" in read.text
    assert "standard error" not in read.text.split("Evaluation")[0]


def test_settings_and_findings_are_printed_in_full(make_result: Rows) -> None:
    settings = {"k": 20, "fold": None, "split_seed": 3, "standardise": True}
    row = make_result(0.5, settings=settings, details={"queries": 340, "plan": {"size": 1}})
    text = render(ReportData(system="moco", results=[row]))
    assert "fold = none, k = 20, split_seed = 3, standardise = yes; found: queries = 340" in text


def test_what_was_found_is_rounded_and_settings_are_not(make_result: Rows) -> None:
    details = {"effective_neighbours": 9.10153579711914, "penalty": 1e-5, "found": 1234.56}
    row = make_result(0.5, settings={"temperature": 0.0712345}, details=details)
    text = render(ReportData(system="moco", results=[row]))
    assert "temperature = 0.0712345; found: effective_neighbours = 9.102, penalty = 1e-05" in text
    assert "found = 1,235" in text
    again = make_result(0.6, settings={"temperature": 0.0712345}, details={"penalty": 0.5})
    fresh = make_result(0.6, "untrained", settings={"temperature": 0.0712345})
    text = render(ReportData(system="moco", results=[row, again, fresh]))
    assert "found: penalty = 0.5<" in text, "of the figure that is shown"


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({"split_drawn": "60/20/20 by group, seed 3"}, "drawn by rhyme: 60/20/20 by group, seed 3"),
        ({"split_drawn": ""}, "split given with the data"),
        ({}, "kept with the data: given, or drawn when they were read"),
    ],
)
def test_a_split_that_was_drawn_is_not_called_given(
    make_result: Rows, details: dict[str, str], told: str
) -> None:
    row = make_result(0.5, settings={"split": "split given with the data"}, details=details)
    text = render(ReportData(system="moco", results=[row]))
    assert f"split = {told}" in text
    assert "split_drawn" not in text


def test_splits_of_other_seeds_are_repetitions_of_one_line(make_result: Rows) -> None:
    rows = [make_result(0.5 + s / 10, pair=f"p{s}", settings={"split_seed": s}) for s in (0, 1)]
    (line,) = compare(rows)
    assert line.trained is not None
    assert line.trained.n == 2


def evaluated(
    make_result: Rows, trained: Any, seed: int, split: str = "s", **facts: Any
) -> list[Any]:
    """A run's figure and three draws, by one seed of the evaluation on a given split."""
    made = {"settings": {"k": 20, "split_seed": seed}, "items": 2000}
    draws = (make_result(v, "untrained", s, pair=f"f/{split}/{seed}/seed{s}", **made)
             for s, v in enumerate((0.40, 0.52, 0.43)))  # fmt: skip
    return [make_result(trained, pair=f"f/{split}/{seed}/seed0", **made, **facts), *draws]


def test_another_seed_of_the_evaluation_is_no_other_training(make_result: Rows) -> None:
    """What is the same encoder on the same items makes an unclear difference no clearer."""
    (once,) = compare(evaluated(make_result, 0.5, 0))
    (twice,) = compare([*evaluated(make_result, 0.5, 0), *evaluated(make_result, 0.5, 1)])
    assert once.clear is False
    assert (twice.trained, twice.untrained, twice.gain) == (once.trained, once.untrained, once.gain)
    assert (twice.paired, twice.clear) == (False, False)
    (other,) = compare([*evaluated(make_result, 0.5, 0), *evaluated(make_result, 0.6, 1)])
    assert other.trained is not None
    assert (other.trained.mean, other.trained.n) == (pytest.approx(0.55), 1)
    (apart,) = compare([*evaluated(make_result, 0.5, 0), *evaluated(make_result, 0.6, 1, "t")])
    assert apart.trained is not None
    assert (apart.trained.n, apart.paired) == (2, True), "another split is another repetition"


def test_a_later_checkpoint_replaces_all_that_others_have_on_its_split(make_result: Rows) -> None:
    early, late = {"details": {"step": 100}}, {"details": {"step": 200}}
    rows = [*evaluated(make_result, 0.5, 0, **early), *evaluated(make_result, 0.6, 1, **early)]
    rows += evaluated(make_result, 0.9, 0, **late)
    (line,) = compare(rows)
    assert line.trained is not None
    assert (line.trained.mean, line.trained.n) == (0.9, 1)
    assert (line.encoders, line.replaced) == (("step 200",), ("step 100",))


def test_headline_prefers_usual_protocols_and_obeys_the_wish(make_result: Rows) -> None:
    rows = [
        make_result(0.5, e, protocol=p)
        for p in ("cycle", "linear", "knn")
        for e in ("trained", "untrained")
    ]
    lines = compare(rows)
    assert getattr(headline(lines), "protocol", None) == "knn"
    assert getattr(headline(lines, ("cycle", "top1")), "protocol", None) == "cycle"
    assert headline([]) is None


def test_no_gain_is_said_plainly(make_result: Rows) -> None:
    worse = [make_result(0.2), *(make_result(v, "untrained", s) for s, v in enumerate((0.4, 0.42)))]
    assert "a loss of 0.210" in render(ReportData(system="moco", results=worse))
    same = [make_result(0.41), *(make_result(v, "untrained", s) for s, v in enumerate((0.4, 0.44)))]
    assert "no clear difference" in render(ReportData(system="moco", results=same))


def test_other_encoders_get_a_column(make_result: Rows) -> None:
    rows = [make_result(0.5), make_result(0.7, "imagenet")]
    shown = table(compare(rows))
    assert shown.others == ("imagenet",)
    assert shown.lines[0].others == ("0.700",)


def test_dot_plot_places_dots_by_value(make_result: Rows) -> None:
    rows = [make_result(0.6), make_result(0.3, "untrained"), make_result(40.0, metric="rank")]
    plot = dot_plot(compare(rows))
    assert plot.count('role="img"') == 1  # the rank does not fit on the axis
    assert '<circle class="trained" cx="80.00%"' in plot  # of an axis up to 0.75
    assert '<circle class="untrained" cx="40.00%"' in plot
    assert dot_plot(compare(rows[2:])) == ""


def test_every_logged_quantity_gets_a_chart(make_metrics: Rows) -> None:
    rows = make_metrics(30)
    rows.append({"step": 290, "probes": {"knn": {"top1": 0.4}, "cycle_return": 0.3}})
    found = {chart.title: chart for chart in charts(rows)}
    assert list(found) == [
        "Loss",
        "Parts of the loss",
        "Similarity of positives and negatives",
        "Entropy of the attention",
        "Effective rank of the embedding",
        "Spread of the embedding",
        "Probe: knn top1",
        "Probe: cycle return",
        "Learning rate",
        "Throughput",
        "Share of time spent waiting for data",
    ]
    assert [c.name for c in found["Parts of the loss"].curves] == ["intra", "cycle"]
    # The row of probes shares its step with a row of losses and takes nothing from it.
    assert len(found["Loss"].curves[0].steps) == 30


def test_rows_written_again_after_a_resume_count_once() -> None:
    rows = [{"step": s, "loss": 1.0} for s in (1, 2, 3)] + [{"step": 2, "loss": 9.0}]
    (chart,) = charts(rows)
    assert chart.curves[0].values == (1.0, 9.0, 1.0)


def test_thousand_rows_are_thinned_and_keep_their_extremes() -> None:
    values = [math.sin(k / 30) for k in range(1000)]
    values[417], values[733] = 50.0, -50.0
    curve = Curve(name="loss", steps=tuple(range(1000)), values=tuple(values))
    thinned = thin(curve)
    assert len(thinned.steps) <= 260
    assert max(thinned.values) == 50.0
    assert min(thinned.values) == -50.0
    assert (thinned.steps[0], thinned.steps[-1]) == (0, 999)
    assert list(thinned.steps) == sorted(set(thinned.steps))
    svg = line_chart(Chart(title="Loss", unit="loss", curves=(curve,)))
    assert len(svg) < 12_000
    smoothed = smooth(curve)
    assert smoothed is not None
    assert max(abs(v) for v in smoothed.values) < 1.5  # a lone spike does not bend it


def test_nan_and_infinity_leave_a_gap_and_are_counted(make_metrics: Rows) -> None:
    rows = make_metrics(20)
    rows[7]["loss"], rows[8]["loss"], rows[9]["loss"] = "nan", "inf", float("nan")
    chart = charts(rows)[0]
    assert chart.curves[0].lost == 3
    svg = line_chart(chart)
    assert "nan" not in svg
    assert "inf" not in svg
    (path,) = re.findall(r'class="line c1" d="([^"]*)"', svg)
    assert path.count("M") == 2
    text = render(ReportData(system="moco", metrics=rows))
    assert "3 not finite, left out." in text
    assert "The loss was not finite in 3 logged steps." in text


@pytest.mark.parametrize(
    "values", [(float("nan"),) * 3, (0.0, 0.0, 0.0), (1e300, -1e300, 1.0), (1e-12, 2e-12, 3e-12)]
)
def test_degenerate_curves_still_draw(values: tuple[float, ...]) -> None:
    curve = Curve(name="loss", steps=(1.0, 2.0, 3.0), values=values)
    svg = line_chart(Chart(title="Loss", unit="loss", curves=(curve,)))
    numbers = [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", svg)]
    assert all(0 <= x <= 340 for x in numbers)
    assert "nan" not in re.sub(r'aria-label="[^"]*"', "", svg)


def test_a_single_row_is_a_dot() -> None:
    (chart,) = charts([{"step": 10, "loss": 1.5}])
    assert line_chart(chart).count("<circle") == 1


def test_chart_labels_its_axes() -> None:
    curve = Curve(name="a", steps=(0.0, 20_000.0), values=(0.0, 1.0))
    svg = line_chart(Chart(title="T", unit="nats", curves=(curve,)))
    assert ">step</text>" in svg
    assert ">nats</text>" in svg
    assert ">20k</text>" in svg
    assert 'aria-label="T, nats over steps: a from 0.000 at step 0 to 1.000 at step 20000."' in svg


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(3.1 <= t <= 17.9 for t in ticks(3.1, 17.9))
    assert tick_text(-0.00025) == "\N{MINUS SIGN}2.5e-4"


def test_figures_and_text() -> None:
    assert figure(0.41234) == "0.412"
    assert figure(-0.5, sign=True) == "\N{MINUS SIGN}0.500"
    assert figure(0.5, sign=True) == "+0.500"
    assert figure(0.0001) == "1.0e-04"
    assert figure(12345.6) == "12,346"
    assert figure(float("nan")) == "not finite"
    assert duration(59.94) == "59.9 s"
    assert duration(3 * 3600 + 5 * 60) == "3 h 05 min"
    assert moment("2026-01-02T03:04:05+0100") == "2026-01-02 02:04:05 UTC"
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment("yesterday") == "yesterday"
    assert clean("a\nb\x1b") == "a\\nb\\x1b"
    assert len(clean("x" * 999, limit=50)) < 60
    assert short_path("deep/folder/a.mp4") == "a.mp4"
    assert len(short_path("x" * 200 + ".mp4")) == 40


def test_products_of_means_are_not_called_cosines() -> None:
    told = {"tc/positive_cosine": 0.4, "clip/positive_cosine": 0.8}
    found = {c.title: c for c in charts([{"step": k, "diagnostics": told} for k in range(3)])}
    assert [c.name for c in found["Temporal coherence S"].curves] == ["tc positive S"]
    assert found["Temporal coherence S"].unit == "product of means"
    names = [c.name for c in found["Similarity of positives and negatives"].curves]
    assert names == ["clip positive cosine"]
