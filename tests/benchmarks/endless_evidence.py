"""Two jobs beside each other that train until they are asked to stop, for tests that end them."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import evidence, studies
from rhyme.api import DataOptions
from rhyme.signals import StopRequest


def endless(job: studies.Job, runs: Path) -> None:
    with StopRequest() as request:
        (runs / f"{job.key}.new").write_text(str(os.getpid()))
        (runs / f"{job.key}.new").rename(runs / f"{job.key}.pid")
        while request.name is None:
            time.sleep(0.05)
    (runs / f"{job.key}.saved").touch()
    raise SystemExit("saved")


if __name__ == "__main__":
    evidence.run = endless
    place = Path(sys.argv[1])
    one = studies.Job("study", studies.Arm("one", "moco_world_demo"), 0, place, DataOptions())
    print(list(evidence.beside([one, replace(one, seed=1)], place, 2, 1e18)))
