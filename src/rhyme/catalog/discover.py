"""Which files of a folder are items, before any of them is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from rhyme.catalog.candidates import Candidate, Found, Unreadable
from rhyme.catalog.frame_runs import frame_runs, picture
from rhyme.catalog.shard_labels import SUFFIX, ShardLabels, several
from rhyme.errors import DataError, MediaError, printable
from rhyme.media import (
    ARCHIVES,
    DEFAULT_LIMITS,
    MARK,
    PACKED,
    Kind,
    Limits,
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

_SKIPPED_FOLDERS = frozenset(("truth", "Annotations", "__pycache__", "__MACOSX", "lost+found"))
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


def discover(
    root: Path,
    *,
    kinds: Iterable[Kind] | None = None,
    include: Iterable[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Found:
    """List the candidates of a folder.

    Hidden files and folders, folders called ``truth``, ``Annotations`` or ``lost+found``, tables
    and texts are passed over; folders that cannot be read are named. Pictures named
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
        DataError: no such folder, or it cannot be read.
    """
    found = Found()
    places = [(root.parent, [root.name])] if root.is_file() else _walk(root, found.unreadable)
    root = root.parent if root.is_file() else root
    if not root.is_dir():
        raise DataError("no such folder", file=root, stage="scan", remedy="check the path")
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
        frames, single = frame_runs(prefix, folder.name, pictures if runs else [])
        by_kind["frames"] += frames
        by_kind["image"] += single if runs else [picture(prefix, n, s) for n, s in pictures]
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
    inner = (c.path for c in found.candidates if c.member is not None)
    found.parts, found.samples = several(inner)
    return found


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
    try:
        mtime = file.stat().st_mtime_ns
    except OSError:
        mtime = 0  # what opens it below says why
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


def _walk(root: Path, unreadable: list[Unreadable]) -> Iterable[tuple[Path, list[str]]]:
    """Folders and their visible files; linked folders are entered once.

    A folder below that cannot be read goes to ``unreadable``.
    """
    entered: set[tuple[int, int]] = set()

    def refused(error: OSError) -> None:
        folder = Path(error.filename or root)
        told = f"the folder cannot be read: {error.strerror}"
        if folder == root:
            raise DataError(
                told, file=root, stage="scan", remedy="check its permissions and the disk"
            ) from error
        path = folder.relative_to(root).as_posix()
        unreadable.append(
            Unreadable(
                _escaped(path) or path,
                f"FileMissing: {told}",
                "check the folder's permissions and the disk",
            )
        )

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refused):
        try:
            facts = Path(folder).stat()
        except OSError as error:
            folders.clear()
            refused(error)
            continue
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
        if not file.is_file():  # to open a pipe would wait for its writer
            return None
        with file.open("rb") as opened:
            magic = identify(opened.read(1024))
    except OSError:
        return None
    if magic is None:
        return None
    return {"pillow": "image", "wav": "audio", "mp3": "audio", "flac": "audio"}.get(  # pyright: ignore[reportReturnType]
        magic, "video"
    )
