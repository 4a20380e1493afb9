"""Tensors on their way to a GPU."""

from __future__ import annotations

import time

import pytest
import torch

from rhyme.transfer import sent


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.arange(3)
    assert sent(values, "cpu") is values


@pytest.mark.gpu
@pytest.mark.parametrize("size", [3, 100_000])
def test_the_host_does_not_wait_for_the_gpu(size: int) -> None:
    values = torch.arange(size)
    sent(values, "cuda")  # pinned memory is there now
    torch.cuda.synchronize()
    torch.cuda._sleep(400_000_000)  # about 0.2 s
    began = time.perf_counter()
    there = sent(values, "cuda")
    assert time.perf_counter() - began < 0.05
    assert torch.equal(there.cpu(), values)


@pytest.mark.gpu
def test_what_is_written_afterwards_does_not_arrive() -> None:
    values = torch.arange(100_000)
    torch.cuda._sleep(200_000_000)
    there = sent(values, torch.device("cuda"))
    values.zero_()
    assert torch.equal(there.cpu(), torch.arange(100_000))
