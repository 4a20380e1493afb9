"""The run folder, and writing that survives a kill at any moment.

Layout of a run, readable without rhyme::

    config.yaml      the whole configuration; written when all that a run begins with is there
    catalog.arrow    the items, with their split
    metrics.jsonl    one object a logged step
    events.jsonl     what happened: start, resume, quarantine, alarms, stop
    results.jsonl    one object a measured figure
    checkpoints/     state to resume from
    encoder/         the trained encoder package
    report.html      the page of evidence
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rhyme.errors import RunError


def fsync_directory(path: Path) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap(one: Path, other: Path) -> bool:
    """Let two folders trade names in one operation, so that both names always have one.

    Returns:
        False where the system has no such operation (outside Linux); nothing is changed then.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and not rename(
        here, os.fsencode(one.absolute()), here, os.fsencode(other.absolute()), exchange
    )


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    The bytes go to a temporary file in the same folder, are synced, and take the name by a rename
    that is synced too.
    """
    target = Path(path)
    with naming(target):
        _replace(target, content.encode() if isinstance(content, str) else content)


def _replace(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; take the mode that an ordinary open would have given.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(target.parent)


@contextmanager
def naming(path: str | Path) -> Generator[None]:
    """Within it an error of the system names the file: a write to a full disk by itself does not.

    Args:
        path: what is being written, for errors that name nothing.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def take_room(file: Path) -> None:
    """Have the disk give a file of holes its blocks now, where the system can.

    A write to a mapped hole for which a full disk has no block ends the process by SIGBUS.

    Raises:
        OSError: there is no room.
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return
    with file.open("r+b") as opened:
        try:
            allocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system without it
                raise


def to_json(value: Any) -> str:
    """One line of strict JSON; NaN and infinities become the strings ``"nan"``, ``"inf"``."""

    def clean(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return str(item)
        if isinstance(item, Mapping):
            return {str(k): clean(v) for k, v in cast(Mapping[Any, Any], item).items()}
        if isinstance(item, list | tuple):
            return [clean(v) for v in cast(list[Any], item)]
        if isinstance(item, Path):
            return str(item)
        return item

    return json.dumps(clean(value), ensure_ascii=False, allow_nan=False)


def append_jsonl(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one object as a line, in a single write.

    Raises:
        RunError: the disk refuses; rows that were written before stay.
    """
    target = Path(path)
    line = (to_json(row) + "\n").encode("utf-8", "backslashreplace")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            if file.tell() and not _ends_with_newline(target):
                file.write(b"\n")  # a killed writer left a torn line: keep it from eating this one
            file.write(line)
    except OSError as error:
        raise RunError(
            f"a row could not be written: {error.strerror or error}",
            file=target,
            remedy="make room or give a writable folder; rows and checkpoints before it are intact",
        ) from error


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All complete rows of a JSONL file; torn lines are left out, a missing file has no rows."""
    target = Path(path)
    if not target.exists():
        return []
    rows: list[dict[str, Any]] = []
    with target.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(cast(dict[str, Any], row))
    return rows


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Any, size: int = 1 << 20) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


_FIRST = re.compile(
    r"checkpoints|(events\.jsonl|catalog\.arrow|initial\.safetensors)|"
    r"\.(config\.yaml|catalog\.arrow|initial\.safetensors)\..*"
)
"""What is made before a run's configuration, and what a kill leaves of writing it."""


class RunFolder:
    """Paths of one run, and its event log.

    Args:
        path: the folder; use :meth:`create` for a new run, :meth:`open` for one that exists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.results = self.path / "results.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.encoder = self.path / "encoder"
        self.report = self.path / "report.html"

    @classmethod
    def create(cls, path: str | Path, config: Any) -> RunFolder:
        """Make the folder of a new run and write its configuration.

        Raises:
            RunError: something is there already; an existing run is never overwritten.
        """
        with cls.beginning(path, config) as folder:
            return folder

    @classmethod
    @contextmanager
    def beginning(cls, path: str | Path, config: Any) -> Generator[RunFolder]:
        """Make the folder of a new run; what else it begins with is written within.

        The configuration, which makes the folder a run, comes last. Where that was never reached,
        the folder is begun anew.

        Raises:
            RunError: something is there already, or another process begins there.
        """
        from rhyme.config import dump_yaml

        folder = cls(path)
        if folder.path.exists() and not folder._never_begun():
            way = f", or go on with it: rhyme train --resume {path}"
            raise RunError(
                "the run folder exists and is not empty",
                file=folder.path,
                remedy="choose another --out" + (way if folder.config.exists() else ""),
            )
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        with folder.held():
            if not folder._never_begun():
                raise RunError("another process has begun this run", file=path)
            for entry in folder.path.iterdir():
                if entry not in (folder.checkpoints, folder.events):
                    entry.unlink()
            os.truncate(folder.events, 0)
            yield folder
            atomic_write(folder.config, dump_yaml(config))

    def _never_begun(self) -> bool:
        """Whether the folder is empty, or holds only what was made before its configuration."""
        if not self.path.is_dir():
            return False
        names = {entry.name for entry in self.path.iterdir()}
        if not names:
            return True
        ours = self.checkpoints.is_dir() and not any(self.checkpoints.iterdir())
        return ours and all(_FIRST.fullmatch(name) for name in names)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of a run that exists.

        Raises:
            RunError: there is no such folder, or it holds no ``config.yaml``.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise RunError("no such run folder", file=path, remedy="list runs: rhyme runs")
        if not folder.config.is_file():
            raise RunError(
                "the folder is no run: config.yaml is missing",
                file=path,
                remedy="give the folder that `rhyme train --out` made",
            )
        return folder

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep the run for this process: two that train in one folder would mix their states.

        The lock goes with the process, however that ends. File systems that know no locks, and
        systems other than POSIX, do not stop a second one.

        Raises:
            RunError: another process has it.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        with self.events.open("ab") as file:  # the log is always there, and never replaced
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    "another process trains in this run folder",
                    file=self.path,
                    remedy="wait for it, or stop it first; what it does and where: "
                    f"rhyme runs {self.path}",
                ) from error
            except OSError:
                pass  # no locks here
            yield

    def event(self, kind: str, **facts: Any) -> None:
        """Append an event with the time of day."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        append_jsonl(self.events, {"time": stamp, "event": kind, **facts})
