"""Which files of a folder are items, before any of them is opened."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rhyme.catalog.shard_labels import SUFFIX, ShardLabels, parts, sample_of
from rhyme.errors import DataError, MediaError, printable
from rhyme.media import (
    ARCHIVES,
    DEFAULT_LIMITS,
    MARK,
    PACKED,
    R2V2_SPACING,
    Kind,
    Limits,
    Member,
    identify,
    members,
)

VIDEO = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg"),
        *(".mpeg", ".vob", ".flv", ".ogv", ".3gp", ".3g2", ".gif", ".wmv", ".asf", ".rm", ".rmvb"),
    )
)
PLAYLIST = frozenset((".m3u8", ".m3u", ".mpd", ".ffconcat", ".sdp", ".pls", ".asx", ".smil"))
IMAGE = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
AUDIO = frozenset((".wav", ".mp3", ".flac", ".ogg", ".oga", ".m4a", ".aac", ".opus"))
ACCEPTED = (
    "mp4 mov mkv webm avi ts mpg flv ogv gif; jpg png webp bmp tif, also in zip or tar; "
    "wav mp3 flac ogg m4a"
)

_SKIPPED_FOLDERS = frozenset(("truth", "Annotations", "__pycache__", "__MACOSX"))
_KNOWN_OTHER = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".arrow", ".parquet", ".npz", ".npy"),
        *(".yaml", ".yml", ".xml", ".html", ".htm", ".py", ".pkl", ".pt", ".mat", ".log", ".pdf"),
        *(".srt", ".vtt", ".ass", ".zip", ".tar", ".gz", ".journal", ".h5", ".safetensors"),
    )
)
_PASSED_OVER = _KNOWN_OTHER - frozenset((".zip", ".tar", ".gz")) | {".id"}
_NAMED = 20  # members of an archive that are named one by one
_NOT_UTF8 = "DataError: the file name is not valid UTF-8"
_PACKED = "UnsupportedMedia: a packed archive has no way to any one of its pictures"
_OTHER = "UnsupportedMedia: not a picture; of archives only pictures are read"
_OTHER_REMEDY = "unpack the archive, or leave the member out"
_R2V2 = re.compile(r"([\w-]{11})_(\d{6})\.jpe?g", re.IGNORECASE | re.ASCII)
_NUMBERED = re.compile(r"(\d+)\.\w+", re.ASCII)


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
        parts: endings of the pictures of archives that share a sample with others, with their
            number: ``{"input.jpg": 100, "mask.png": 100}``.
        seen: number of files met.
    """

    candidates: list[Candidate] = field(default_factory=list[Candidate])
    unreadable: list[Unreadable] = field(default_factory=list[Unreadable])
    ignored: dict[str, int] = field(default_factory=dict[str, int])
    labels: ShardLabels = field(default_factory=ShardLabels)
    parts: dict[str, int] = field(default_factory=dict[str, int])
    seen: int = 0

    def source(self, candidate: Candidate) -> str:
        """What an item belongs to where no list says it: its file, or its sample in an archive.

        So a picture and its mask, or two crops of a picture, lie on one side of a split.
        """
        apart = candidate.member is None
        return candidate.path if apart else sample_of(candidate.path, self.parts)


