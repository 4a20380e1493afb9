"""An in-batch loss on two ranks: each takes its own anchors, against the whole loss on every rank.

Compared: SimCLR's objective, forward and backward with the exchange of the keys, on two gloo ranks
of one thread each, 1,024 items a rank, 128 dimensions, float32:

- ours, ``nt_xent``: a rank's own anchors against the keys of all ranks, gathered with gradient;
- the other way to the same gradient: gather everything, and take the loss of the global batch on
  every rank.

Checked: equal loss, and equal gradient of every local row to 1e-6 of the largest.

Expected: 0.6 of the time, i.e. a ratio of 1.6: half of the logits, and the same exchange.
"""

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, told
from rhyme import distributed
from rhyme.objectives import info_nce_in_batch, nt_xent

RANKS, TAU = 2, 0.2
Result = tuple[Tensor, Tensor, Tensor]


def local_rows(first: Tensor, second: Tensor) -> Tensor:
    out = nt_xent(first, second, temperature=TAU)
    return distributed.mean(out.values, out.valid)


def everything(first: Tensor, second: Tensor) -> Tensor:
    views = distributed.gather(torch.stack([first, second], dim=1), grad=True)
    keys = torch.cat([views[:, 0], views[:, 1]])
    own = torch.arange(len(keys))
    positive = own.roll(len(views))
    out = info_nce_in_batch(keys, keys, positive, temperature=TAU, self_index=own)
    return out.values.mean()


WAYS = {"local": local_rows, "global": everything}


def serve(pipe: Connection, meet: str, rank: int, items: int) -> None:
    """A rank: times the way it is told by name, until its pipe is closed."""
    torch.set_num_threads(1)
    distributed.init("gloo", init_method=f"file://{meet}", rank=rank, world_size=RANKS)
    generator = torch.Generator().manual_seed(rank)

    def unit() -> Tensor:
        drawn = torch.randn(items, 128, generator=generator)
        return functional.normalize(drawn, dim=1).requires_grad_()

    first, second = unit(), unit()
    while True:
        try:
            way = WAYS[pipe.recv()]
        except EOFError:
            break
        first.grad = second.grad = None
        distributed.barrier()
        began = time.perf_counter()
        loss = way(first, second)
        loss.backward()
        distributed.barrier()
        spent = time.perf_counter() - began
        pipe.send((spent, loss.item(), first.grad.numpy(), second.grad.numpy()))
    distributed.shutdown()


def agree(ours: list[Result], peer: list[Result]) -> None:
    for rank, (mine, theirs) in enumerate(zip(ours, peer, strict=True)):
        for name, a, b in zip(("loss", "first", "second"), mine, theirs, strict=True):
            gap = float((a - b).abs().max() / b.abs().max())
            if not gap < 1e-6:
                raise WrongResult(f"{name} on rank {rank} differs by {gap:.1e} of its size")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    for rank in range(RANKS):
        here, there = context.Pipe()
        items = 128 if quick else 1024
        process = context.Process(target=serve, args=(there, str(room / "meet"), rank, items))
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)

    def ask(way: str) -> tuple[float, list[Result]]:
        for pipe in pipes:
            pipe.send(way)
        answers = [pipe.recv() for pipe in pipes]
        results = [
            (torch.tensor(loss), torch.from_numpy(a), torch.from_numpy(b))
            for _, loss, a, b in answers
        ]
        return max(answer[0] for answer in answers), results

    try:
        yield Case(
            name="ranks/nt_xent/time",
            ours=lambda: ask("local"),
            peer=lambda: ask("global"),
            peer_name="whole loss on every rank",
            same=agree,
            at_least=1.6,
            why="half of the logits and the same exchange",
            measure=told,
            threads=1,
            rounds=7,
        )
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()
