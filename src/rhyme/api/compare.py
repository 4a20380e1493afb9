"""Comparing: figures of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rhyme.config import load_yaml
from rhyme.evaluation import Comparison, Result, read_results
from rhyme.evaluation import compare as compare_results
from rhyme.report.arms import sort_runs
from rhyme.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A run folder with its rows."""

    system: str
    run: str
    config: str
    rows: Sequence[Result]

    @property
    def name(self) -> str:
        return self.system


def compare(runs: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """Figures of several runs: mean and spread over seeds, and paired differences.

    Runs that differ in nothing but their seed are one arm. Where a system has several, each is
    called by the options in which they differ, e.g. ``"cycle_contrast cycle_weight 0.0"``.

    Args:
        runs: run folders that were evaluated, or files of result rows.
        baseline: arm that the others are compared with; each system's untrained encoder by default.

    Returns:
        The comparison.

    Raises:
        EvaluationError: without rows.
        UnknownName: no row has the baseline.
    """
    rows: list[Result] = []
    judged: list[_Judged] = []
    for path in map(Path, runs):
        if path.is_file():
            rows += read_results(path)
        else:
            judged.append(_judged(path))
    arms = sort_runs(judged)
    for name, places in arms:
        own = [row for place in places for row in judged[place].rows]
        system = judged[places[0]].system
        if sum(judged[other[0]].system == system for _, other in arms) > 1:
            told = name.removeprefix(system).lstrip(", ")
            own = [replace(r, encoder=told) if r.encoder == "trained" else r for r in own]
        rows += own
    return compare_results(rows, baseline=baseline)


def _judged(path: Path) -> _Judged:
    run = RunFolder.open(path)
    text = run.config.read_text(encoding="utf-8")
    system = str(load_yaml(run.config).get("system", path.name))
    return _Judged(system=system, run=str(path), config=text, rows=read_results(run.results))