def discover(
    root: Path,
    *,
    kinds: Iterable[Kind] | None = None,
    include: Iterable[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Found:
    """List the candidates of a folder.

    Hidden files and folders, folders called ``truth`` or ``Annotations``, tables and texts are
    passed over. Pictures named
    ``<id>_<frame>.jpg`` in a folder named after the first two letters of the id (R2V2) are one
    frame folder an id; two or more pictures of a folder whose names are all numbers are one frame
    folder; other pictures are items of their own, and so is every picture within a zip or tar file.

    Args:
        root: the folder, or one file, which is then all that is listed.
        kinds: what to list; by default video and frame folders, else (where there are none)
            pictures, else sound.
        include: patterns such as ``*.input.jpg``; only files, and members of archives, whose whole
            path fits one of them are taken. ``*`` stands for any characters, ``/`` included.
        limits: bounds for archives.

    Raises:
        DataError: no such folder.
    """
    places = [(root.parent, [root.name])] if root.is_file() else _walk(root)
    root = root.parent if root.is_file() else root
    if not root.is_dir():
        raise DataError("no such folder", file=root, stage="scan", remedy="check the path")
    found = Found()
    by_kind: dict[Kind, list[Candidate]] = {"video": [], "frames": [], "image": [], "audio": []}
    wanted = None if kinds is None else set(kinds)
    in_archives: list[Unreadable] = []
    classes, beside = ShardLabels(), Counter[str]()
    patterns = None if include is None else tuple(include)
    excluded = 0

    def fits(path: str) -> bool:
        nonlocal excluded
        taken = patterns is None or any(fnmatchcase(path, pattern) for pattern in patterns)
        excluded += not taken
        return taken

    archives = 0
    for folder, names in places:
        relative = folder.relative_to(root).as_posix()
        prefix = "" if relative == "." else relative + "/"
        pictures: list[tuple[str, os.stat_result]] = []
        for name in names:
            found.seen += 1
            archive = _archived(folder / name, prefix + name, limits, classes, beside, fits)
            if archive is not None:
                archives += 1
                by_kind["image"] += archive[0]
                in_archives += archive[1]
                found.seen += len(archive[0])
                continue
            kind = _kind(folder / name)
            if kind is None or not fits(prefix + name):
                continue
            escaped = _escaped(prefix + name)
            try:
                facts = (folder / name).stat()
            except OSError as error:
                shown = escaped or prefix + name
                found.unreadable.append(Unreadable(shown, f"FileMissing: {error.strerror}"))
                continue
            if escaped is not None:
                found.unreadable.append(Unreadable(escaped, _NOT_UTF8))
                continue
            if kind == "image":
                pictures.append((name, facts))
            else:
                by_kind[kind].append(
                    Candidate(
                        path=prefix + name,
                        kind=kind,
                        size=facts.st_size,
                        mtime_ns=facts.st_mtime_ns,
                    )
                )
        runs = wanted is None or "frames" in wanted
        frames, single = _frame_runs(prefix, folder.name, pictures if runs else [])
        by_kind["frames"] += frames
        by_kind["image"] += single if runs else [_picture(prefix, n, s) for n, s in pictures]
    if wanted is None:
        moving = by_kind["video"] or by_kind["frames"]
        still = by_kind["image"] or (in_archives and not by_kind["audio"])
        wanted = {"video", "frames"} if moving else {"image"} if still else {"audio"}
    if "image" in wanted:
        found.unreadable += in_archives
        found.labels = classes
        found.ignored.update(sorted(beside.items()))
    elif archives:
        found.ignored["archive"] = archives  # also those that hold nothing that could be counted
    for kind, listed in by_kind.items():
        if kind in wanted:
            found.candidates += listed
        elif listed:
            found.ignored[kind] = len(listed)
    if excluded:
        found.ignored["excluded"] = excluded
    found.candidates.sort(key=lambda c: c.path)
    found.parts = parts(c.path for c in found.candidates if c.member is not None)
    return found


def listing(found: Found) -> str:
    """A hash over path, size and time of everything found; it changes when the folder does."""
    rows: list[object] = [(c.path, c.size, c.mtime_ns, len(c.files)) for c in found.candidates]
    if found.labels.seen:
        rows.append([found.labels.values, found.labels.faults])
    if pictures := found.ignored.get("image"):
        rows.append([pictures])  # told beside the videos that are taken
    if found.unreadable:  # an archive may be damaged behind all that was found in it
        rows.append([list(fault) for fault in found.unreadable])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _archived(
    file: Path,
    path: str,
    limits: Limits,
    classes: ShardLabels,
    beside: Counter[str],
    fits: Callable[[str], bool],
) -> tuple[list[Candidate], list[Unreadable]] | None:
    """The pictures of an archive, and what of it cannot be used; None for any other file.

    Classes go to ``classes``, other members that are passed over are counted in ``beside``.
    """
    if PACKED.search(file.name):
        return [], [Unreadable(path, _PACKED, "unpack it, or make it a plain .tar or .zip")]
    if file.suffix.lower() not in ARCHIVES:
        return None
    pictures: list[Candidate] = []
    faults: list[Unreadable] = []
    others: list[str] = []
    mtime = file.stat().st_mtime_ns if file.is_file() else 0
    for found in members(file, limits=limits, read=(SUFFIX,)):
        if isinstance(found, MediaError):
            named = str(found.file).replace(str(file), path, 1)
            faults.append(Unreadable(named, found.reason, found.remedy or "leave it out"))
            continue
        name = PurePosixPath(found.name)
        if name.name.startswith(".") or set(name.parts) & _SKIPPED_FOLDERS:
            continue
        if name.suffix.lower() == SUFFIX:
            classes.add(path, found)
        elif name.suffix.lower() in _PASSED_OVER:
            beside[name.suffix.lower()] += 1
        elif not fits(path + MARK + found.name):
            continue
        elif name.suffix.lower() in IMAGE and not _escaped(path + MARK + found.name):
            pictures.append(
                Candidate(
                    path=path + MARK + found.name,
                    kind="image",
                    size=found.size,
                    mtime_ns=mtime,
                    member=found,
                )
            )
        elif name.suffix.lower() in IMAGE:
            faults.append(Unreadable(_escaped(path + MARK + found.name) or "", _NOT_UTF8))
        else:
            others.append(found.name)
    faults += [
        Unreadable(path + MARK + printable(n), _OTHER, _OTHER_REMEDY) for n in others[:_NAMED]
    ]
    if len(others) > _NAMED:
        more = f"{_OTHER}; so are {len(others) - _NAMED} further members"
        faults.append(Unreadable(path, more, _OTHER_REMEDY))
    return pictures, faults


def _escaped(path: str) -> str | None:
    """A name that is not valid UTF-8, written so that it can be shown; None for a valid one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode(errors="backslashreplace").decode()
    return None


def _walk(root: Path) -> Iterable[tuple[Path, list[str]]]:
    """Folders and their visible files; linked folders are entered once."""
    entered: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        facts = Path(folder).stat()
        if (facts.st_dev, facts.st_ino) in entered:
            folders.clear()
            continue
        entered.add((facts.st_dev, facts.st_ino))
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS
        )
        yield Path(folder), sorted(name for name in files if not name.startswith("."))


def _kind(file: Path) -> Kind | None:
    suffix = file.suffix.lower()
    if suffix in VIDEO or suffix in PLAYLIST:
        return "video"
    if suffix in IMAGE:
        return "image"
    if suffix in AUDIO:
        return "audio"
    if suffix in _KNOWN_OTHER:
        return None
    try:
        with file.open("rb") as opened:
            magic = identify(opened.read(1024))
    except OSError:
        return None
    if magic is None:
        return None
    return {"pillow": "image", "wav": "audio", "mp3": "audio", "flac": "audio"}.get(  # pyright: ignore[reportReturnType]
        magic, "video"
    )


def _frame_runs(
    prefix: str, folder: str, pictures: list[tuple[str, os.stat_result]]
) -> tuple[list[Candidate], list[Candidate]]:
    """Frame folders among the pictures of one folder, and the pictures left over."""
    by_id: dict[str, list[tuple[str, os.stat_result]]] = defaultdict(list)
    rest: list[tuple[str, os.stat_result]] = []
    for name, facts in pictures:
        match = _R2V2.fullmatch(name)
        if match and match[1][:2] == folder:
            by_id[match[1]].append((name, facts))
        else:
            rest.append((name, facts))
    frames = [_run(prefix + id_, prefix, run, r2v2=True) for id_, run in sorted(by_id.items())]
    numbers = [_NUMBERED.fullmatch(name) for name, _ in rest]
    if len(rest) >= 2 and all(numbers):
        rest.sort(key=lambda pair: (int(pair[0].split(".")[0]), pair[0]))
        frames.append(_run(prefix.rstrip("/") or ".", prefix, rest))
        rest = []
    return frames, [_picture(prefix, name, facts) for name, facts in rest]


def _run(
    path: str, prefix: str, run: list[tuple[str, os.stat_result]], *, r2v2: bool = False
) -> Candidate:
    return Candidate(
        path=path,
        kind="frames",
        files=tuple(prefix + name for name, _ in run),
        size=sum(facts.st_size for _, facts in run),
        mtime_ns=run[0][1].st_mtime_ns,
        spacing=R2V2_SPACING if r2v2 else 0.04,
        r2v2=r2v2,
    )


def _picture(prefix: str, name: str, facts: os.stat_result) -> Candidate:
    return Candidate(
        path=prefix + name, kind="image", size=facts.st_size, mtime_ns=facts.st_mtime_ns
    )
