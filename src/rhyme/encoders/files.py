"""The files of a package: names, checksums, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rhyme.encoders.weights import refuse_pickle
from rhyme.errors import PackageError
from rhyme.run import atomic_write, fsync_directory, swap, to_json

FORMAT_VERSION = 1
WEIGHTS, CONFIG, PLAN, CARD = "weights.safetensors", "config.json", "inference.json", "README.md"
_HASHED = (WEIGHTS, CONFIG, PLAN)
_READS = 10
_COPY_AGAIN = "copy or download the package again"


def check_target(target: Path, overwrite: bool) -> None:
    """Make sure that a package may be written to ``target``.

    Raises:
        PackageError: something stands there that may not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise PackageError(
            "the folder exists and is not empty",
            file=target,
            remedy="choose another folder, or delete this one",
        )
    if not (target / CONFIG).is_file() or not (target / WEIGHTS).is_file():
        raise PackageError(
            "the folder is no encoder package, so it is not replaced",
            file=target,
            remedy="choose another folder",
        )


def write_folder(target: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write a folder of files that appears under its name complete or not at all.

    Args:
        target: the folder.
        files: contents by file name.
        overwrite: replace what is there. The two folders trade names in one operation where the
            system can; elsewhere the old one is moved aside first. It is deleted last.

    Raises:
        OSError: it cannot be written; the error names the file by its place in ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    fresh, aside = (target.with_name(f".{target.name}.{word}-{token}") for word in ("new", "old"))
    try:
        fresh.mkdir()
        for name, data in files.items():
            atomic_write(fresh / name, data)
        if overwrite and target.exists() and swap(fresh, target):
            aside = fresh
        else:
            if overwrite and target.exists():
                target.rename(aside)
            fresh.rename(target)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if aside.exists() and not target.exists():
            aside.rename(target)
        if isinstance(error, OSError) and str(error.filename).startswith(str(fresh)):
            inside = str(error.filename).removeprefix(str(fresh))
            error.filename = f"{target}{inside}"
        raise
    fsync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the three files that make a package.

    A package that is replaced meanwhile is read again, so that all files are of one.

    Raises:
        PackageError: the folder or one of the files is missing, or it is a pickled checkpoint.
    """
    for _ in range(_READS - 1):
        before = _which(folder)
        try:
            files = _read_files(folder)
        except (PackageError, OSError):
            if _which(folder) == before:
                raise
            continue
        if _which(folder) == before:
            return files
    return _read_files(folder)


def _which(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read_files(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        refuse_pickle(folder)
    if not folder.is_dir():
        raise PackageError(
            "no such encoder package", file=folder, remedy="give the folder that save_package made"
        )
    files: dict[str, bytes] = {}
    for name in _HASHED:
        path = folder / name
        if not path.is_file():
            for other in sorted(folder.iterdir()):
                if name == WEIGHTS:
                    refuse_pickle(other)
            raise PackageError(f"the package has no {name}", file=folder, remedy=_COPY_AGAIN)
        files[name] = path.read_bytes()
    return files


def checked_config(files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """Parse ``config.json`` and hold all files against the checksums in it.

    Raises:
        PackageError: a file differs from what was written, or has another format.
    """

    def damaged(name: str) -> PackageError:
        return PackageError(
            f"{name} is damaged or was changed after it was written",
            file=folder / name,
            stage="load package",
            remedy=_COPY_AGAIN,
        )

    try:
        parsed = json.loads(files[CONFIG])
        whole = files[CONFIG] == dump_json(parsed)
    except (ValueError, RecursionError) as error:
        raise damaged(CONFIG) from error
    if not isinstance(parsed, dict) or parsed.get("format") != "rhyme-encoder":
        raise PackageError(
            "config.json describes no rhyme encoder",
            file=folder / CONFIG,
            stage="load package",
            remedy="give the folder that save_package made",
        )
    config = cast(dict[str, Any], parsed)
    if config.get("format_version") != FORMAT_VERSION:
        raise PackageError(
            f"the package has format {config.get('format_version')!r}, not {FORMAT_VERSION}",
            file=folder / CONFIG,
            stage="load package",
            remedy="update rhyme",
        )
    sums = cast(Any, config.get("sha256"))
    if not isinstance(sums, dict) or not whole:
        raise damaged(CONFIG)
    kept = {name: value for name, value in cast(dict[str, Any], sums).items() if name != "config"}
    if sha256(dump_json({**config, "sha256": kept})) != sums.get("config"):
        raise damaged(CONFIG)
    for name in (WEIGHTS, PLAN):
        if sha256(files[name]) != sums.get(name):
            raise damaged(name)
    return config


def dump_json(value: Any) -> bytes:
    """JSON that depends on the content alone."""
    text = json.dumps(json.loads(to_json(value)), indent=2, sort_keys=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def identity(files: Mapping[str, bytes]) -> str:
    """SHA-256 over what vectors depend on: weights, plan, architecture and kind.

    The card is left out: the same encoder trained into another folder is the same encoder.
    """
    config = json.loads(files[CONFIG])
    about = dump_json({key: config[key] for key in ("kind", "backbone", "heads")})
    digest = hashlib.sha256()
    for name, data in ((WEIGHTS, files[WEIGHTS]), (PLAN, files[PLAN]), (CONFIG, about)):
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def seal(files: dict[str, bytes], config: Mapping[str, Any]) -> None:
    """Add ``config.json`` to the other files, with the checksums of all and of itself."""
    sums = {name: sha256(files[name]) for name in (WEIGHTS, PLAN)}
    sealed = {**config, "sha256": sums}
    sums["config"] = sha256(dump_json(sealed))
    files[CONFIG] = dump_json(sealed)
