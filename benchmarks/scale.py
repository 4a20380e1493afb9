"""Collections of ten thousand files and of a million items: against stated budgets.

Compared: each with what it may take, opening a catalog of 10^6 items; the first batch of its train
split, from opening the file on; the memory that such a catalog adds to each worker process; the
files a second that two worker processes scan, against one; a scan of 10^4 files that was killed at
a random place and goes on, against one from the start; and what the journal costs that lets it.

Checked: a batch names items of the split; the worker answers with the facts of the rows asked for;
all scans find the same items, and the one that goes on says how many files it did not read again.

Expected: 1 s, 3 s and 20 MB as the project promises them, so ratios of 1 and more (budget over
measured). Two workers 1.3 of one, and 1.5 where all pictures are decoded: files are independent,
but every scan starts its workers, which takes as long as hundreds of tiny files, and one process
lists and assembles. A scan that goes on takes the share of the work that was left. The journal
costs at most 5 %.
"""

import pickle
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from benchmarks.ratio import Case, WrongResult, seconds, told
from rhyme.catalog import Catalog, scan
from rhyme.catalog.schema import stable_id
from rhyme.loading import CatalogSource
from rhyme.loading.maker import BatchMaker
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec
from rhyme.workers import Pool

PLAN = ViewPlan(
    clips={"a": Clip()},
    views={"query": ViewSpec(clip="a", transform=ContrastTransform.moco_v2(size=32))},
)
BATCH = 16


