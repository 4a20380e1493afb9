"""Checks that several verbs make before they begin: seeds, outputs, and where the data lie."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rhyme.api.progress import progress_bar
from rhyme.catalog import Catalog, missing_files
from rhyme.errors import CatalogError, ConfigError, DataError, EvaluationError, printable
from rhyme.evaluation import Result

PNG = (b"\x89PNG",)
HTML = (b"<!doctype", b"<!DOCTYPE", b"<html")
CATALOG = (b"ARROW1", b"PAR1")
STAGED = "all files have their sizes of the scan and other times: taken for a fresh copy of them"
_LONGEST_ROW = 1 << 24  # bytes; a file without line breaks is not read whole
NAMED = 20
"""Missing files that are named in a message."""


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        ConfigError: it is below 0.
    """
    if seed < 0:
        raise ConfigError(
            "a seed must be a whole number from 0", value=seed, remedy="e.g. --seed 0"
        )


def output_file(path: str | Path, kind: str, beginnings: tuple[bytes, ...]) -> Path:
    """A file that may be written: a new one, or one of the same kind.

    Args:
        path: where to write.
        kind: what is written, for the message.
        beginnings: first bytes of files of that kind; what begins otherwise is never replaced.

    Raises:
        ConfigError: a folder, or a file of another kind, stands there.
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigError(
            f"this is a folder, and {kind} is one file", file=target, remedy="add a file name"
        )
    if target.is_file():
        with target.open("rb") as file:
            head = file.read(16)
        if head and not head.lstrip().startswith(beginnings):
            raise ConfigError(
                f"a file that is no {kind} stands there, and it is not replaced",
                file=target,
                remedy="choose another name",
            )
    return target


def check_writable(file: Path, option: str, *, replaced: bool = False, otherwise: str = "") -> None:
    """Refuse, before the work, a file that could not be written after it; nothing is left there.

    Args:
        file: a new file, or one that is added to.
        option: what named it, for the message.
        replaced: a file that stands there is replaced, so its folder must be writable.
        otherwise: what may be done instead, for the remedy.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        if file.is_file() and not replaced:
            with file.open("ab"):
                pass
        elif replaced or not file.exists():
            folder = next(p for p in file.absolute().parents if p.exists())
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise ConfigError(
            f"{option} cannot be written: {error.strerror or error}",
            file=file,
            remedy=f"choose a place that can be written{otherwise}",
        ) from error


def rows_file(path: str | Path, option: str) -> Path:
    """A file that result rows may be added to: a new one, or one of such rows.

    Args:
        path: the file.
        option: what named it, for the message.

    Raises:
        ConfigError: a folder, another file, or a place that cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigError(
            f"{option} is one file, and this is a folder",
            file=target,
            remedy=f"add a file name: {option} {target / 'rows.jsonl'}",
        )
    check_writable(target, option)
    if target.is_file():
        with target.open("rb") as file:
            first = file.readline(_LONGEST_ROW)
        if first and not _is_row(first):
            raise ConfigError(
                f"{option} adds to a file of result rows, and this is another one: it is not "
                "changed",
                file=target,
                value=first[:40].decode(errors="replace").strip(),
                remedy=f"choose another name, e.g. {option} rows.jsonl",
            )
    return target


def _is_row(line: bytes) -> bool:
    try:
        Result.from_row(json.loads(line))
    except (ValueError, TypeError, EvaluationError):
        return False
    return True


def beside(folder: Path, ending: str) -> Path:
    """The path beside a folder that is called after it, for ``.`` and ``..`` too.

    Args:
        folder: the folder.
        ending: what is added to its name.

    Raises:
        ConfigError: nothing lies beside the root of the file system.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise ConfigError("nothing lies beside this folder", file=named, remedy="give --out")
    return named.with_name(named.name + ending)


def check_root(catalog: Catalog) -> None:
    """Refuse a catalog whose folder of data has gone.

    Raises:
        CatalogError: naming the folder.
    """
    if not catalog.root.is_dir():
        raise CatalogError(
            "the data folder is gone",
            file=catalog.root,
            stage="open",
            remedy="put it back there; to judge or embed other data: --data DIR",
        )


def find_missing(
    catalog: Catalog,
    limit: float = 1.0,
    *,
    remedy: str = "put them back, or scan again: rhyme scan DIR (shards: rhyme prepare DIR)",
) -> dict[str, list[int]]:
    """Files that are gone since the scan, each with the rows of its items, before work begins.

    Args:
        catalog: the items.
        limit: largest share of items that may be missing; three files always may.
        remedy: what helps where too many are.

    Raises:
        CatalogError: the whole folder is gone.
        DataError: all files are gone, or more than may be.
    """
    check_root(catalog)
    with progress_bar("look for files", "folders") as progress:
        gone = missing_files(catalog, progress)
    rows = sum(map(len, gone.values()))
    if gone and (rows == len(catalog) or (len(gone) > 3 and rows > limit * len(catalog))):
        raise DataError(
            f"{describe_missing(gone)}; {rows} of {len(catalog)} items are lost",
            file=catalog.root,
            stage="data",
            remedy=remedy,
        )
    return gone


def describe_missing(gone: Mapping[str, object]) -> str:
    """How many files are gone, and the names of the first of them."""
    more = f" and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
    names = ", ".join(printable(name) for name in list(gone)[:NAMED])
    one = len(gone) == 1
    return f"{len(gone)} file{' is' if one else 's are'} gone since the scan: {names}{more}"
