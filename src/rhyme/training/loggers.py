"""Run logs for other programs: TensorBoard, Weights & Biases, trackio.

``metrics.jsonl`` is always written and is the truth. What is named in ``train.loggers`` gets the
same rows beside it, flattened to ``parts/intra``, ``monitors/std/m``, ``probes/cycle/return_rate``.
Nothing leaves the machine by itself: W&B starts offline unless ``WANDB_MODE`` says otherwise. A
logger that fails is given up with an event; training goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from rhyme.errors import ConfigError, nearest
from rhyme.run import RunFolder
from rhyme.training.log import EventLog

Figures = Mapping[str, float]


class Logger(Protocol):
    """A program that shows curves."""

    def log(self, step: int, figures: Figures) -> None:
        """Take the figures of a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class _TensorBoard:
    """Event files in ``RUN/tensorboard``; rows that a resumed run does again replace the old."""

    def __init__(self, run: RunFolder, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = run.path / "tensorboard"
        # Rows may be there without any checkpoint: of a run that died before its first one.
        again = step + 1 if folder.exists() else None
        self._writer = SummaryWriter(str(folder), purge_step=again)

    def log(self, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)  # pyright: ignore[reportUnknownMemberType]
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """The interface that W&B and trackio share: ``init``, ``log``, ``finish``."""

    def __init__(self, module: Any, **options: Any) -> None:
        self._module = module
        module.init(project="rhyme", **options)

    def log(self, step: int, figures: Figures) -> None:
        self._module.log(dict(figures), step=step)

    def close(self) -> None:
        self._module.finish()


def _wandb(run: RunFolder, step: int) -> Logger:
    return _Tracker(
        importlib.import_module("wandb"),
        name=run.path.name,
        id=_identity(run),
        resume="allow",
        dir=str(run.path),
        mode=os.environ.get("WANDB_MODE", "offline"),
    )


def _trackio(run: RunFolder, step: int) -> Logger:
    name = f"{run.path.name}-{_identity(run)}"
    return _Tracker(importlib.import_module("trackio"), name=name, resume="allow")


LOGGERS: dict[str, Callable[[RunFolder, int], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""Name to (run, steps done) → logger."""


def _identity(run: RunFolder) -> str:
    """The same for every part of a run: a hash of its first event."""
    first = run.events.read_bytes().partition(b"\n")[0] if run.events.is_file() else b""
    return hashlib.sha256(first + run.path.name.encode()).hexdigest()[:12]


def check_loggers(names: Iterable[str]) -> None:
    """Refuse loggers that cannot be used, before a run folder is made.

    Raises:
        ConfigError: a name is unknown, or its library is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(
                "unknown logger", stage="train", value=name, remedy=nearest(name, LOGGERS)
            )
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"the logger '{name}' is not installed",
                stage="train",
                value=name,
                remedy=f"pip install 'rhyme-ssl[{name}]', or leave it out of train.loggers",
            )


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by path; its own step and clock are left out."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}/"))  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, int | float) and (prefix or name not in ("step", "eta")):
            found[f"{prefix}{name}"] = float(value)
    return found


class Loggers:
    """The loggers of a run; see the module's text.

    Args:
        names: of :data:`LOGGERS`.
        run: the run.
        step: steps done before this part of the run.
        log: takes the events; the run itself if not said otherwise.

    Raises:
        ConfigError: a name is unknown, or its library is not installed.
    """

    def __init__(
        self, names: Iterable[str], run: RunFolder, step: int = 0, log: EventLog | None = None
    ) -> None:
        self.run, self._log = run, log or run
        self._open: dict[str, Logger] = {}
        names = tuple(names)
        check_loggers(names)
        for name in names:
            self._try(name, lambda name=name: self._start(name, step))

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row of metrics to all."""
        figures = flat(row)
        for name, logger in list(self._open.items()):
            self._try(name, lambda logger=logger: logger.log(int(row["step"]), figures))

    def close(self) -> None:
        """Close all."""
        for name, logger in list(self._open.items()):
            self._try(name, logger.close)
        self._open.clear()

    def _start(self, name: str, step: int) -> None:
        self._open[name] = LOGGERS[name](self.run, step)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Do it; a logger that fails is given up, since its curves are a copy."""
        try:
            work()
        except Exception as error:
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {error}"
            self._log.event("logger_failed", logger=name, reason=reason)
