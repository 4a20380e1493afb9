"""Whatever the user calls data - a catalog, a scanned folder, a plain folder - as a catalog."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rhyme.catalog.candidates import listing
from rhyme.catalog.catalog import Catalog
from rhyme.catalog.discover import discover
from rhyme.catalog.lists import official_lists
from rhyme.catalog.scan import scan
from rhyme.catalog.storage import FILE_NAME, absolute_place
from rhyme.errors import CatalogError, DataError

_READING = 2
"""How labels and splits are read: kept catalogs that were read otherwise are made anew."""


def open_data(path: str | Path, *, cache: str | Path | None = None, **options: Any) -> Catalog:
    """A catalog of the data at a path.

    A media file is looked at. A catalog file, or a folder that holds ``catalog.arrow``, is opened.
    Any other folder is scanned; the result is kept outside of it and used again as long as the
    folder does not change, and after a change, of labels or options too, only what is new is looked
    at.

    Args:
        path: a catalog file or a folder.
        cache: folder for the kept results; by default ``$RHYME_CACHE``, else
            ``$XDG_CACHE_HOME/rhyme``, else ``~/.cache/rhyme``.
        options: as for `scan`, other than ``out`` and ``journal``; not for a catalog that is only
            opened.

    Returns:
        The catalog.

    Raises:
        DataError: no such file or folder, or nothing usable in it.
        CatalogError: the catalog is damaged, or the CSV file is.
    """
    given = Path(path)
    if not given.exists():
        raise DataError("no such file or folder", file=given, stage="data", remedy="check the path")
    if given.is_file():
        with given.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"PAR1"):
            return Catalog.from_parquet(given)
        if magic == b"ARROW1" or given.suffix.lower() == ".arrow":
            return Catalog.open(given)
        return scan(given, **options)
    if (given / FILE_NAME).is_file() and not options:
        return Catalog.open(given)
    given = absolute_place(given)
    catalogs = cache_folder(cache) / "catalogs"
    kept = catalogs / _name(given, options)
    file = kept / FILE_NAME
    if file.is_file():
        try:
            catalog = Catalog.open(file)
            if catalog.meta.get("listing") == _now(given, options):
                return catalog
        except CatalogError:
            pass
    progress = options.pop("progress", None)
    # What was learnt of a file stays true under other labels and options: one journal a folder.
    journal = catalogs / f"{_short(str(given))}.journal"
    return scan(given, out=file, journal=journal, progress=progress, **options)


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder in which rhyme keeps what it can make again.

    Args:
        cache: one that the user chose.
    """
    if cache is not None:
        return Path(cache)
    if os.environ.get("RHYME_CACHE"):
        return Path(os.environ["RHYME_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rhyme"


def _name(folder: Path, options: dict[str, Any]) -> str:
    """A folder name for this data and these options, the CSV file's content included."""
    plain = {k: v for k, v in options.items() if k not in ("progress", "workers")}
    tables = [folder / "labels.csv", Path(str(options.get("labels", "")))]
    lists = official_lists(str(options.get("labels", "")), options.get("split_number"))
    tables += [] if lists is None else lists.files
    sums = [hashlib.sha256(t.read_bytes()).hexdigest() for t in tables if t.is_file()]
    return _short(json.dumps([_READING, str(folder), plain, sums], default=str, sort_keys=True))


def _short(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:24]


def _now(folder: Path, options: dict[str, Any]) -> str:
    return listing(discover(folder, kinds=options.get("kinds"), include=options.get("include")))
