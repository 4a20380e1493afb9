"""Compile the kernels in Triton for a GPU that is not there: ``python compile_for.py 8 0``.

Prints a JSON list of ``[kernel, what it was called with, bytes of shared memory]``. What the calls
return is not computed: each launch compiles, down to the machine code, and does no more.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from rhyme.kernels.common import Exclusion
from rhyme.kernels.tiles import Sums
from rhyme.kernels.triton import batch, blocks, queue

HALF, FULL = torch.bfloat16, torch.float32
QUEUES = [
    (HALF, 128, None, True),
    (HALF, 128, 128, False),
    (HALF, 256, None, False),
    (FULL, 128, None, True),
    (FULL, 128, 128, False),
    (FULL, 64, 192, False),
]
"""Type, dimensions of the keys and of values of their own, whether groups are left out."""
BATCHES = [(HALF, 256, True), (HALF, 512, False), (FULL, 128, False)]


class Target:
    """As much of a driver as compiling asks for."""

    def __init__(self, major: int, minor: int) -> None:
        self.target = GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main(major: int, minor: int) -> None:
    driver.set_active(Target(major, minor))
    found: dict[int, tuple[str, Any]] = {}
    run = jit.JITFunction.run

    def compile_only(self, *given: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        made = run(self, *given, grid=grid, warmup=True, **options)
        found.setdefault(id(made), (self.fn.__name__, made))
        return made

    jit.JITFunction.run = compile_only
    blocks.capability = lambda device: (major, minor)
    told: list[tuple[str, str, int]] = []

    def tell(what: str) -> None:
        told.extend((name, what, made.metadata.shared) for name, made in found.values())

    b, n = 256, 4096
    on_lse, powers, own = torch.zeros(b), torch.zeros(2, b), torch.zeros(b, dtype=torch.int64)
    groups = Exclusion(own, torch.zeros(n, dtype=torch.int64))
    for dtype, d, e, masked in QUEUES:
        found.clear()
        pairs = groups if masked else Exclusion()
        q, k = torch.zeros(b, d, dtype=dtype), torch.zeros(n, d, dtype=dtype)
        v = None if e is None else torch.zeros(n, e, dtype=dtype)
        mean = torch.zeros(b, d if e is None else e)
        queue.forward_pass(q, k, v, 10.0, pairs, True)
        for needed in ((True, False, False), (False, True, e is not None)):
            queue.backward_pass(q, k, v, 10.0, pairs, powers, mean, mean, on_lse, *needed)
        tell(f"queue, {dtype}, {d} dimensions, values of {e}, groups {masked}")
    for dtype, d, masked in BATCHES:
        found.clear()
        pairs = groups if masked else Exclusion()
        x, y = torch.zeros(b, d, dtype=dtype), torch.zeros(n, d, dtype=dtype)
        rows, columns = (Sums(torch.zeros(m), torch.zeros(m), torch.zeros(2, m)) for m in (b, n))
        batch.forward(x, y, 10.0, pairs, "both")
        totals = batch.Totals(rows, columns, torch.zeros(()))
        next(iter(batch.chunks(x, y, 10.0, pairs, "both", totals, on_lse, torch.zeros(n))))
        tell(f"batch, {dtype}, {d} dimensions, groups {masked}")
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
