"""A collection becomes a folder of prepared shards: restartable, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rhyme.catalog import FILE_NAME, Catalog, prepared_catalog, refusal_of
from rhyme.errors import CatalogError, ConfigError, DataError, MediaError, WorkerError
from rhyme.loading.prepare_file import (
    PrepareFile,
    PrepareOptions,
    SourceFile,
    part_is_whole,
    part_of,
    sources,
)
from rhyme.loading.prepared_folder import PREPARED, PreparedSummary, claim, locked, psnr
from rhyme.media.shard import Shard
from rhyme.media.shard_writer import ShardWriter
from rhyme.run import append_jsonl, atomic_write, read_jsonl, sha256_file
from rhyme.workers import map_ordered

__all__ = ["prepare_shards"]

_WORK = "work"
_VERSION = 1
_PATIENCE = 120.0
_LEFT_OUT = "left_out.jsonl"
_SUMS = "shards.jsonl"


def prepare_shards(
    catalog: Catalog,
    folder: str | Path,
    options: PrepareOptions | None = None,
    *,
    workers: int = 0,
    shard_bytes: int = 256 << 20,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedSummary:
    """Write the frames of a catalog's items as prepared shards, with a catalog of their own.

    Killed at any moment, the same call goes on where it was and ends with the same bytes: finished
    files lie as parts in ``work``, and a shard takes its name when it is whole and synced.

    Args:
        catalog: the items.
        folder: a new folder, or one that the same call began.
        options: what is kept of each frame.
        workers: processes that decode and encode; 0 works here.
        shard_bytes: a shard is closed when it has this many bytes.
        progress: called with (frames done, frames).

    Returns:
        What was written.

    Raises:
        DataError: the folder holds something else, another process writes it, a shard is damaged,
            no file can be used, or the disk is full.
        ConfigError: the catalog is one of shards already.
    """
    return _Preparation(
        catalog, Path(folder), options or PrepareOptions(), workers, shard_bytes, progress
    ).run()


class _Preparation:
    """One call; see `prepare_shards`."""

    def __init__(
        self,
        catalog: Catalog,
        folder: Path,
        options: PrepareOptions,
        workers: int,
        shard_bytes: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        if catalog.meta.get("prepared") is not None:
            raise ConfigError(
                "these are prepared shards already",
                file=catalog.path or catalog.root,
                remedy="give the original files",
            )
        if shard_bytes < 1:
            raise ConfigError("a shard must have room", value=shard_bytes)
        self.catalog, self.folder, self.options = catalog, folder, options
        self.workers, self.shard_bytes, self.progress = workers, shard_bytes, progress
        self.work = folder / _WORK
        self.files = sources(catalog, options)
        if not self.files:
            raise DataError("no item has frames", file=catalog.root, stage="prepare")
        self.settings = {
            "version": _VERSION,
            **asdict(options),
            "shard_bytes": shard_bytes,
            "source": catalog.identity,
        }
        self.sums: dict[str, dict[str, Any]] = {}
        self.placed: dict[int, tuple[str, int]] = {}
        self.left_out: dict[int, dict[str, str]] = {}

    def run(self) -> PreparedSummary:
        claim(self.folder, self.settings)
        self.work.mkdir(parents=True, exist_ok=True)
        with locked(self.work):
            self._look()
            found = len(self.placed)
            self._write()
            summary = self._finish(found)
        shutil.rmtree(self.work, ignore_errors=True)
        return summary

    def _look(self) -> None:
        """What earlier calls left: shards, parts, and files that cannot be used."""
        for stale in (*self.folder.glob(".*.partial"), *self.work.glob(".*.partial")):
            stale.unlink(missing_ok=True)
        sums = {row["name"]: row for row in read_jsonl(self.work / _SUMS) if "name" in row}
        complete = json.loads((self.folder / PREPARED).read_text(encoding="utf-8"))
        known = complete.get("shards", {})
        self.left_out = {int(n): entry for n, entry in complete.get("left_out", {}).items()}
        for path in sorted(self.folder.glob("shard-*.frames")):
            shard = Shard(path)
            for entry in range(shard.entries):
                self.placed[int(shard.facts(entry)["number"])] = (path.name, entry)
            size = path.stat().st_size
            row = known.get(path.name) or sums.get(path.name)
            if row is None:
                row = {"bytes": size, "sha256": sha256_file(path)}
            elif row["bytes"] != size:
                raise DataError(
                    f"the shard has {size} bytes and was written with {row['bytes']}",
                    file=path,
                    stage="prepare",
                    remedy="delete this file and run the same command: it is made again",
                )
            self.sums[path.name] = {"bytes": size, "sha256": str(row["sha256"])}
        for row in read_jsonl(self.work / _LEFT_OUT):
            self.left_out[int(row["number"])] = row["refused"]

    def _write(self) -> None:
        """Make the missing parts and pack all of them, in the order of the catalog."""
        done = sum(f.frames for f in self.files if self._settled(f))
        total = sum(f.frames for f in self.files)
        pending = [f for f in self.files if not self._settled(f)]
        ready = {f.number for f in pending if part_is_whole(part_of(self.work, f.number))}
        job = PrepareFile(
            catalog=self.catalog,
            options=self.options,
            folder=self.work,
            patience=_PATIENCE if self.workers else None,
        )
        todo = [f for f in pending if f.number not in ready]
        results = map_ordered(job, todo, workers=self.workers, errors="return")
        packer = _Packer(self)
        with contextlib.closing(cast("Generator[object]", results)), packer:
            for file in pending:
                outcome = None if file.number in ready else next(results)
                if isinstance(outcome, BaseException):
                    self._refuse(file, outcome)
                else:
                    packer.pack(file)
                done += file.frames
                if self.progress is not None:
                    self.progress(done, total)

    def _settled(self, file: SourceFile) -> bool:
        return file.number in self.placed or file.number in self.left_out

    def _refuse(self, file: SourceFile, error: BaseException) -> None:
        """Leave a file out if it is to blame; raise what is not its fault."""
        if not isinstance(error, MediaError | CatalogError | WorkerError):
            raise error
        entry = refusal_of(self.catalog, file.row, error)
        self.left_out[file.number] = entry
        append_jsonl(self.work / _LEFT_OUT, {"number": file.number, "refused": entry})

    def _finish(self, found: int) -> PreparedSummary:
        """Write the catalog; with it the folder is complete."""
        if not self.placed:
            shown = "; ".join(f"{e['path']}: {e['reason']}" for e in self.left_out.values())
            raise DataError(
                f"none of {len(self.files)} files can be used: {shown[:300]}",
                file=self.catalog.root,
                stage="prepare",
                remedy="see what is wrong with them: rhyme scan DIR --depth frames",
            )
        kept = [f for f in self.files if f.number in self.placed]
        facts, damage = self._facts(kept)
        rows = np.array([row for f in kept for row in f.rows], dtype=np.int64)
        order = np.argsort(rows)
        where = [self.placed[f.number] for f in kept for _ in f.rows]
        hurt = np.array([self._hurt(row, damage[f.number]) for f in kept for row in f.rows])
        first = [f.rows[0] for f in kept]
        error = np.array([f["mse"] for f in facts])
        worst = int(np.argmax([f["worst_mse"] for f in facts]))
        counts = np.array([f["frames"] for f in facts])
        new = list(self.left_out.values())
        quarantine = [*cast("list[dict[str, Any]]", self.catalog.quarantine.to_pylist()), *new]
        summary = PreparedSummary(
            path=self.folder,
            **asdict(self.options),
            items=len(rows),
            files=len(kept),
            frames=int(counts.sum()),
            damaged=int(sum(len(times) for times in damage.values())),
            bytes=sum(int(s["bytes"]) for s in self.sums.values()),
            source_bytes=int(self.catalog.numbers("bytes")[first].sum()),
            psnr_mean=psnr(float((error * counts).sum() / counts.sum())),
            psnr_worst=psnr(float(facts[worst]["worst_mse"])),
            worst=str(facts[worst]["path"]),
            shards=dict(sorted(self.sums.items())),
            quarantine=quarantine,
            silent=len(self.catalog) - sum(len(f.rows) for f in self.files),
            found=found,
        )
        told = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(summary).items()
            if name not in ("path", "quarantine", "found")
        }
        document = {
            "state": "complete",
            "settings": self.settings,
            **told,
            "left_out": self.left_out,
        }
        atomic_write(self.folder / PREPARED, json.dumps(document, indent=2) + "\n")
        prepared_catalog(
            self.catalog.select(indices=rows[order]),
            root=self.folder,
            shards=[where[k][0] for k in order],
            entries=[where[k][1] for k in order],
            hurt=hurt[order],
            facts={**told, "source": {"root": str(self.catalog.root), **_source(self.catalog)}},
            quarantine=quarantine,
        ).save(self.folder / FILE_NAME)
        return summary

    def _facts(
        self, kept: list[SourceFile]
    ) -> tuple[list[dict[str, Any]], dict[int, NDArray[np.float64]]]:
        """Facts of every file that was kept, and the times of its damaged frames."""
        shards: dict[str, Shard] = {}
        facts: list[dict[str, Any]] = []
        damage: dict[int, NDArray[np.float64]] = {}
        for file in kept:
            name, number = self.placed[file.number]
            if name not in shards:
                shards = {name: Shard(self.folder / name)}
            entry = shards[name].entry(number)
            facts.append(shards[name].facts(number))
            damage[file.number] = np.array(entry.times[entry.damaged > 0])
        return facts, damage

    def _hurt(self, row: int, times: NDArray[np.float64]) -> bool:
        """Whether damaged frames lie within an item."""
        facts = self.catalog.facts([row])
        start, stop = float(facts.start[0]), float(facts.stop[0])
        return bool(((times >= start) & ((times < stop) | (stop <= start))).any())


class _Packer:
    """Packs parts into shards; a part goes when the shard that holds it has its name."""

    def __init__(self, job: _Preparation) -> None:
        self._job = job
        self._writer: ShardWriter | None = None
        self._held: list[SourceFile] = []

    def __enter__(self) -> _Packer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            self._writer.__exit__(None, None, None)

    def pack(self, file: SourceFile) -> None:
        """Take over the part of a file."""
        if self._writer is None:
            self._writer = ShardWriter(self._free_name())
        self._writer.copy(Shard(part_of(self._job.work, file.number)))
        self._held.append(file)
        if self._writer.size >= self._job.shard_bytes:
            self._close()

    def _free_name(self) -> Path:
        number = 0
        while (self._job.folder / f"shard-{number:05d}.frames").exists():
            number += 1
        return self._job.folder / f"shard-{number:05d}.frames"

    def _close(self) -> None:
        writer, job = self._writer, self._job
        if writer is None:
            return
        with writer:
            digest = writer.finish()
        name = writer.path.name
        append_jsonl(job.work / _SUMS, {"name": name, "bytes": writer.size, "sha256": digest})
        job.sums[name] = {"bytes": writer.size, "sha256": digest}
        for entry, file in enumerate(self._held):
            job.placed[file.number] = (name, entry)
            part_of(job.work, file.number).unlink(missing_ok=True)
        self._writer, self._held = None, []


def _source(catalog: Catalog) -> dict[str, Any]:
    return {"fingerprint": catalog.fingerprint, "items": len(catalog)}
