"""Where things lie in a store, and the one file that says which of them count.

::

    store.json         what the store is; written last, by a rename: the moment of commitment
    encoder/           the encoder package that made the vectors
    g000001/           one generation: vectors.npy (float32 [n, d], normalised) and a LanceDB
                       database with the table ``moments``, a row a vector
    work/              shards of an embedding job that has not been finished
    lock               held while a process writes

A new generation is written beside the old one, ``store.json`` is renamed to name it, and only then
the old one is deleted: a kill at any moment leaves the old store or the new.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rhyme.config import from_dict, to_dict
from rhyme.errors import ConfigError, StoreError
from rhyme.run import atomic_write, to_json

__all__ = ["FORMAT_VERSION", "StoreInfo", "locked", "read_info", "write_info"]

FORMAT_VERSION = 1
INFO, ENCODER, VECTORS, TABLE, WORK, LOCK = (
    "store.json",
    "encoder",
    "vectors.npy",
    "moments",
    "work",
    "lock",
)


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a store is.

    Attributes:
        package: hash of the encoder package.
        generation: folder of the rows that count.
        count: number of moments.
        items: number of items they were taken from.
        dim: width of a vector.
        every: seconds from one moment to the next.
        vectors_sha256: SHA-256 of the vector file.
        catalogs: fingerprint of the catalog last embedded, by root folder.
        format_version: version of this layout.
    """

    package: str
    generation: str
    count: int
    items: int
    dim: int
    every: float
    vectors_sha256: str
    catalogs: dict[str, str]
    format_version: int = FORMAT_VERSION


def read_info(directory: Path) -> StoreInfo | None:
    """What the store is; None where nothing was ever committed.

    Args:
        directory: the store.

    Raises:
        StoreError: the file is damaged, or of another version.
    """
    file = directory / INFO
    if not file.is_file():
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        version = raw["format_version"]
        if version == FORMAT_VERSION:
            return from_dict(StoreInfo, raw)
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise StoreError(
            f"the store's description is damaged: {error}",
            file=file,
            stage="open store",
            remedy="embed the collection again into a new folder",
        ) from error
    raise StoreError(
        "the store was written by another version of rhyme",
        file=file,
        stage="open store",
        value=version,
        remedy="update rhyme, or embed the collection again",
    )


def write_info(directory: Path, info: StoreInfo) -> None:
    """Commit a generation.

    Args:
        directory: the store.
        info: what it is from now on.
    """
    atomic_write(directory / INFO, to_json(to_dict(info)) + "\n")


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Hold the store for writing.

    The system lets go of the lock when the process ends, however it ends.

    Args:
        directory: the store, which exists.

    Raises:
        StoreError: another process holds it.
    """
    import fcntl

    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                "another process is writing this store",
                file=directory,
                stage="embed",
                remedy="wait until it is done",
            ) from error
        yield
