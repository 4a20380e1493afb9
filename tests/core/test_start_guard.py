"""A signal before the first step ends the work, also where code in C lets nothing through."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, signal, time
from rhyme.signals import Preempted, StartGuard, StopRequest

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

try:
    with StartGuard("before the first step", file=None, remedy=lambda: "again"):
        Swallows()  # nothing that is raised in __del__ comes out of it
        time.sleep(20)
        print("not stopped")
except Preempted as error:
    print(error.cause)

with StopRequest() as request:
    time.sleep(0.2)
print(request.name)
"""


def test_a_signal_that_was_swallowed_comes_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["stopped by SIGTERM before the first step", "None"]
    assert not done.stderr, "it is nobody's concern that it was swallowed"