def write_clips(folder: Path, count: int) -> None:
    """The same tiny film under many names; copies, since links would be known files."""
    folder.mkdir(parents=True)
    first = folder / "clip-00000.mp4"
    with av.open(str(first), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(16):
            picture = np.full((48, 64, 3), 10 * k, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for number in range(1, count):
        shutil.copyfile(first, folder / f"clip-{number:05}.mp4")


def write_large(small: Catalog, items: int, path: Path) -> Path:
    """A catalog file of many items: the rows of a small one again and again, with other ids."""
    table = small.table
    rows = np.arange(items)
    many = table.take(rows % len(small))
    numbers = np.random.default_rng(0)
    names = pa.array(["train", "val", "test"])
    draws = pa.array(numbers.choice(3, items, p=[0.6, 0.2, 0.2]).astype(np.int32))
    columns = {
        "id": pa.array(numbers.permutation(items) + stable_id("scale", 0) % 2**40),
        "split": pa.DictionaryArray.from_arrays(draws, names),
    }
    for name, values in columns.items():
        many = many.set_column(many.column_names.index(name), name, values)
    return Path(str(Catalog(many, root=small.root).save(path).path))


@dataclass(frozen=True)
class Probe:
    """Does what a worker does with the catalog, and tells the memory that is its own."""

    maker: BatchMaker

    def __call__(self, rows: np.ndarray) -> tuple[list[int], int]:
        facts = self.maker.facts(rows)
        self.maker.catalog.item(int(rows[0]))
        text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
        private = int(text.split("Private_Dirty:")[1].split()[0]) * 1024
        return facts.id.tolist(), private


def worker_memory(catalog: Catalog) -> tuple[float, Any]:
    """MB of one worker that holds a catalog."""
    rows = np.linspace(0, len(catalog) - 1, 64).astype(np.int64)
    with Pool(Probe(BatchMaker(catalog=catalog, plan=PLAN, seed=0)), workers=1) as pool:
        for _ in range(3):
            ids, private = pool.submit(rows).result()
    if ids != catalog.facts(rows).id.tolist():
        raise WrongResult("the worker sees other items")
    return private / 1e6, len(pickle.dumps(catalog, protocol=5))


def growth(large: Catalog, small: Catalog) -> tuple[float, Any]:
    """MB that a large catalog adds to a worker."""
    return max(worker_memory(large)[0] - worker_memory(small)[0], 0.1), None


def first_batch(path: Path) -> list[str]:
    """Open, take the train split, make one batch."""
    catalog = Catalog.open(path).select(split="train")
    source = CatalogSource(catalog, PLAN, batch_size=BATCH, seed=0)
    batch = next(iter(source.batches()))
    source.close()
    return [str(catalog.item(int(row)).split) for row in batch.index]


def only_train(found: list[str], _: Any) -> None:
    if found != ["train"] * BATCH:
        raise WrongResult(f"items of other splits: {found}")


def found_same(first: Catalog, second: Catalog) -> None:
    if first.fingerprint != second.fingerprint:
        raise WrongResult("the scans found different items")


def anything(first: Any, second: Any) -> None:
    """Nothing to compare: the other side is a budget."""


def budget(value: float) -> tuple[float, None]:
    """A side that takes what it may."""
    return value, None


def timed(side: Any) -> tuple[float, Any]:
    """Seconds of a side; a budget tells its own."""
    return told(side) if isinstance(side, partial) and side.func is budget else seconds(side)


def cases(room: Path, quick: bool) -> Iterator[Case]:
    files, items = (60, 20_000) if quick else (10_000, 1_000_000)
    some = files // 10
    write_clips(room / "some", some)
    write_clips(room / "many", files)
    small = scan(room / "some", out=room / "small.arrow", workers=2)
    large = write_large(small, items, room / "large.arrow")

    for name, side, limit, check, why in (
        ("open", partial(Catalog.open, large), 1.0, anything, "the file is mapped, not read"),
        ("first-batch", partial(first_batch, large), 3.0, only_train, "order and hash in arrays"),
    ):
        yield Case(
            name=f"scale/{name}",
            ours=side,
            peer=partial(budget, limit),
            peer_name=f"a budget of {limit:g} s",
            same=check,
            at_least=1.0,
            why=why,
            measure=timed,
            threads=1,
        )
    yield Case(
        name="scale/worker-memory",
        ours=partial(growth, Catalog.open(large).select(split="train"), small),
        peer=partial(budget, 20.0),
        peer_name="a budget of 20 MB",
        same=anything,
        at_least=1.0,
        why="workers map the catalog's file, and share the row numbers of a split",
        measure=told,
        unit="MB",
        threads=1,
    )
    for depth in ("header", "packets", "frames"):
        yield Case(
            name=f"scale/scan-{depth}",
            ours=partial(scan, room / "some", depth=depth, workers=2),
            peer=partial(scan, room / "some", depth=depth, workers=1),
            peer_name="one worker",
            same=found_same,
            at_least=1.5 if depth == "frames" else 1.3,
            why="files are independent; starting the workers counts, one core assembles",
            unit=f"s for {some} files",
            threads=1,
        )

    scan(room / "many", workers=2, journal=room / "whole.jsonl")
    lines = (room / "whole.jsonl").read_bytes().splitlines(keepends=True)
    places = random.Random(0)

    def goes_on() -> Catalog:
        """A scan whose journal ends somewhere between 70 and 90 % of the files, torn."""
        keep = int(places.uniform(0.7, 0.9) * len(lines))
        journal = room / "torn.jsonl"
        journal.write_bytes(b"".join(lines[:keep]) + lines[keep][:20])
        found = scan(room / "many", workers=2, journal=journal)
        if found.meta["reused"] != keep:
            raise WrongResult(f"{found.meta['reused']} of {keep} files were not read again")
        return found

    yield Case(
        name="scale/goes-on",
        ours=goes_on,
        peer=partial(scan, room / "many", workers=2),
        peer_name="from the start",
        same=found_same,
        at_least=2.0,
        why="at most three files in ten are left; listing and assembling are done again",
        unit=f"s for {files} files",
        rounds=3,
        threads=1,
    )

    def noted() -> Catalog:
        (room / "noted.jsonl").unlink(missing_ok=True)
        return scan(room / "some", workers=2, journal=room / "noted.jsonl")

    yield Case(
        name="scale/journal",
        ours=noted,
        peer=partial(scan, room / "some", workers=2),
        peer_name="without a journal",
        same=found_same,
        at_least=0.95,
        why="one short line a file",
        unit=f"s for {some} files",
        threads=1,
    )
