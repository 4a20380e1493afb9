"""Every failure that rhyme can foresee, as one family of typed errors.

An error names four things: the *file* or value it is about, the *stage* that met it, the
*cause*, and the *remedy*, i.e. what the reader can do now. They are raised where the facts are
known and caught once, at the boundary (``rhyme.cli``), which prints them without a traceback.

Example:
    >>> raise FileMissing("no such file", file="clips/a.mp4", remedy="check the path")
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn


class RhymeError(Exception):
    """Base of every foreseen failure.

    Args:
        cause: what went wrong, one sentence without a full stop.
        file: the file or folder concerned.
        stage: the part of the work that met the failure, e.g. ``"decode"``.
        value: the offending value, printed with ``repr``.
        remedy: what the reader can do about it.

    Attributes:
        told: whether another process tells the user of it: on several ranks the leader does.
    """

    told: bool = False
    exit_code: ClassVar[int] = 1
    default_remedy: ClassVar[str | None] = None

    def __init__(
        self,
        cause: str,
        *,
        file: str | Path | None = None,
        stage: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ) -> None:
        self.cause = cause
        self.file = None if file is None else str(file)
        self.stage = stage
        self.value = value
        self.remedy = remedy if remedy is not None else self.default_remedy
        super().__init__(cause)

    @property
    def reason(self) -> str:
        """The name of the failure and its cause in one line, for manifests."""
        return f"{type(self).__name__}: {self.cause}"

    def __str__(self) -> str:
        parts = [self.cause]
        if self.file is not None:
            parts.append(f"  file:   {printable(self.file)}")
        if self.stage is not None:
            parts.append(f"  stage:  {self.stage}")
        if self.value is not None:
            parts.append(f"  value:  {self.value!r}")
        if self.remedy is not None:
            parts.append(f"  remedy: {self.remedy}")
        return "\n".join(parts)

    def facts(self) -> dict[str, object]:
        """The failure as plain data, for ``--json`` and for other processes."""
        return {
            "error": type(self).__name__,
            "cause": self.cause,
            "file": self.file,
            "stage": self.stage,
            "value": repr(self.value) if self.value is not None else None,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__)


def _rebuild(kind: type[RhymeError], state: dict[str, object]) -> RhymeError:
    """Rebuild an error that crossed a process boundary with all its fields."""
    error = kind.__new__(kind)
    Exception.__init__(error, state["cause"])
    error.__dict__.update(state)
    return error


class _Shown(str):
    """The text of a value that stayed in another process."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def from_facts(facts: Mapping[str, Any]) -> RhymeError:
    """The failure that another process has told with :meth:`RhymeError.facts`."""
    kinds = {kind.__name__: kind for kind in _all_kinds(RhymeError)}
    return kinds.get(str(facts["error"]), RhymeError)(
        str(facts["cause"]),
        file=facts["file"],
        stage=facts["stage"],
        value=None if facts["value"] is None else _Shown(facts["value"]),
        remedy=facts["remedy"],
    )


def _all_kinds(kind: type[RhymeError]) -> Iterator[type[RhymeError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all_kinds(below)


class ConfigError(RhymeError):
    """A wrong option, key or value given by the user (exit code 2)."""

    exit_code = 2


class UnknownName(ConfigError):
    """A name that no registry, column, recipe or option carries."""


class MissingExtra(RhymeError):
    """An optional dependency is needed and absent or does not load."""


class RunError(RhymeError):
    """A run folder is missing, incomplete, or already in use."""


class CheckpointError(RhymeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class PackageError(RhymeError):
    """An encoder package is missing, damaged, or of another architecture."""


class MediaError(RhymeError):
    """A media file cannot be used."""


class FileMissing(MediaError):
    """The file does not exist or is no regular file."""

    default_remedy = "check the path, or scan the folder again"


class EmptyMedia(MediaError):
    """The file has no bytes, or holds no frame."""

    default_remedy = "copy or download the file again"


class NotMedia(MediaError):
    """The bytes are not one of the allowed media containers."""

    default_remedy = "give a video, picture or sound file"


class TruncatedMedia(MediaError):
    """The file ends before its index or its data does."""

    default_remedy = "copy the file again, or remux it: ffmpeg -i IN -c copy OUT"


class NoVideoStream(MediaError):
    """The file is media without a picture stream."""

    default_remedy = "leave the file out, or give one with a video stream"


class UnsupportedMedia(MediaError):
    """The container, codec or protection is not allowed or not built in."""

    default_remedy = "re-encode it: ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4"


class LimitExceeded(MediaError):
    """Dimensions, duration or size pass the limits that are checked before allocation."""

    default_remedy = "scale or cut the file, or raise the limit in media.Limits"


class StorageError(RhymeError):
    """The disk or the network under a file failed; nothing is said about the file itself."""

    default_remedy = "check the disk or the network mount, then go on or run the command again"


class CatalogError(RhymeError):
    """A catalog is missing, damaged, changed, or lacks what is asked of it."""


class DataError(RhymeError):
    """The data cannot serve the task, e.g. too few items, groups or classes."""


class NotFinite(DataError):
    """Features hold infinite values or none at all."""

    default_remedy = "the encoder is broken: train it again, or take an earlier checkpoint"


class TrainingError(RhymeError):
    """Training cannot go on, e.g. a loss that is not finite."""


class EvaluationError(RhymeError):
    """A protocol cannot be carried out on this data."""


class Diverged(EvaluationError):
    """What a protocol trained is not finite any more."""

    default_remedy = "lower its lr"


class StoreError(RhymeError):
    """A store is missing, damaged, or belongs to another encoder."""


class WorkerError(RhymeError):
    """A worker process died, hung, or raised."""


class WorkerHung(WorkerError):
    """An item took longer in its worker than it may."""


class RankError(RhymeError):
    """A rank was lost, so that the others cannot go on; a restart may help."""


class RoomLikeAVerb(ModuleType):
    """A room that shares its name with a verb: who calls it is told where the verb is."""

    def __call__(self, *_given: object, **_options: object) -> NoReturn:
        """Name the verb.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"'{self.__name__}' is a room of the package, and not the verb of that name",
            stage="call",
            remedy=f"call {self.__name__.replace('.', '.api.')}",
        )


def disk_trouble(error: OSError, stage: str | None = None) -> RhymeError:
    """What the system says of a file or folder, as an error with a remedy."""
    cause, file = error.strerror or str(error), error.filename
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        _, file, cause = error.args[0][0]  # of what could not be copied, the first
        cause = re.sub(r"^\[Errno \d+\] |: '.*", "", str(cause))
    return RhymeError(
        cause,
        file=file,
        stage=stage,
        remedy="check the path, its permissions and the free space; then run the command again",
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known name, or lists them all when none is near.

    Args:
        name: what the user typed.
        known: the valid names.

    Returns:
        ``"did you mean 'x'? known: ..."`` in one line.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return (f"did you mean '{near[0]}'? " if near else "") + f"known: {listed}"


def printable(text: str) -> str:
    """Text with control characters escaped, safe for a terminal, a log and a table."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
