"""Embedding a collection into a store: restartable, without duplicates, whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, load_package
from rhyme.errors import ConfigError, PackageError, StoreError
from rhyme.loading import inference_batches
from rhyme.media import R2V2_SPACING
from rhyme.store.generation import old_moments, write_generation
from rhyme.store.layout import ENCODER, LOCK, WORK, StoreInfo, locked, read_info, write_info
from rhyme.store.own import is_generation, strangers
from rhyme.store.shards import ItemKey, Rows, Work
from rhyme.tasks import encode, normalise

__all__ = ["StoreSummary", "write_store"]

_SHARD = 4096
"""Moments a shard, at least: what a kill can cost."""
_NAMED = 10  # files that are named where none can be read


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """What an embedding job did.

    Attributes:
        path: the store.
        moments: moments that it holds now.
        items: items that it holds now.
        dim: width of a vector.
        package: hash of the encoder.
        embedded: items that this call embedded and wrote.
        resumed: items that an interrupted job had finished.
        kept: items of the collection that stood in the store already, unchanged.
        replaced: items that were taken out because their file changed.
        failed: why, by the path of each file that could not be read, wholly or in part.
    """

    path: Path
    moments: int
    items: int
    dim: int
    package: str
    embedded: int
    resumed: int
    kept: int
    replaced: int
    failed: Mapping[str, str]

    def __len__(self) -> int:
        return self.moments


def write_store(
    directory: str | Path,
    package_dir: str | Path,
    catalog: Catalog,
    *,
    every: float = 1.0,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
    resume: bool = True,
    shard: int = _SHARD,
) -> StoreSummary:
    """Embed the items of a catalog, one moment every ``every`` seconds.

    A new folder becomes a store; a store of the same encoder is added to. Items that it holds
    already and whose file has not changed are kept; items of changed files are replaced. A job that
    was interrupted goes on with the first item that was not safe. Files that cannot be read are
    left out, and tried again by the next call.

    Args:
        directory: the store.
        package_dir: folder of the encoder package; the store keeps a copy.
        catalog: the items.
        every: seconds from one moment to the next.
        batch_size: moments a forward pass.
        workers: decoding processes; 0 decodes here.
        device: where the encoder runs.
        progress: called with (done, total) items.
        resume: use what an interrupted job finished; False begins anew.
        shard: moments written at once, at least.

    Returns:
        What was done.

    Raises:
        StoreError: the folder is no store, is another encoder's or of another spacing, is being
            written, or the encoder gives values that are not finite; or no item gives a frame: then
            with files and reasons, and no folder is made.
        ConfigError: ``every`` is not positive.
        PackageError: the package is missing or damaged.
    """
    if not every > 0:
        raise ConfigError("every must be a positive number of seconds", stage="embed", value=every)
    target = Path(directory)
    package = load_package(package_dir, device)
    _accept(target, package, every)  # before a folder is made
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    with locked(target):
        # once more: another process may have committed meanwhile, and what it wrote counts
        info = _accept(target, package, every)
        _sweep(target, info)
        keys = _keys(catalog)
        before = old_moments(target, info)
        have = set(before.keys)
        plan = {"package": package.hash, "every": every}
        work = Work(target / WORK, plan, fresh=not resume)
        fresh = {key: i for i, key in enumerate(keys) if key not in have}
        todo = [i for key, i in fresh.items() if key not in work]
        failed = _embed(todo, keys, catalog, package, work, every=every, batch_size=batch_size,
                        workers=workers, device=device, progress=progress, shard=shard)  # fmt: skip
        kept = before.without(list(fresh), keys)
        if not kept.keys and not any(key in work for key in fresh):
            if made:
                work.clear()
                (target / LOCK).unlink()
                target.rmdir()
            raise _nothing(target, failed)
        _copy_package(Path(package_dir), target / ENCODER, package)
        generation = f"g{(0 if info is None else int(info.generation[1:])) + 1:06d}"
        written = write_generation(
            target / generation, kept, _new(fresh, work, catalog), package.hash
        )
        now = StoreInfo(
            package=package.hash,
            generation=generation,
            count=written.count,
            items=written.items,
            dim=written.dim,
            every=every,
            vectors_sha256=written.sha256,
            catalogs={
                **({} if info is None else info.catalogs),
                str(catalog.root.resolve()): catalog.fingerprint,
            },
        )
        write_info(target, now)
        # committed: what follows is tidying, and is done again by the next call if it is cut short
        _sweep(target, now)
        embedded = sum(keys[i] in work for i in todo)
        work.clear()
    return StoreSummary(
        path=target,
        moments=now.count,
        items=now.items,
        dim=now.dim,
        package=package.hash,
        embedded=embedded,
        resumed=len(fresh) - len(todo),
        kept=sum(key in have for key in keys),
        replaced=len(have) - len(set(kept.keys)),
        failed=failed,
    )


def _accept(target: Path, package: EncoderPackage, every: float) -> StoreInfo | None:
    """Make sure that this encoder may write here."""
    if target.exists() and not target.is_dir():
        raise StoreError("the store must be a folder", file=target, stage="embed")
    if not target.exists():
        return None
    info = read_info(target)
    if info is not None and info.package != package.hash:
        raise StoreError(
            f"the store belongs to the encoder {info.package[:12]}, not to {package.hash[:12]}",
            file=target,
            stage="embed",
            value={"store": info.package, "encoder": package.hash},
            remedy="embed into a new folder, or use the encoder that the store holds",
        )
    if info is not None and info.every != every:
        raise StoreError(
            f"the store has a moment every {info.every:g} s, not every {every:g} s",
            file=target,
            stage="embed",
            remedy=f"use {info.every:g} s, or embed into a new folder",
        )
    others = strangers(target, info, package.hash)
    if others:
        raise StoreError(
            "the folder holds other things than a store",
            file=target,
            stage="embed",
            value=others[:5],
            remedy="give a new folder, or move these to another place",
        )
    return info


def _sweep(target: Path, info: StoreInfo | None) -> None:
    """Delete generations that do not count: superseded, or cut short by a kill."""
    for path in target.iterdir():
        if is_generation(path) and (info is None or path.name != info.generation):
            shutil.rmtree(path)


def _keys(catalog: Catalog) -> list[ItemKey]:
    table = catalog.table
    columns = [table.column(n).to_pylist() for n in ("path", "start", "stop", "bytes", "mtime_ns")]
    return [
        ItemKey(str((catalog.root / path).resolve()), start, stop, f"{size}-{changed}")
        for path, start, stop, size, changed in zip(*columns, strict=True)
    ]


def _embed(
    todo: list[int],
    keys: list[ItemKey],
    catalog: Catalog,
    package: EncoderPackage,
    work: Work,
    *,
    every: float,
    batch_size: int,
    workers: int,
    device: str | torch.device,
    progress: Callable[[int, int], None] | None,
    shard: int,
) -> dict[str, str]:
    """Embed items into shards; an item is finished when a moment of a later one comes.

    Returns:
        Why, by path, items gave no frame, or not all that were asked for.
    """
    if not todo:
        return {}
    part = catalog.select(indices=todo)
    module = package.module.eval().to(device)
    times: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    reasons: dict[int, str] = {}
    current = 0

    def finish(upto: int) -> None:
        """Take the open item, and those without a moment between it and the next one."""
        nonlocal current
        while current < upto:
            if times:
                work.add(keys[todo[current]], _moments(times, vectors))
            times.clear()
            vectors.clear()
            current += 1
        if work.pending >= shard:
            work.flush()
        if progress is not None:
            progress(current, len(todo))

    try:
        with torch.inference_mode():
            for pixels, index, seconds in inference_batches(
                part,
                package.plan,
                every=every,
                batch_size=batch_size,
                workers=workers,
                failed=reasons,
            ):
                found = encode(module, pixels.to(device)).float().cpu().numpy()
                if not np.isfinite(found).all():
                    raise StoreError(
                        "the encoder gives values that are not finite",
                        file=keys[todo[int(index[0])]].path,
                        stage="embed",
                        remedy="train the encoder again, or take an earlier checkpoint",
                    )
                unit, rows, shown = normalise(found), np.asarray(index), np.asarray(seconds)
                for item in np.unique(rows):  # items come in the order of the catalog
                    finish(int(item))
                    times.append(shown[rows == item])
                    vectors.append(unit[rows == item])
        finish(len(todo))
    finally:
        # whatever ends the job, what is finished is safe
        work.flush()
    failed: dict[str, str] = {}
    for row in sorted(reasons):
        failed.setdefault(keys[todo[row]].path, reasons[row])
    return failed


def _nothing(target: Path, failed: Mapping[str, str]) -> StoreError:
    """The error of a job that found not one frame."""
    listed = [f"{path}: {reason}" for path, reason in list(failed.items())[:_NAMED]]
    if len(failed) > _NAMED:
        listed.append(f"and {len(failed) - _NAMED} more files")
    return StoreError(
        "no moment could be embedded" + (f": {'; '.join(listed)}" if listed else ""),
        file=target,
        stage="embed",
        remedy="give files with pictures that can be decoded; rhyme scan says what is there",
    )


def _moments(times: list[np.ndarray], vectors: list[np.ndarray]) -> Rows:
    """The moments of one item; where two of them are the same shown frame, one."""
    shown, first = np.unique(np.concatenate(times), return_index=True)
    return Rows(times=shown, vectors=np.concatenate(vectors)[first])


def _new(
    fresh: dict[ItemKey, int], work: Work, catalog: Catalog
) -> Iterator[tuple[ItemKey, Rows, dict[str, Any]]]:
    """Moments of the items that were embedded, in the order of the catalog."""
    spacing = catalog.table.column("spacing").to_pylist()
    # By whatever name it was given: the same folder is the same collection.
    root = str(catalog.root.resolve())
    for key, index in fresh.items():
        if key in work:
            item = catalog.item(index)
            yield (
                key,
                work.rows(key),
                {
                    "item": item.id,
                    "kind": item.kind,
                    "group": item.group,
                    "collection": root,
                    "labels": json.dumps({k: v for k, v in item.labels.items() if v is not None}),
                    "spacing": R2V2_SPACING if spacing[index] is None else float(spacing[index]),
                    "files": json.dumps([str((catalog.root / f).resolve()) for f in item.files]),
                },
            )


def _copy_package(source: Path, target: Path, package: EncoderPackage) -> None:
    """The store's own copy of the encoder, which appears whole or not at all."""
    if target.exists():
        try:
            if load_package(target).hash == package.hash:
                return
        except PackageError:
            pass
        shutil.rmtree(target)
    fresh = target.parent / WORK / f"encoder-{uuid.uuid4().hex[:8]}"
    shutil.copytree(source, fresh)
    fresh.rename(target)
