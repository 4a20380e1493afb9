"""Ranks on this machine: start them, pass signals on, start them again when one dies.

Torchrun does much of this too, but gives one exit code for every end, prints a report of its own
and knows nothing of a run that was saved and is to be requeued. Here an error of the user's is told
once and never tried again, and only a rank that died without a word is worth a restart.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rhyme.api.fit import Trained
from rhyme.api.launch import outcome
from rhyme.board import Meeting
from rhyme.errors import RhymeError, TrainingError
from rhyme.notices import tell
from rhyme.run import RunFolder
from rhyme.signals import Preempted, StopRequest

RANK: tuple[str, ...] = (sys.executable, "-m", "rhyme.api.launch.rank")
"""The command of a rank."""

POLL_S = 0.1
END_S = 30.0
"""Seconds that the ranks have to end after the first of them has said how it ended."""


def start_ranks(
    run: Path,
    *,
    ranks: int,
    restarts: int,
    device: str,
    fresh: bool,
    progress: bool | None,
) -> Trained:
    """Train a run folder on ranks of this machine.

    Args:
        run: the run folder.
        ranks: how many.
        restarts: how often all start again, from the newest checkpoint, after one has died.
        device: where they compute; ``cuda`` gives each a GPU of its own.
        fresh: the run has not begun yet.
        progress: False for silence on standard error.

    Raises:
        Preempted: a signal asked to stop; the state is saved.
        TrainingError: ranks died more often than they may.
        RhymeError: what a rank has met, told once.
    """
    folder = Path(tempfile.mkdtemp(prefix="rhyme-ranks-"))
    words = ["quiet"] if progress is False else []
    job = _Job(run=run, ranks=ranks, device=device, folder=folder, words=words)
    try:
        with StopRequest() as request:
            attempt = 0
            while True:
                job.start(attempt, resume=not fresh or attempt > 0)
                ended = job.wait(request)
                if isinstance(ended, Trained):
                    return ended
                if isinstance(ended, RhymeError):
                    raise ended
                if request.name is not None:
                    raise _stopped(run, request.name)
                if attempt == restarts:
                    raise _died(run, ended, ranks, restarts)
                attempt += 1
                _tell_restart(run, ended, attempt, restarts, progress)
    finally:
        job.kill()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Death:
    """A rank that ended without saying how, or did not end.

    Attributes:
        rank: its number.
        code: exit code, or minus the signal that ended it; None where it was still running when
            all had to have ended.
        said: last lines of its standard error, where they were not shown.
    """

    rank: int
    code: int | None
    said: str

    @property
    def how(self) -> str:
        if self.code is None:
            return f"rank {self.rank} still ran {END_S:g} s after another one had ended"
        if self.code < 0:
            return f"rank {self.rank} was ended by {signal.Signals(-self.code).name}"
        return f"rank {self.rank} ended with code {self.code}"


@dataclass(kw_only=True)
class _Job:
    """The processes of one start."""

    run: Path
    ranks: int
    device: str
    folder: Path
    words: Sequence[str]
    meeting: Meeting | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, attempt: int, *, resume: bool) -> None:
        """Start all ranks; nothing of an earlier start is left."""
        words = [*self.words, *(["resume"] if resume else [])]
        command = [*RANK, str(self.run), str(self.folder), self.device, *words]
        threads = max((os.cpu_count() or 1) // self.ranks, 1)
        defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self.processes = []
        self.meeting = Meeting()  # a new one, without the addresses of those that are gone
        for rank in range(self.ranks):
            given = self.meeting.environment(rank, self.ranks, attempt)
            with outcome.errors_of(self.folder, rank).open("wb") as errors:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=defaults | os.environ | given,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=None if rank == 0 else errors,
                        # Ctrl-C reaches this process alone, which passes it on once.
                        start_new_session=True,
                        preexec_fn=_DIE_WITH_PARENT,
                    )
                )

    def wait(self, request: StopRequest) -> outcome.Outcome | _Death:
        """Wait until all have ended, or one has died; the others are ended then."""
        told, end = False, float("inf")
        while True:
            if request.name is not None and not told:
                told = True
                self._stop()
            codes = [process.poll() for process in self.processes]
            said = [outcome.read(self.folder, r) is not None for r in range(self.ranks)]
            if any(said):
                end = min(end, time.monotonic() + END_S)
            # Who has said how the run ended may take its time to leave, or fail in doing so.
            dead = [r for r, code in enumerate(codes) if code is not None and not said[r]]
            if all(code is not None for code in codes) or (dead and not any(said)):
                break
            if time.monotonic() > end:
                break
            time.sleep(POLL_S)
        self.kill()
        ended = outcome.common(self.folder, self.ranks)
        if ended is not None:
            return ended
        # One that was killed comes before those that lost the connection to it, and these before
        # one that hangs.
        silent = [r for r in range(self.ranks) if not said[r]]
        rank = min(silent, key=lambda r: (codes[r] is None, (codes[r] or 0) >= 0))
        return _Death(rank=rank, code=codes[rank], said=self._said(rank))

    def kill(self) -> None:
        """End all ranks and their workers at once."""
        for process in self.processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes = []

    def _stop(self) -> None:
        """Ask all ranks to save and leave; one that has not begun to train ends without a word."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)

    def _said(self, rank: int) -> str:
        text = outcome.errors_of(self.folder, rank).read_text(errors="replace").strip()
        return "\n".join(text.splitlines()[-20:])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_DIE_WITH_PARENT: Callable[[], None] | None = (
    _die_with_parent if sys.platform.startswith("linux") else None
)
"""Run in a rank before anything else. Elsewhere the rank's own guard sees that its parent is gone,
from the moment on at which it has joined the others."""


def _tell_restart(
    run: Path, death: _Death, number: int, restarts: int, progress: bool | None
) -> None:
    RunFolder(run).event("restarted", cause=death.how, number=number)
    if progress is not False:
        said = f"\n{death.said}" if death.said else ""
        tell(
            f"{death.how}; all ranks start again from the last checkpoint "
            f"({number} of at most {restarts}){said}"
        )


def _stopped(run: Path, name: str) -> Preempted:
    return Preempted(
        f"stopped by {name} before the ranks could save",
        file=run,
        stage="launch",
        remedy=f"go on from the last checkpoint with: rhyme train --resume {run}",
    )


def _died(run: Path, death: _Death, ranks: int, restarts: int) -> TrainingError:
    hint = "the system may have been out of memory (see dmesg); " if death.code == -9 else ""
    return TrainingError(
        f"{death.how}, after {restarts} restarts",
        file=run,
        stage="launch",
        value=death.said.splitlines()[-1] if death.said else None,
        remedy=f"{hint}go on from the last checkpoint with: "
        f"rhyme train --resume {run} --launch local --ranks {ranks}",
    )
