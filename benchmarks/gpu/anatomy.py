"""Where the time of a step goes: ``python -m benchmarks.gpu.anatomy [moco simclr ...]``.

Prints for steps of the recipes for small pictures, eager and compiled: milliseconds by the clock,
milliseconds of the GPU with the host ahead, and the kernels that take most of them. No row is
written: it explains what ``benchmarks.gpu`` measures.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.pictures import SIZE, of_recipe
from benchmarks.gpu.step import Run
from rhyme.systems import StepContext
from rhyme.systems.moco import Moco
from rhyme.systems.simclr import Simclr
from rhyme.training.stepper import Stepper

KINDS = {"moco": Moco, "simclr": Simclr}
COUNTED = 10
"""Steps that are timed, and profiled, each."""


def step_of(run: Run) -> Callable[[], Any]:
    """One step that does not read its loss."""
    (phase,) = run.stepper.phases()
    rates = dict.fromkeys(run.stepper.groups, 0.01)
    at = StepContext(step=100, steps=10_000)
    return lambda: run.stepper.step(run.batch, phase, at, rates)


def by_clock(step: Callable[[], Any]) -> float:
    """Median milliseconds of a step."""
    found: list[float] = []
    for _ in range(COUNTED):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - began))
    return median(found)


def in_a_row(step: Callable[[], Any]) -> float:
    """Milliseconds of a step by the clock, of several in a row."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(COUNTED):
        step()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / COUNTED


def on_gpu(step: Callable[[], Any]) -> float:
    """Milliseconds of the GPU for a step that never waits, all of it launched beforehand."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found: list[float] = []
    with mock.patch.object(Stepper, "_finite", return_value=(True, True)):
        for _ in range(COUNTED):
            torch.cuda.synchronize()
            torch.cuda._sleep(400_000_000)  # pyright: ignore[reportPrivateUsage] - about 200 ms
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end))
    return median(found)


def kernels(step: Callable[[], Any], most: int) -> str:
    """The kernels by their share of a step."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(COUNTED):
            step()
        torch.cuda.synchronize()
    rows = [
        (event.self_device_time_total / 1e3 / COUNTED, event.count / COUNTED, event.key)
        for event in seen.key_averages()
        if event.self_device_time_total > 0 and str(event.device_type).endswith("CUDA")
    ]
    rows.sort(reverse=True)
    head = f"  {sum(r[0] for r in rows):.2f} ms in {sum(r[1] for r in rows):.0f} kernels a step"
    return "\n".join(
        [head, *(f"  {ms:7.3f} ms {n:6.1f}  {key[:110]}" for ms, n, key in rows[:most])]
    )


def main() -> int:
    """Print the anatomy of each step asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.anatomy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", choices=[[], *KINDS], help="systems; all of them")
    parser.add_argument("--kernels", type=int, default=16, help="how many are printed")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: not measured on a GPU, there is none here", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="rhyme-bench-") as room:
        for name in options.names or KINDS:
            for mode in ("off", "on"):
                system = of_recipe(KINDS[name])
                run = Run(Path(room), f"{name}-{mode}", system, 512, SIZE, compile=mode)
                began = time.perf_counter()
                run(3)
                first = time.perf_counter() - began
                step = step_of(run)
                print(
                    f"{name}, compile {mode}: first steps {first:.0f} s; {by_clock(step):.1f} ms a "
                    f"step alone, {in_a_row(step):.1f} in a row, {on_gpu(step):.1f} of the GPU",
                    flush=True,
                )
                try:
                    print(kernels(step, options.kernels), flush=True)
                except Exception as error:
                    print(f"  no profile: {type(error).__name__}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
