"""Block sizes beside each other: ``python -m benchmarks.gpu.tune [kernel ...] [--seconds 120]``.

Times each kernel with each of a few block sizes, checks that results agree with those of the sizes
in the table (``rhyme.kernels.triton.blocks``), and prints the sizes in order of speed. The table is
then written by hand: a run never chooses by a timing. All sizes are compiled first, in several
processes, since compiling takes longer than the measuring.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.queue import TAU, unit
from benchmarks.ratio import cuda_seconds
from rhyme.kernels.common import Exclusion
from rhyme.kernels.triton import batch, queue
from rhyme.kernels.triton.blocks import Blocks, blocks, exactly, using

F32, BF16 = torch.float32, torch.bfloat16
QUEUE_HALF = [  # rows, keys, warps, stages, programs of a multiprocessor
    (64, 64, 4, 2, 2), (64, 128, 4, 2, 2),
]  # fmt: skip
QUEUE_FULL = [
    (128, 32, 8, 2, 1), (128, 32, 8, 1, 1), (128, 16, 8, 2, 1), (64, 32, 8, 2, 1),
    (64, 32, 4, 2, 1),
]  # fmt: skip
BATCH = [  # rows, columns, dimensions, warps, stages, programs of a multiprocessor
    (64, 64, 0, 4, 2, 2), (64, 64, 0, 4, 1, 3), (128, 64, 0, 4, 2, 1), (64, 128, 0, 4, 2, 1),
    (256, 64, 0, 8, 2, 1), (128, 128, 64, 8, 3, 1), (128, 64, 64, 4, 3, 2), (64, 128, 64, 4, 3, 2),
    (256, 128, 64, 8, 3, 1),
]  # fmt: skip
WEIGHTS = [
    (64, 256, 64, 4, 3, 1), (128, 64, 0, 8, 2, 1), (64, 128, 64, 4, 4, 2), (64, 64, 0, 4, 2, 2),
    (256, 64, 0, 8, 2, 1), (128, 128, 64, 8, 4, 1), (128, 256, 64, 8, 3, 1),
]  # fmt: skip
WIDE = [
    (128, 128, 64, 8, 4, 1), (128, 64, 64, 4, 4, 2), (64, 128, 64, 4, 4, 2),
    (256, 128, 64, 8, 3, 1),
]  # fmt: skip

Work = tuple[Callable[[], Any], float]
"""What is timed, and its floating-point operations."""


def variants(name: str) -> Iterator[tuple[Blocks, str | None]]:
    """The sizes tried, and how float32 is multiplied."""
    kernel, kind = name.split("/")
    if kernel.startswith("queue"):
        for rows, keys, warps, stages, resident in QUEUE_HALF if kind == "half" else QUEUE_FULL:
            sizes = Blocks(rows=rows, keys=keys, warps=warps, stages=stages, resident=resident)
            for how in (None,) if kind == "half" else ("tf32x3", "bf16x6"):
                yield sizes, how
        return
    if kernel == "batch_backward":
        return
    half = WEIGHTS if kernel == "batch_weights" else BATCH
    for rows, keys, depth, warps, stages, resident in WIDE if kind == "wide" else half:
        yield (
            Blocks(
                rows=rows,
                keys=keys,
                depth=depth,
                warps=warps,
                stages=stages,
                resident=resident,
                chunk=2**28 if kind == "wide" else 2**29,
            ),
            None,
        )


def work(name: str, small: bool) -> Work:
    """The kernel on inputs of the size that matters; small ones compile the same code."""
    kernel, kind = name.split("/")
    if kernel.startswith("queue"):
        b, n, d = (256, 4096, 128) if small else (256, 65536, 128)
        dtype = BF16 if kind == "half" else F32
        q, k, back = unit(b, d, dtype, 0), unit(n, d, dtype, 1), unit(b, d, F32, 2)
        pairs = Exclusion()
        found = queue.forward_pass(q, k, None, 1 / TAU, pairs, True)
        if "forward" in kernel:
            return lambda: queue.forward_pass(q, k, None, 1 / TAU, pairs, True)[:2], 4 * b * n * d
        rest = (back, None, True, False, False)
        return (
            lambda: queue.backward_pass(q, k, None, 1 / TAU, pairs, *found[:2], *rest)[:1],
            6 * b * n * d,
        )
    n, d = (1024 if small else 32768), (512 if kind == "wide" else 256)
    x, y = unit(n, d, BF16, 0), unit(n, d, BF16, 1)
    given = (x, y, 1 / TAU, Exclusion(), "both")
    if kernel == "batch_sums":

        def forward() -> list[Tensor]:
            found = batch.forward(*given)
            assert found.columns is not None
            return [found.rows[0], found.columns[0]]

        return forward, 2 * n * n * d
    totals, g = batch.forward(*given), torch.full((n,), 1 / n, device="cuda")
    if kernel == "batch_backward":
        return lambda: list(batch.backward(*given, totals, g, g, (True, True))), 3 * 2 * n * n * d

    def alone() -> list[Tensor]:
        return [part[:64, :64].clone() for _, _, part in batch.chunks(*given, totals, g, g)]

    return alone, 2 * n * n * d


def library() -> None:
    """The products of the backward pass alone, and what else they could be."""
    for b, n in ((8192, 8192), (16384, 8192), (16384, 16384), (32768, 16384), (4096, 32768)):
        weights = torch.randn(b, n, device="cuda").to(BF16)
        x, y = unit(b, 256, BF16, 0), unit(n, 256, BF16, 1)
        on_x, on_y = torch.zeros(b, 256, device="cuda"), torch.zeros(n, 256, device="cuda")
        turned = weights.T
        for name, way in (
            ("rows", partial(torch.mm, weights, y, out_dtype=F32, out=on_x)),
            ("rows, added", partial(torch.addmm, on_x, weights, y, out_dtype=F32, out=on_x)),
            ("columns", partial(torch.mm, turned, x, out_dtype=F32, out=on_y)),
            ("columns, added", partial(torch.addmm, on_y, turned, x, out_dtype=F32, out=on_y)),
            ("rows in bfloat16", partial(torch.mm, weights, y)),
            ("columns in bfloat16", partial(torch.mm, turned, x)),
        ):
            way()
            taken = median(cuda_seconds(way)[0] for _ in range(3))
            rate = 2 * b * n * 256 / taken / 1e12
            print(f"  {b} x {n} {name}: {taken * 1e6:.1f} us {rate:.0f} TFLOP/s", flush=True)


NAMES = (
    "queue_forward/half", "queue_backward/half", "queue_forward/full", "queue_backward/full",
    "batch_sums/all", "batch_weights/all", "batch_backward/all",
    "batch_sums/wide", "batch_weights/wide",
)  # fmt: skip


def once(name: str, sizes: Blocks, how: str | None) -> str:
    """Compile a variant, in a process of its own; why it cannot be, or nothing."""
    try:
        with using(table(name), sizes), exactly(how) if how else nullcontext():  # type: ignore[arg-type]
            work(name, small=True)[0]()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def table(name: str) -> Any:
    """The name of the kernel in the table."""
    return name.split("/")[0].replace("backward", "weights" if "batch" in name else "backward")


def label(sizes: Blocks, how: str | None) -> str:
    depth = f"x{sizes.depth}" if sizes.depth else ""
    chunk = f" chunk {sizes.chunk >> 20} MiB" if sizes.chunk != Blocks.chunk else ""
    return (
        f"{sizes.rows}x{sizes.keys}{depth} warps {sizes.warps} stages {sizes.stages} "
        f"resident {sizes.resident}{chunk} {how or ''}"
    )


def gap(found: Any, wanted: Any) -> float:
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max())
        for a, b in zip(found, wanted, strict=True)
    )


def measure(name: str, tried: list[tuple[Blocks, str | None]]) -> None:
    """Print a kernel's variants, fastest first."""
    call, flops = work(name, small=False)
    wanted = call()
    found: list[tuple[float, str]] = []
    kind = name.split("/")[1]
    dtype = F32 if kind == "full" else BF16
    width = 512 if kind == "wide" else 256 if "batch" in name else 128
    mine = blocks(table(name), dtype, width, torch.device("cuda"))
    more: list[tuple[Blocks, str | None]] = [(mine, None)]
    if name == "batch_backward/all":
        more += [(replace(mine, chunk=size << 20), None) for size in (128, 256, 1024)]
    for sizes, how in [*more, *tried]:
        try:
            with using(table(name), sizes), exactly(how) if how else nullcontext():  # type: ignore[arg-type]
                off = gap(call(), wanted)
                taken = median(cuda_seconds(call)[0] for _ in range(5))
        except Exception as error:
            print(f"  {label(sizes, how)}: {type(error).__name__}: {str(error)[:120]}", flush=True)
            continue
        found.append(
            (taken, f"{taken * 1e6:8.1f} us {flops / taken / 1e12:6.1f} TFLOP/s off {off:.0e}  "
            f"{label(sizes, how)}{' (table)' if sizes is mine and how is None else ''}")
        )  # fmt: skip
    print(name)
    for _, line in sorted(found)[:8]:
        print(line, flush=True)
    print("  slowest:", sorted(found)[-1][1] if found else "none", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="kernel", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no kernel after it")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: not measured on a GPU, there is none here", file=sys.stderr)
        return 0
    began = time.monotonic()
    names = [n for n in NAMES if not options.names or n.startswith(tuple(options.names))]
    tried = {name: list(variants(name)) for name in names}
    left: dict[str, list[tuple[Blocks, str | None]]] = {name: [] for name in names}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(once, name, *variant): (name, variant)
            for name in names
            for variant in tried[name]
        }
        for job in as_completed(jobs):
            name, variant = jobs[job]
            if job.exception() or job.result():
                print(f"  {name} {label(*variant)}: {job.exception() or job.result()}", flush=True)
            else:
                left[name].append(variant)
    print(f"[{time.monotonic() - began:.0f} s] compiled", flush=True)
    if not options.names or "library" in options.names:
        library()
    for name in names:
        if time.monotonic() - began > options.seconds:
            print(f"{name}: no time left")
            continue
        try:
            measure(name, left[name])
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:400]}", flush=True)
        print(f"[{time.monotonic() - began:.0f} s]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
