"""What a folder holds: candidates for items, and what cannot be one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import NamedTuple

from rhyme.catalog.shard_labels import ShardLabels, sample_of
from rhyme.media import Kind, Member


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file, or a run of pictures, that may become items.

    Args:
        path: relative to the root, with ``/``.
        kind: what it looks like; a file that looks like video may turn out to be sound.
        files: the pictures of a frame folder in order, relative to the root; else empty.
        size: bytes (the sum over a frame folder).
        mtime_ns: time of the last change, nanoseconds (of the first picture of a frame folder).
        spacing: seconds between the frames of a frame folder unless told otherwise.
        r2v2: the frame folder follows R2V2's naming.
        member: where the picture lies in its archive; None for a file.
    """

    path: str
    kind: Kind
    files: tuple[str, ...] = ()
    size: int = 0
    mtime_ns: int = 0
    spacing: float = 0.04
    r2v2: bool = False
    member: Member | None = None


class Unreadable(NamedTuple):
    """Something that cannot be an item, whatever it holds.

    Args:
        path: its name, as far as it can be written.
        reason: why.
        remedy: what to do about it.
    """

    path: str
    reason: str
    remedy: str = "rename the file, or check its permissions"


@dataclass(kw_only=True)
class Found:
    """What a folder holds.

    Args:
        candidates: in order of path.
        unreadable: what cannot be an item, with the reason: names that cannot be written down,
            members of archives that must not be read.
        ignored: number of files left out, by kind; pictures of archives count as such, what else
            lies beside them by suffix.
        labels: classes that lie beside the pictures of archives.
        parts: endings that the samples of archives share, with the number of pictures of each:
            ``{"input.jpg": 100, "mask.png": 100}``.
        samples: the samples of archives that hold several pictures.
        seen: number of files met.
    """

    candidates: list[Candidate] = field(default_factory=list[Candidate])
    unreadable: list[Unreadable] = field(default_factory=list[Unreadable])
    ignored: dict[str, int] = field(default_factory=dict[str, int])
    labels: ShardLabels = field(default_factory=ShardLabels)
    parts: dict[str, int] = field(default_factory=dict[str, int])
    samples: frozenset[str] = frozenset()
    seen: int = 0

    def source(self, candidate: Candidate) -> str:
        """What an item belongs to where no list says it: its file, or its sample in an archive.

        So a picture and its mask, or two crops of a picture, lie on one side of a split.
        """
        if candidate.member is None or not self.samples:
            return candidate.path
        sample = sample_of(candidate.path)
        return sample if sample in self.samples else candidate.path


def listing(found: Found) -> str:
    """A hash over path, size and time of everything found; it changes when the folder does.

    Of a frame folder the names of its pictures count, and their sizes and first time as a whole.
    """
    rows: list[object] = [(c.path, c.size, c.mtime_ns, _names(c)) for c in found.candidates]
    if any(candidate.member is not None for candidate in found.candidates):
        rows.append(["samples", len(found.samples)])  # by another rule the groups are others
    if found.labels.seen:
        rows.append([found.labels.values, found.labels.faults])
    if pictures := found.ignored.get("image"):
        rows.append([pictures])  # told beside the videos that are taken
    if found.unreadable:  # an archive may be damaged behind all that was found in it
        rows.append([list(fault) for fault in found.unreadable])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _names(candidate: Candidate) -> str | int:
    """A hash over the names of a frame folder's pictures; 0 for a file."""
    if not candidate.files:
        return 0
    return hashlib.sha256(json.dumps(candidate.files).encode()).hexdigest()
