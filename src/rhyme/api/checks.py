"""Checks that several verbs make before they begin: seeds, outputs, and where the data lie."""

from __future__ import annotations

from pathlib import Path

from rhyme.catalog import Catalog
from rhyme.errors import CatalogError, ConfigError

PNG = (b"\x89PNG",)
HTML = (b"<!doctype", b"<!DOCTYPE", b"<html")
CATALOG = (b"ARROW1", b"PAR1")


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
