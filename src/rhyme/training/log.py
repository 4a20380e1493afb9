"""Writing down what happens while a run trains, on a disk that may be full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from rhyme.errors import RunError
from rhyme.run import RunFolder


class EventLog(Protocol):
    """Takes events: a run folder, or a :class:`RunLog` of one."""

    def event(self, kind: str, **facts: Any) -> None:
        """Write down that something has happened."""
        ...


class RunLog:
    """The log of a run that trains: a disk that refuses an event or a row does what was asked.

    Args:
        run: the run folder.
        errors: ``"stop"`` the run, or ``"warn"`` and go on without what is refused.
        say: tells the user a line.
    """

    def __init__(
        self, run: RunFolder, errors: Literal["stop", "warn"], say: Callable[[str], None]
    ) -> None:
        self.run, self.errors, self.say = run, errors, say

    def event(self, kind: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            RunError: the disk refuses, and errors stop the run.
        """
        self.attempt(lambda: self.run.event(kind, **facts))

    def attempt(self, write: Callable[[], object]) -> None:
        """Write something else; its failure stops the run, or is told.

        Raises:
            RunError: the disk refuses, and errors stop the run; or an error of the system.
        """
        try:
            write()
        except (RunError, OSError) as error:
            if self.errors == "stop":
                raise
            cause = error.cause if isinstance(error, RunError) else error.strerror or error
            self.say(f"warning: {cause}; training goes on")
