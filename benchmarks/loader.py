"""Batches decoded from files: more workers, and our workers against PyTorch's.

Compared: items a second of ``CatalogSource`` on a small generated world, frames decoded from the
mp4 files in every step, two MoCo v2 views of 64 pixels of each, batches of 16. Time runs over forty
batches in the middle of a pass; starting the workers and what they had made ahead do not count.
``workers2`` is two workers against one, ``workers1`` one worker against none, and ``dataloader`` is
two of ours against two of PyTorch's DataLoader, given the same function that makes a batch.

Checked: all sides give the same items with the same pixels, bit for bit.

Expected on a machine of two cores: 1.8 with two workers (the process that consumes gets views of
shared memory and does next to nothing), 0.9 with one worker instead of none (nothing is gained
while nobody trains, the hand-over costs little), and 0.9 of DataLoader, which cannot restart a dead
worker or give up a hung one.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.ratio import ROUNDS, Case, WrongResult, told
from rhyme.catalog import Catalog, scan
from rhyme.loading import Batch, BatchOrder, CatalogSource
from rhyme.loading.maker import BatchMaker, Request
from rhyme.synthetic import WorldConfig, write_world
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec

SIZE = 64
CAUSES = {
    "workers2": "probably (not taken apart) whatever else runs on the two cores: the row's load "
    "tells, and the one worker it is compared with had a core to itself",
}
AUGMENT = ContrastTransform.moco_v2(size=SIZE)
PLAN = ViewPlan(
    clips={"a": Clip()},
    views={name: ViewSpec(clip="a", transform=AUGMENT) for name in ("query", "key")},
)

Held = list[tuple[list[int], Tensor]]

AHEAD = 5  # batches that two workers may have ready before they are asked, and one


class Turn:
    """A side that stays open: each call times some batches after those that were made ahead.

    Afterwards it waits until the workers have read ahead again, so that they are idle in the
    other side's turn.
    """

    def __init__(self, batches: Iterator[Batch], count: int) -> None:
        self.batches, self.count = batches, count

    def __call__(self) -> tuple[float, Held]:
        for _ in range(AHEAD):
            next(self.batches)
        held: Held = []
        began = time.perf_counter()
        for _ in range(self.count):
            batch = next(self.batches)
            held.append((batch.ids.tolist(), batch.views["query"].data.sum(dtype=torch.float64)))
        taken = time.perf_counter() - began
        time.sleep(1.5 * AHEAD * taken / self.count)
        return taken, held


class Batches(Dataset[Batch]):
    """The batches of the run in order, made by the function that our workers call."""

    def __init__(self, catalog: Catalog, batch_size: int, count: int) -> None:
        order = BatchOrder(
            catalog.facts().id,
            seed=0,
            batch_size=batch_size,
            drop_last=True,
            shuffle=True,
            fingerprint=catalog.fingerprint,
        )
        positions = order.positions()
        self.requests = []
        for _ in range(count):
            epoch, batch = next(positions)
            rows, repeats = order.rows(epoch, batch)
            self.requests.append(Request(epoch=epoch, rows=rows, repeats=repeats))
        self.maker = BatchMaker(catalog=catalog, plan=PLAN, seed=0)

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, number: int) -> Batch:
        return self.maker(self.requests[number]).batch


def agree(first: Held, second: Held) -> None:
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        if a[0] != b[0] or not torch.equal(a[1], b[1]):
            raise WrongResult(f"batch {place} differs")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    videos, batch_size, count = (24, 4, 3) if quick else (128, 16, 40)
    config = WorldConfig(videos=videos, size=SIZE, sound=False, truth="labels")
    write_world(config, room / "world")
    catalog = scan(room / "world")
    turns = (count + AHEAD) * (ROUNDS + 2)

    def ours(workers: int) -> Turn:
        source = CatalogSource(catalog, PLAN, batch_size=batch_size, seed=0, workers=workers)
        opened.callback(source.close)
        return Turn(source.batches(), count)

    def dataloader(workers: int) -> Turn:
        loader = DataLoader(
            Batches(catalog, batch_size, turns),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2,
            multiprocessing_context="spawn",
        )
        return Turn(iter(loader), count)

    for name, mine, peer, peer_name, floor, why in (
        ("workers2", 2, partial(ours, 1), "one worker", 1.8, "items are independent"),
        ("workers1", 1, partial(ours, 0), "no worker", 0.9, "only the hand-over is added"),
        (
            "dataloader",
            2,
            partial(dataloader, 2),
            "DataLoader, two workers",
            0.9,
            "both move a batch between processes once",
        ),
    ):
        with ExitStack() as opened:
            yield Case(
                name=f"loader/{name}",
                ours=ours(mine),
                peer=peer(),
                peer_name=peer_name,
                same=agree,
                at_least=floor,
                why=why,
                cause=CAUSES.get(name, ""),
                measure=told,
                unit=f"s for {batch_size * count} items",
                threads=1,
            )
