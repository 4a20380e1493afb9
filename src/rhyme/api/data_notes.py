"""What a command says of the data that it was given, before it works on them."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any, cast

from rhyme.catalog import FILE_NAME, Catalog
from rhyme.errors import printable


def data_notes(data: str | Path | Catalog, catalog: Catalog) -> list[str]:
    """What a command says of which pictures are taken, before it works on them.

    Args:
        data: what the user gave.
        catalog: what was read of it.
    """
    beside = not_taken(data, catalog)
    return [*([] if beside is None else [beside]), *several_parts(data, catalog)]


def several_parts(data: str | Path | Catalog, catalog: Catalog) -> list[str]:
    """A line where samples of archives hold several pictures and nobody said which to take.

    Args:
        data: what the user gave.
        catalog: what was read of it.
    """
    parts = cast("dict[str, int]", catalog.meta.get("parts") or {})
    settings = cast("dict[str, Any]", catalog.meta.get("settings", {}))
    if len(parts) < 2 or settings.get("include") is not None:
        return []
    listed = ", ".join(f"{ending} {count:,}" for ending, count in list(parts.items())[:6])
    scanned = isinstance(data, Catalog) or is_catalog(data)
    way = f"{'rhyme scan DIR ' if scanned else ''}--include {quote(f'*.{next(iter(parts))}')}"
    return [
        printable(
            f"samples of archives hold several pictures, and each is an item with the label of "
            f"its sample: {listed}; {way} takes one of them"
        )
    ]


def not_taken(data: str | Path | Catalog, catalog: Catalog) -> str | None:
    """What a command says of pictures that lie beside videos; None where nobody has to be told.

    Args:
        data: what the user gave.
        catalog: what was read of it.
    """
    meta = catalog.meta
    count = int(cast("dict[str, int]", meta.get("ignored", {})).get("image", 0))
    chosen = cast("dict[str, Any]", meta.get("settings", {})).get("kinds")
    if not count or chosen is not None or meta.get("prepared") is not None:
        return None
    kinds = sorted({"image", *catalog.table.column("kind").unique().to_pylist()})
    folder = not isinstance(data, Catalog) and not is_catalog(data)
    told = "1 picture is" if count == 1 else f"{count:,} pictures are"
    way = f"{'' if folder else 'rhyme scan DIR '}--kinds {','.join(kinds)}"
    return f"{told} not taken ({way} takes {'both' if len(kinds) == 2 else 'all'})"


def is_catalog(data: str | Path) -> bool:
    """Whether a path is a catalog that was scanned before, or a folder that holds one."""
    path = Path(data)
    if path.is_dir():
        return (path / FILE_NAME).is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"ARRO", b"PAR1")
