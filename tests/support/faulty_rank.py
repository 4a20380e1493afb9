"""A rank of a run that meets trouble: ``faulty_rank.py TROUBLE [arguments of a rank]``.

Without further arguments it is a rank that torchrun starts, and runs the command line after ``--``.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from rhyme import distributed
from rhyme.errors import DataError
from rhyme.loading import CatalogSource
from rhyme.training import saving
from rhyme.training.loop import Trainer

LAST = os.environ.get("RANK") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
FIRST = os.environ.get("RANK") == "0"
AGAIN = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def before_step(number: int, act: Callable[[], None]) -> None:
    """Act on this rank before a step."""
    plain = Trainer._step

    def step(self: Trainer, *args: Any) -> Any:
        if self.step == number:
            act()
        return plain(self, *args)

    Trainer._step = step


def after_batches(number: int) -> None:
    """The source of this rank gives up after so many batches."""
    plain = CatalogSource.batches

    def batches(self: CatalogSource) -> Any:
        for count, batch in enumerate(plain(self)):
            if count == number:
                raise DataError(
                    "9 of 24 items cannot be decoded",
                    stage="loading",
                    remedy="scan again with --depth frames, which leaves damaged files out",
                )
            yield batch

    CatalogSource.batches = batches


def nan_from(number: int) -> None:
    """Pixels of this rank that are no numbers, from a step on."""
    plain = Trainer._next

    def next_batch(self: Trainer) -> Any:
        batch = plain(self)
        if self.step >= number:
            for view in batch.views.values():
                view.data.fill_(float("nan"))
        return batch

    Trainer._next = next_batch


def full_disk() -> None:
    def save(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run/checkpoints")

    saving.checkpoint.save = save


def hit(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def trouble(kind: str) -> None:
    """Prepare what this rank will meet."""
    if kind == "stop" and LAST:
        before_step(2, hit(signal.SIGTERM))
    elif kind == "user-signal" and LAST:
        before_step(2, hit(signal.SIGUSR1))
    elif kind == "killed" and LAST and not AGAIN:
        before_step(3, hit(signal.SIGKILL))
    elif kind == "always-killed" and LAST:
        before_step(0, hit(signal.SIGKILL))
    elif kind == "data" and LAST:
        after_batches(3)
    elif kind == "nan" and LAST:
        nan_from(3)
    elif kind == "disk" and FIRST:
        full_disk()


if __name__ == "__main__":
    trouble(sys.argv.pop(1))
    if sys.argv[1:2] == ["--"]:
        from rhyme.cli import main

        main(sys.argv[2:])
    from rhyme.api.launch.rank import main as rank_main

    assert not distributed.is_active()
    sys.exit(rank_main())
