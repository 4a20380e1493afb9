"""What a scan has already learnt, so that a scan that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from rhyme.catalog.candidates import Candidate
from rhyme.errors import CatalogError


class Journal:
    """A file of JSON lines, one a finished candidate, keyed by path, size, time and settings.

    A torn last line, left by a kill, is passed over.

    Args:
        path: the file; None keeps nothing.
        settings: anything else the facts depend on; entries of other settings are not used.
    """

    def __init__(self, path: Path | None, settings: str) -> None:
        self._path = path
        self._settings = settings
        self._known: dict[tuple[str, int, int], dict[str, Any]] = {}
        self._file = None
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes() if path.exists() else b""
            self._file = path.open("ab")
            if text and not text.endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as error:
            raise _refused(error, path) from error
        for line in text.splitlines():
            try:
                row = cast("dict[str, Any]", json.loads(line))
                if row["settings"] == self._settings:
                    path_, size, mtime = row["key"]
                    self._known[(str(path_), int(size), int(mtime))] = row["result"]
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, candidate: Candidate) -> dict[str, Any] | None:
        """What was learnt about a candidate, if it has not changed since."""
        return self._known.get((candidate.path, candidate.size, candidate.mtime_ns))

    def add(self, candidate: Candidate, result: Mapping[str, Any]) -> None:
        """Keep what was learnt about a candidate."""
        if self._file is None:
            return
        key = [candidate.path, candidate.size, candidate.mtime_ns]
        row = {"settings": self._settings, "key": key, "result": dict(result)}
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise _refused(error, self._path) from error

    def remove(self) -> None:
        """Delete the file: the catalog itself now holds everything."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and keep it, unless nothing was learnt."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk has refused was told when it was added
                self._file.close()
            self._file = None
        if self._path is not None and self._path.is_file() and self._path.stat().st_size == 0:
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _refused(error: OSError, path: Path | None) -> CatalogError:
    return CatalogError(
        f"the scan's journal cannot be written: {error.strerror}",
        file=path,
        stage="scan",
        remedy="make room there, or let it lie elsewhere: the journal of rhyme scan beside the "
        "catalog (--out FILE), that of other commands in the cache (RHYME_CACHE=DIR)",
    )
