"""Two sides measured against each other: in one process, in turns, checked before they are timed.

A :class:`Case` names both sides and states the expected ratio before anything is measured.
:func:`compare` runs each side once unmeasured (which also warms it up), checks that both did the
same work, and then measures ours, the peer, ours, the peer ... The ratio is the peer's median over
ours: above 1 we are ahead. The spread is the smallest and largest ratio of a single turn, so a busy
machine shows in it.
"""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

ROUNDS = 5

Side = Callable[[], Any]
Measure = Callable[[Side], tuple[float, Any]]


class WrongResult(AssertionError):
    """The two sides do not agree; their times mean nothing."""


def seconds(side: Side, clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Wall time of one call, without pauses of the garbage collector, and its result."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        began = clock()
        result = side()
        return clock() - began, result
    finally:
        if was_on:
            gc.enable()


def told(side: Side) -> tuple[float, Any]:
    """For a side that measures itself, and returns the figure with its result."""
    value, result = side()
    return float(value), result


def peak_mib(side: Side) -> tuple[float, Any]:
    """Most MiB that tensors made by the call held at once, on the CPU; the inputs do not count."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells of every start and stop
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = side()
    events = profile.profiler.kineto_results.events()
    held = highest = 0
    for event in sorted(
        (e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()
    ):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**20, result


def cuda_seconds(side: Side) -> tuple[float, Any]:
    """Time of one call on the GPU, and its result.

    The GPU is kept waiting until the call has been issued, so gaps between short kernels that a
    slow host would make do not count: in training the host is ahead.
    """
    gc.collect()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(20_000_000)  # clock cycles, about 10 ms
    begin.record()
    result = side()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000, result


def cuda_peak_mib(side: Side) -> tuple[float, Any]:
    """Most MiB that the call held on the GPU beyond what was held before, and its result."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = side()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20, result


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
        name: ``<benchmark>/<what>``, the name of the row.
        ours: our side.
        peer: the other side.
        peer_name: what the other side is.
        same: takes both results and raises :class:`WrongResult` where they differ.
        at_least: the ratio expected, stated before measuring.
        why: what the expectation rests on.
        cause: what is known about a miss; goes into the row of one.
        measure: how a side is measured; by wall time if not said otherwise.
        unit: of the measured value.
        threads: threads that torch may use; None leaves them as they are.
        rounds: turns of each side, at least 5 outside of ``--quick`` where one takes no minute.
        combine: (ours, peer) to the ratio; the peer over ours.
    """

    name: str
    ours: Side
    peer: Side
    peer_name: str
    same: Callable[[Any, Any], None]
    at_least: float
    why: str
    cause: str = ""
    measure: Measure = seconds
    unit: str = "s"
    threads: int | None = None
    rounds: int = ROUNDS
    combine: Callable[[float, float], float] = lambda ours, peer: peer / ours


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found; one line of ``results/bench.jsonl`` beside command, commit and machine."""

    name: str
    peer: str
    ratio: float
    spread: tuple[float, float]
    medians: dict[str, float]
    unit: str
    rounds: int
    threads: int
    expectation: dict[str, Any]
    met: bool
    note: str

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "spread": list(self.spread)}


def compare(case: Case, rounds: int | None = None) -> Row:
    """Check and measure one case.

    Raises:
        WrongResult: the sides disagree.
    """
    rounds = rounds or case.rounds
    before = torch.get_num_threads()
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    try:
        _, ours = case.measure(case.ours)
        _, peer = case.measure(case.peer)
        case.same(ours, peer)
        del ours, peer
        taken: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(rounds):
            taken["ours"].append(case.measure(case.ours)[0])
            taken["peer"].append(case.measure(case.peer)[0])
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    medians = {side: median(values) for side, values in taken.items()}
    ratio = case.combine(medians["ours"], medians["peer"])
    turns = [case.combine(*turn) for turn in zip(taken["ours"], taken["peer"], strict=True)]
    met = ratio >= case.at_least
    return Row(
        name=case.name,
        peer=case.peer_name,
        ratio=round(ratio, 4),
        spread=(round(min(turns), 4), round(max(turns), 4)),
        medians={side: float(f"{value:.6g}") for side, value in medians.items()},
        unit=case.unit,
        rounds=rounds,
        threads=threads,
        expectation={"at_least": case.at_least, "why": case.why},
        met=met,
        note="" if met else case.cause,
    )
