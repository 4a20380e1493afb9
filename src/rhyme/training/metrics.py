"""Means over the steps of a row of ``metrics.jsonl``, and what a resumed run does to that file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.run import RunFolder, atomic_write, read_jsonl, to_json


class Window:
    """Means of named values over the steps since the last row.

    Sums stay on the device in float64 until they are read, so that adding to them waits for
    nothing. They belong to the checkpoint: a resumed run writes the rows of an undisturbed one.
    Whatever is read here is the mean over the ranks, so that rows are alike for any number of them:
    a diagnostic is of as many rows on each rank, or of all ranks' rows already. Reading is done on
    all ranks together.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Count a value of this step under ``name``."""
        term = torch.as_tensor(value).detach().to(torch.float64)
        known = self.sums.get(name)
        self.sums[name] = term.clone() if known is None else known + term.to(known.device)
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of every name, over steps and ranks."""
        sums, counts = self._of_all_ranks()
        return {name: total / counts[name] for name, total in sums.items()}

    def _of_all_ranks(self) -> tuple[dict[str, float], dict[str, int]]:
        """Sums whose ratio to the counts is the mean over all ranks that have the name."""
        own = {name: (float(t), self.counts[name]) for name, t in self.sums.items()}
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        tables = distributed.exchange(own)
        for name in {name: None for table in tables for name in table}:
            totals, numbers = zip(*(table[name] for table in tables if name in table), strict=True)
            counts[name] = max(numbers)
            sums[name] = sum(totals) * (counts[name] / sum(numbers))
        return sums, counts

    def clear(self) -> None:
        """Begin the next window."""
        self.sums.clear()
        self.counts.clear()

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts as plain numbers, alike on all ranks."""
        sums, counts = self._of_all_ranks()
        return {"sums": sums, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a window."""
        self.sums = {n: torch.tensor(v, dtype=torch.float64) for n, v in state["sums"].items()}
        self.counts = {str(name): int(count) for name, count in state["counts"].items()}


def forget_rows_after(run: RunFolder, step: int) -> int:
    """Leave out rows of steps that a resumed run is going to do again.

    Returns:
        How many rows were left out.
    """
    rows = read_jsonl(run.metrics)
    kept = [row for row in rows if not isinstance(row.get("step"), int) or row["step"] <= step]
    if len(kept) < len(rows):
        atomic_write(run.metrics, "".join(to_json(row) + "\n" for row in kept))
    return len(rows) - len(kept)
