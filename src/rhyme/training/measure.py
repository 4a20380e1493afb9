"""How long a step takes and how much memory it needs, from a few steps on made-up weights.

What ``rhyme estimate`` rests on. A batch too large for the time at hand is measured at two smaller
sizes and carried on along the line through them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rhyme.heap import give_back
from rhyme.loading.batch import Batch
from rhyme.systems.base import StepContext, System
from rhyme.training.stepper import Stepper

MakeBatch = Callable[[int, int], Batch]
"""``(items, number)`` → a batch of so many items, a fresh one for each number."""

WARM = 2  # steps that are left out: they fill caches, choose kernels, grow the heap
LEAST, MOST = 5, 50  # steps that are timed
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Span:
    """A figure with the bounds between which it is expected.

    Attributes:
        value: the figure.
        low: lower bound.
        high: upper bound.
    """

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Span:
        """Median, and the tenth and ninetieth percentile."""
        low, value, high = np.quantile(values, (0.1, 0.5, 0.9))
        return Span(float(value), float(low), float(high))

    def __mul__(self, factor: float) -> Span:
        return Span(self.value * factor, self.low * factor, self.high * factor)

    def __add__(self, other: Span) -> Span:
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def wider(self, share: float) -> Span:
        """Bounds moved out by a share of the figure."""
        more = share * self.value
        return Span(self.value, max(self.low - more, 0.0), self.high + more)


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step costs on one rank.

    Attributes:
        seconds: time of a step on ``items`` items, without loading them.
        memory: bytes at the peak, above what the process held before the system was built; None
            where it cannot be read.
        sizes: batch sizes that were measured; one, or two that the figures are carried on from.
        steps: steps that were timed.
    """

    seconds: Span
    memory: float | None
    sizes: tuple[int, ...]
    steps: int


@dataclass
class Peak:
    """Bytes above a baseline, at the highest."""

    bytes: float | None = None


@contextmanager
def peak_memory(device: torch.device, baseline: int) -> Generator[Peak]:
    """The most memory that is in use within: allocated on a GPU, resident on a CPU (Linux)."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = float(torch.cuda.max_memory_allocated(device) - baseline)
        return
    if resident() is None:
        yield peak
        return
    done = threading.Event()
    seen = [resident() or 0]

    def watch() -> None:
        while not done.wait(0.002):
            seen[0] = max(seen[0], resident() or 0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
    peak.bytes = float(max(seen[0], resident() or 0) - baseline)


def resident() -> int | None:
    """Bytes of memory that this process holds; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return None


def in_use(device: torch.device) -> int:
    """The baseline for :func:`peak_memory`."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    give_back()  # what is free would be taken again without being seen
    return resident() or 0


@dataclass
class StepMeter:
    """Times the steps of a system.

    Attributes:
        stepper: the system with its optimisers, set up.
        make: makes batches on the stepper's device.
        device: where it computes.
        baseline: bytes in use before the system was built.
        multiple: batch sizes are multiples of this (batch-norm groups).
        budget: seconds to spend.
    """

    stepper: Stepper
    make: MakeBatch
    device: torch.device
    baseline: int
    multiple: int = 1
    budget: float = 20.0
    _number: int = field(default=0, init=False)

    def measure(self, items: int) -> StepCost:
        """The cost of a step on ``items`` items."""
        small = self._round(max(2 * self.multiple, min(8, items)), items)
        first = self._once(small)  # builds everything that is built once
        with peak_memory(self.device, self.baseline) as peak:
            first = min(first, self._once(small))
        dearest = first * items / small * (WARM + LEAST)
        if small >= items or dearest <= self.budget:
            span, memory, steps = self._series(items, self.budget)
            return StepCost(seconds=span, memory=memory, sizes=(items,), steps=steps)
        fits = self.budget / 2 / (first / small * (WARM + LEAST))
        large = min(self._round(max(int(fits), 2 * small), items), items)
        at_small, low_memory, few = self._series(small, self.budget / 4)
        at_large, high_memory, many = self._series(large, self.budget)
        low_memory = low_memory or peak.bytes
        return StepCost(
            seconds=_carry(at_small, at_large, small, large, items),
            memory=None
            if low_memory is None or high_memory is None
            else _line(low_memory, high_memory, small, large, items),
            sizes=(small, large),
            steps=few + many,
        )

    def _round(self, items: int, most: int) -> int:
        return min(max(items // self.multiple, 1) * self.multiple, most)

    def _series(self, items: int, budget: float) -> tuple[Span, float | None, int]:
        taken: list[float] = []
        with peak_memory(self.device, self.baseline) as peak:
            for _ in range(WARM):
                self._once(items)
            while len(taken) < LEAST or (sum(taken) < budget and len(taken) < MOST):
                taken.append(self._once(items))
        return Span.of(taken), peak.bytes, len(taken)

    def _once(self, items: int) -> float:
        """Seconds of a step, all its phases and repeats, their batches made before."""
        phases = self.stepper.phases()
        todo = [(phase, repeat) for phase in phases for repeat in range(phase.repeats)]
        batches: list[Batch] = []
        for _ in todo:
            batches.append(self.make(items, self._number).to(self.device))
            self._number += 1
        rates = self.stepper.rates(0, 1, 1.0)
        self._wait()
        began = time.perf_counter()
        for batch, (phase, repeat) in zip(batches, todo, strict=True):
            at = StepContext(step=self._number, steps=1, phase=phase.name, repeat=repeat)
            self.stepper.step(batch, phase, at, rates)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _line(at_small: float, at_large: float, small: int, large: int, items: int) -> float:
    """The value at ``items`` on the line through two points, at least the larger one's."""
    if large <= small:
        return at_large
    slope = max(at_large - at_small, 0.0) / (large - small)
    return at_large + slope * (items - large)


def _carry(at_small: Span, at_large: Span, small: int, large: int, items: int) -> Span:
    """Seconds at ``items``: the line through both medians, and bounds that know how far it is."""
    value = _line(at_small.value, at_large.value, small, large, items)
    # Bounds: all of a step's cost grows with the items, or as the line says, whichever is further.
    in_ratio = at_large.value * items / large
    scale = items / large
    low = min(value, in_ratio) - (at_large.value - at_large.low) * scale
    high = max(value, in_ratio) + (at_large.high - at_large.value) * scale
    return Span(value, max(low, 0.0), high)


def state_bytes(system: System, stepper: Stepper) -> int:
    """Bytes of a checkpoint's tensors: the system's, and its optimisers' (after a step)."""
    held = [value for value in system.state_dict().values() if isinstance(value, Tensor)]
    for optimizer, _ in stepper.pairs.values():
        for state in cast(dict[Any, dict[str, Any]], optimizer.state).values():
            held += [v for v in state.values() if isinstance(v, Tensor)]
    return sum(t.numel() * t.element_size() for t in held)
