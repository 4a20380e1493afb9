"""What ``estimate`` rests on: spans, lines through two sizes, and how sizes are chosen."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rhyme.heap import keep_freed
from rhyme.training.measure import Span, StepMeter, in_use, peak_memory, resident, state_bytes


@dataclass
class Clocked(StepMeter):
    """A meter whose step takes ``base + each * items`` seconds by an imagined clock."""

    base: float = 0.5
    each: float = 0.1
    sizes: list[int] = field(default_factory=list)

    def _once(self, items: int) -> float:
        self.sizes.append(items)
        return self.base + self.each * items


def meter(**options: Any) -> Clocked:
    device = torch.device("cpu")
    return Clocked(stepper=None, make=None, device=device, baseline=0, **options)  # type: ignore[arg-type]


def test_a_span_adds_and_scales() -> None:
    span = Span.of([1.0, 2.0, 3.0])
    assert (span.value, span.low, span.high) == pytest.approx((2.0, 1.2, 2.8))
    assert span * 2 + span == Span(span.value * 3, span.low * 3, span.high * 3)
    assert Span(10.0, 9.0, 11.0).wider(0.1) == Span(10.0, 8.0, 12.0)


def test_a_batch_that_fits_the_time_is_measured_itself() -> None:
    clock = meter(budget=100.0)
    cost = clock.measure(32)
    assert cost.sizes == (32,)
    assert cost.seconds.value == pytest.approx(0.5 + 3.2)
    assert cost.steps == cost.steps == sum(size == 32 for size in clock.sizes) - 2


def test_a_batch_that_does_not_is_carried_on_along_a_line() -> None:
    cost = meter(budget=60.0).measure(512)
    small, large = cost.sizes
    assert small < large < 512
    assert cost.seconds.value == pytest.approx(0.5 + 51.2)
    assert cost.seconds.low <= cost.seconds.value <= cost.seconds.high
    in_ratio = (0.5 + 0.1 * large) * 512 / large
    assert cost.seconds.high == pytest.approx(in_ratio)


def test_measured_sizes_are_whole_batch_norm_groups() -> None:
    clock = meter(budget=20.0, multiple=8)
    clock.measure(512)
    assert all(size % 8 == 0 and size >= 16 for size in clock.sizes)


@pytest.mark.skipif(resident() is None, reason="the system does not say what a process holds")
def test_the_peak_sees_memory_that_is_given_back() -> None:
    keep_freed()
    held = torch.ones(48, 2**20)  # 192 MiB, touched, and kept when it is freed
    del held
    before = in_use(torch.device("cpu"))
    with peak_memory(torch.device("cpu"), before) as peak:
        held = torch.ones(64, 2**20)
        del held
    assert peak.bytes is not None
    assert peak.bytes > 200 * 2**20


def test_state_counts_the_optimiser_too() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)

    held: Any = SimpleNamespace(pairs={"all": (optimizer, None)})
    system: Any = layer
    assert state_bytes(system, held) == 8 * 4
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert state_bytes(system, held) == 2 * 8 * 4
