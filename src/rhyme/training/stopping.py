"""Leaving a run before its last step: one cause for all ranks, and what is told of it."""

from __future__ import annotations

from pathlib import Path

from rhyme import distributed
from rhyme.signals import Preempted


def common_cause(asked: str | None) -> str | None:
    """Why all ranks stop after this step; every rank gets the same answer.

    Signals may have reached only some of the ranks, or not all of them the same ones. SIGTERM comes
    before any other: a job that was cancelled must not queue itself again because one of its ranks
    was also told that its time is up.

    Args:
        asked: what asked this rank to stop, such as the name of a signal; None where nothing did.

    Returns:
        The cause; None where no rank was asked.
    """
    if not distributed.agree(asked is not None):
        return None
    causes = [cause for cause in distributed.exchange(asked) if cause is not None]
    return "SIGTERM" if "SIGTERM" in causes else causes[0]


def preempted(cause: str, step: int, steps: int, run: Path) -> Preempted:
    """The error of a run that was stopped and saved.

    Args:
        cause: as of :func:`common_cause`.
        step: steps that are done.
        steps: steps of the run.
        run: the run folder.
    """
    return Preempted(
        f"stopped by {cause} after step {step} of {steps}; the state is saved",
        file=run,
        stage="train",
        remedy=f"go on with: rhyme train --resume {run}",
    )
