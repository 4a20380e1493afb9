"""Several runs side by side as one HTML page: figures, courses, what differs in their making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rhyme.errors import ConfigError
from rhyme.report.arms import Arm, arms, differences, judged_on, trained_on
from rhyme.report.beside import Beside, Gap, beside, first_of, of_one_seed
from rhyme.report.charts import line_chart
from rhyme.report.data import ReportData
from rhyme.report.overlay import STYLES, difference_plot, overlays
from rhyme.report.page import fill, fits, mark
from rhyme.report.summary import leading
from rhyme.report.table import spread_text
from rhyme.report.text import clean, count, duration, figure, metric_name, protocol_name, short_path
from rhyme.run import atomic_write

CHARTS_OPEN = 3
MOST_CURVES = (20, 5, 1, 0)  # runs of an arm whose curves are drawn: fewer where a page grows large


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An arm's figure: values as printed, and its difference from the first arm."""

    trained: str
    n: str
    untrained: str
    gap: str
    how: str
    better: str


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run in the list of runs."""

    arm: str
    run: str
    path: str
    facts: tuple[str, ...]


def render_runs(runs: Sequence[ReportData], *, title: str = "") -> str:
    """The page of several runs as text, at most about 10 MB: of many runs fewer curves are drawn.

    Args:
        runs: at least two, each as :func:`rhyme.report.collect` gives it. Those of one
            configuration but for the seed, trained on the same data and judged on the same, make
            an arm; the first run's arm is what the others are held against.
        title: heading; made from the arms when empty.

    Raises:
        ConfigError: fewer than two runs.
    """
    if len(runs) < 2:
        raise ConfigError(
            "a page of several runs needs at least two",
            stage="report",
            value=len(runs),
            remedy="give two or more; one run alone has a page of its own",
        )
    page = ""
    for most in MOST_CURVES:
        page = _render(runs, title, most)
        if fits(page):
            break
    return page


def _render(runs: Sequence[ReportData], title: str, most: int) -> str:
    groups = arms(runs)
    lines = beside(groups)
    top = first_of(lines)
    drawn = overlays(groups, most)
    return fill(
        "several.html.j2",
        title=title or " and ".join(dict.fromkeys(run.name for run in runs)) + " side by side",
        lede=_lede(groups, top),
        arms=[(place % STYLES + 1, arm) for place, arm in enumerate(groups)],
        lines=[
            (protocol_name(b.protocol), _metric(b), _cells(b), figure(b.chance), lead)
            for b, lead in zip(lines, leading([b.protocol for b in lines]), strict=True)
        ],
        chance=any(b.chance is not None for b in lines),
        plot=mark(difference_plot(lines, groups)),
        charts=[(o, mark(line_chart(o.chart))) for o in drawn],
        charts_open=CHARTS_OPEN,
        runs=_runs(groups),
        differing=differences(groups),
        limits=_limits(groups, lines, most),
        figure=figure,
    )


def write_runs_report(runs: Sequence[ReportData], out: str | Path, *, title: str = "") -> Path:
    """Write the page of several runs.

    Args:
        runs: as for :func:`render_runs`.
        out: the file.
        title: heading; made from the arms when empty.

    Returns:
        The path written.
    """
    target = Path(out)
    atomic_write(target, render_runs(runs, title=title))
    return target


def _lede(groups: Sequence[Arm], top: Beside | None) -> str:
    sizes = ", ".join(f"{arm.name} ({_size(arm)})" for arm in groups)
    if top is None:
        return f"{sizes}. No figure was measured of all of them."
    said = [
        f"{arm.name} {spread_text(spread)}" for arm, spread in zip(groups, top.trained, strict=True)
    ]
    text = f"{sizes}. {top.title}: {', '.join(said)}."
    for arm, gap in zip(groups, top.gaps, strict=True):
        if gap is not None:
            text += f" {arm.name} minus {groups[0].name}: {spread_text(gap.spread, sign=True)}"
            text += f" ({_how(gap)})."
    return text


def _size(arm: Arm) -> str:
    if all(run.kind == "results" for run in arm.runs):
        return f"{count(len(arm.runs), 'encoder')} from a file of results"
    return count(len(arm.runs), "run")


def _some(titles: Sequence[str], most: int = 6) -> str:
    return "; ".join(titles[:most]) + (" and others" if len(titles) > most else "")


def _metric(line: Beside) -> str:
    text = metric_name(line.metric)
    return f"{text}, {line.variant}" if line.variant else text


def _how(gap: Gap) -> str:
    n = len(gap.values)
    if not n:
        return "not paired"
    ties = f", equal in {gap.ties}" if gap.ties else ""
    return f"better in {gap.wins} of {count(n, 'pair')}{ties}"


def _cells(line: Beside) -> list[Cell]:
    return [
        Cell(
            trained=spread_text(trained),
            n=f"n = {trained.n}" if trained is not None and trained.n > 1 else "",
            untrained=spread_text(untrained) if untrained is not None else "",
            gap=spread_text(gap.spread, sign=True) if gap is not None else "",
            how=_how(gap) if gap is not None else "",
            better=gap.verdict if gap is not None else "",
        )
        for trained, untrained, gap in zip(line.trained, line.untrained, line.gaps, strict=True)
    ]


def _runs(groups: Sequence[Arm]) -> list[RunRow]:
    def of(run: ReportData) -> tuple[str, ...]:
        f = run.facts
        whole = (f.seed, f.steps, f.items)
        collection = trained_on(run.events).collection
        texts = (f.device, f.commit, collection[:12], (f.data_fingerprint or "")[:12])
        return (
            *("–" if n is None else count(n) for n in whole),
            duration(f.seconds),
            clean(f.data, 40) or "–",
            *(clean(t, 40) or "–" for t in texts),
        )

    return [
        RunRow(arm=arm.name, run=short_path(run.run), path=clean(run.run, 1000), facts=of(run))
        for arm in groups
        for run in arm.runs
    ]


def _limits(groups: Sequence[Arm], lines: Sequence[Beside], most: int) -> list[str]:
    runs = [run for arm in groups for run in arm.runs]
    shelf = [arm.name for arm in groups if any(run.kind == "results" for run in arm.runs)]
    said: list[str] = []
    if not most:
        said.append("Curves were left out: with them the page would exceed 10 MB.")
    elif any(len(arm.runs) > most for arm in groups):
        said.append(f"Of every arm the curves of the first {count(most, 'run')} alone are drawn.")
    if shelf:
        said.append(
            f"Known by their rows of results alone: {'; '.join(shelf)}. How they were trained, and "
            "whether on videos that they are judged on, is not told here."
        )
    single = [arm.name for arm in groups if len(arm.runs) == 1 and arm.name not in shelf]
    if single:
        said.append(
            f"One run only: {'; '.join(single)}. How far another seed would land is not known, and "
            "a difference to it has no spread."
        )
    again = [arm.name for arm in groups if of_one_seed(arm)]
    if again:
        said.append(
            f"Several runs of one seed: {'; '.join(again)}. They count as repetitions, and tell "
            "nothing of another seed."
        )
    empty = [short_path(run.run) for run in runs if not run.results]
    if empty:
        said.append(f"Not evaluated, and missing in the figures: {'; '.join(empty)}.")
    partly = [b.title for b in lines if any(g is not None and not g.whole for g in b.gaps)]
    if partly:
        said.append(
            "Over the pairs that both arms have, while the means rest on other figures too: "
            f"{_some(partly)}."
        )
    loose = [b.title for b in lines if any(g is not None and not g.values for g in b.gaps)]
    if loose:
        said.append(
            "Measured on no common pair of data, split and seed, so that means are compared "
            f"instead: {_some(loose)}."
        )
    trained = [trained_on(run.events) for run in runs]
    if any(a.differs(b) for a, b in combinations(trained, 2)):
        said.append("The runs were trained on different data; see Runs.")
    for what, values in (
        ("revisions of the code", {run.facts.commit for run in runs}),
        ("numbers of steps", {run.facts.steps for run in runs}),
        ("devices", {run.facts.device for run in runs}),
    ):
        if len(values - {None}) > 1:
            said.append(f"The runs were trained with different {what}; see Runs.")
    if len({frozenset(marks) for run in runs if (marks := judged_on(run))}) > 1:
        said.append(
            "Not all were judged on the same data: figures are held against each other, and "
            "averaged, only where the data are the same."
        )
    if len({run.system for run in runs}) > 1:
        said.append(
            "Losses of different systems measure different things: compare their courses, not "
            "their heights."
        )
    compared = sum(g is not None for b in lines for g in b.gaps)
    if compared > 1:
        said.append(
            f"{compared} differences are shown. Among so many some are large by chance: decide "
            "which figure counts before looking."
        )
    return [clean(text, 1200) for text in said]
