"""Comparing: figures of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rhyme.config import load_yaml
from rhyme.evaluation import Comparison, Result, read_results
from rhyme.evaluation import compare as compare_results
from rhyme.report.arms import TrainingData, sort_runs, trained_on
from rhyme.run import RunFolder, read_jsonl


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A run folder with its rows, and how many of an earlier encoder it had besides."""

    system: str
    run: str
    config: str
    rows: Sequence[Result]
    earlier: int
    trained: TrainingData

    @property
    def name(self) -> str:
        return self.system


def compare(runs: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """Figures of several runs: mean and spread over seeds, and paired differences.

    Runs that differ in nothing but their seed are one arm. Where a system has several, each is
    called by the options in which they differ, e.g. ``"cycle_contrast cycle_weight 0.0"``, and
    its untrained encoder by the same. Runs that were trained on different data and judged on the
    same are different arms. Of a run that was judged at several checkpoints the last rows count.

    Args:
        runs: run folders that were evaluated, or files of result rows.
        baseline: arm that the others are compared with; each arm's own untrained encoder by
            default.

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
    marks = [list(dict.fromkeys(row.data_fingerprint for row in run.rows)) for run in judged]
    arms = sort_runs(judged, marks, [run.trained for run in judged])
    for name, places in arms:
        own = [row for place in places for row in judged[place].rows]
        system = judged[places[0]].system
        if sum(judged[other[0]].system == system for _, other in arms) > 1:
            told = name.removeprefix(system).lstrip(", ")
            names = {"trained": told, "untrained": f"{told} untrained"}
            own = [replace(row, encoder=names.get(row.encoder, row.encoder)) for row in own]
        rows += own
    done = compare_results(rows, baseline=baseline)
    earlier = [
        f"{run.run}: {run.earlier} figures are of an earlier encoder of the run and do not count"
        for run in judged
        if run.earlier
    ]
    return replace(done, notes=(*earlier, *done.notes))


def _judged(path: Path) -> _Judged:
    run = RunFolder.open(path)
    text = run.config.read_text(encoding="utf-8")
    system = str(load_yaml(run.config).get("system", path.name))
    every = read_results(run.results)
    last: dict[str, Result] = {}
    earlier = 0
    for row in every:
        key = repr([
            row.data_fingerprint, row.protocol, row.metric, sorted(row.settings.items()),
            row.export, row.encoder, row.pair, row.seed,
        ])  # fmt: skip
        before = last.get(key)
        if before is not None and row.encoder != "untrained":
            earlier += before.checkpoint != row.checkpoint
        last[key] = row
    return _Judged(
        system=system,
        run=str(path),
        config=text,
        rows=[*last.values()],
        earlier=earlier,
        trained=trained_on(read_jsonl(run.events)),
    )
