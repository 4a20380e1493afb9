"""What it saves to keep freed memory for the next step (``rhyme.heap``), and what it holds more.

Compared: training steps of CycleContrast on a CPU in two fresh processes that differ in the one
call, in turns: the demo's encoder (``small``, 128 items of 24 pixels) and a ResNet-18 (32 items of
96 pixels). ``memory`` is the most that the process held, by the system's count.

Checked: the losses of both are the same numbers, bit for bit.

Expected, from one look at whole trainings that spent a fifth of their time in page faults: steps
1.1 times as fast with both encoders; at most a tenth more memory, hence a ratio of 0.9.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import connection, get_context
from pathlib import Path

import torch

from benchmarks.checkpoint import Repeated
from benchmarks.ratio import Case, WrongResult, told
from benchmarks.step import Step
from rhyme.heap import keep_freed
from rhyme.recipes.cycle_contrast import cycle_contrast_world_demo
from rhyme.run import RunFolder
from rhyme.systems import StepContext
from rhyme.systems.cycle_contrast import CycleContrast
from rhyme.training.stepper import Stepper
from rhyme.workers import end_with_parent

STEPS = {"small": 20, "resnet18": 4}
Found = tuple[float, list[float]]


class Demo:
    """Steps of the demo's recipe on one batch."""

    def __init__(self, room: Path) -> None:
        recipe = cycle_contrast_world_demo()
        torch.manual_seed(0)
        system = CycleContrast(recipe.model).train()
        self.stepper = Stepper(system, recipe.train, RunFolder.create(room / "run", recipe.train))
        self.batch = Repeated(recipe.train.batch_size, 24).batch
        self.at = 0

    def __call__(self) -> float:
        """One step; its loss."""
        (phase,) = self.stepper.phases()
        context = StepContext(step=self.at, steps=1000)
        output, _, _ = self.stepper.step(self.batch, phase, context, {"all": 0.01})
        self.at += 1
        return float(output.loss.detach())


def serve(channel: connection.Connection, kept: bool, encoder: str, quick: bool) -> None:
    """Take steps in this process, so many a request, until the channel is closed.

    Args:
        channel: takes numbers of steps; gives their seconds, the peak of memory in MiB and losses.
        kept: whether freed memory is kept.
        encoder: of :data:`STEPS`.
        quick: a small network and batch in the larger one's place.
    """
    end_with_parent()
    if kept:
        keep_freed()
    with tempfile.TemporaryDirectory(prefix="rhyme-bench-") as room:
        step = Demo(Path(room)) if encoder == "small" else Step(Path(room), "run", quick)
        while (count := channel.recv()) is not None:
            began = time.perf_counter()
            losses = [step() for _ in range(count)]
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            channel.send((seconds, peak, losses))


class Elsewhere:
    """A side that runs in a process of its own."""

    def __init__(self, kept: bool, encoder: str, quick: bool) -> None:
        context = get_context("spawn")
        self.channel, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, kept, encoder, quick))
        self.process.start()
        self.count = 1 if quick else STEPS[encoder]

    def ask(self, what: str) -> Found:
        """Seconds of the next steps, or the peak so far in MiB; and the losses."""
        self.channel.send(self.count)
        seconds, peak, losses = self.channel.recv()
        return (peak if what == "memory" else seconds), losses

    def close(self) -> None:
        self.channel.send(None)
        self.process.join()


def same(ours: list[float], peer: list[float]) -> None:
    """The same steps were taken."""
    if ours != peer:
        raise WrongResult(f"losses {ours} and {peer}")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    del room
    for encoder in STEPS:
        kept, freed = (Elsewhere(choice, encoder, quick) for choice in (True, False))
        for what, least, why in (
            ("time", 1.1, "no page is taken from the system anew"),
            ("memory", 0.9, "what is free lies between what is in use"),
        ):
            yield Case(
                name=f"heap/{encoder}" + ("/memory" if what == "memory" else ""),
                ours=partial(kept.ask, what),
                peer=partial(freed.ask, what),
                peer_name="memory goes back to the system",
                same=same,
                at_least=least,
                why=why,
                measure=told,
                unit="MiB" if what == "memory" else "s",
            )
        kept.close()
        freed.close()
