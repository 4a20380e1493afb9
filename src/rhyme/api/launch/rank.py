"""One rank of a run: the process that ``--launch local`` starts.

It trains in a run folder that is made already, and leaves a file that says how it ended. Without
such a file it has died, and the one who started it decides what to do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rhyme.api.fit import Trained, fit_run
from rhyme.api.launch import outcome
from rhyme.errors import RankError, RhymeError
from rhyme.training.ranks import joined, one_fate


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and say how it ended.

    Args:
        arguments: run folder, folder of outcomes, device, and the words ``resume`` and ``quiet``
            where they apply.

    Returns:
        The exit code.
    """
    run, folder, device, *words = sys.argv[1:] if arguments is None else arguments
    progress = False if "quiet" in words else None
    done: Trained | RhymeError
    try:
        with joined(device), one_fate():
            done = fit_run(run, device=device, resume="resume" in words, progress=progress)
    except RankError as error:  # a death like that of the rank which is lost
        outcome.errors_of(Path(folder), int(os.environ["RANK"])).write_text(error.cause)
        return error.exit_code
    except RhymeError as error:
        done = error
    except KeyboardInterrupt:
        return 130
    with contextlib.suppress(OSError):  # the one who started it sees that it has not said anything
        outcome.write(Path(folder), int(os.environ["RANK"]), done)
    return done.exit_code if isinstance(done, RhymeError) else 0


if __name__ == "__main__":
    sys.exit(main())
