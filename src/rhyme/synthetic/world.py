"""A whole world: as a folder of files, or as arrays in memory."""

from __future__ import annotations

import functools
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError, RhymeError, RunError
from rhyme.run import atomic_write, fsync_directory
from rhyme.synthetic.config import ALONE, WorldConfig
from rhyme.synthetic.draw import VideoSpec, caption, colour
from rhyme.synthetic.encode import encode
from rhyme.synthetic.members import Entry, plan
from rhyme.synthetic.motion import onsets, phases
from rhyme.synthetic.names import (
    APPEARANCES,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    PATTERNS,
    PRIMITIVES,
    SOUNDS,
    SPLITS,
)
from rhyme.synthetic.pictures import Rendered, render
from rhyme.synthetic.sound import synthesise_sound
from rhyme.synthetic.truth import (
    FORMAT,
    VERSION,
    LabelRow,
    Truth,
    read_facts,
    read_labels,
    write_labels,
    write_truth,
)
from rhyme.workers import Pool

Progress = Callable[[int, int], None]
"""Called with the number of videos done and of all videos."""

_CHUNK_PIXELS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class WorldSummary:
    """What a world's folder holds.

    Attributes:
        root: the folder.
        videos: number of videos.
        splits: number of videos in each split.
        frames: number of frames in all.
        seconds: length in all.
        bytes: size of the video files in all.
        reused: whether the world was there already.
    """

    root: Path
    videos: int
    splits: dict[str, int]
    frames: int
    seconds: float
    bytes: int
    reused: bool


@dataclass(frozen=True)
class WorldArrays:
    """The ``n`` clips of a world in memory, in order of split.

    Attributes:
        frames: uint8 ``[n, t, h, w, 3]``, RGB, as rendered (never encoded).
        ids: ids of the clips.
        split: str ``[n]``.
        group: str ``[n]``.
        appearance: int64 ``[n]``, class ids as in ``APPEARANCES``.
        motion: int64 ``[n]``, as in ``MOTIONS``.
        sound: int64 ``[n]``, as in ``SOUNDS``.
        pattern: int64 ``[n]``, as in ``PATTERNS``.
        captions: one sentence a clip.
    """

    frames: NDArray[np.uint8]
    ids: list[str]
    split: NDArray[np.str_]
    group: NDArray[np.str_]
    appearance: NDArray[np.int64]
    motion: NDArray[np.int64]
    sound: NDArray[np.int64]
    pattern: NDArray[np.int64]
    captions: list[str]


def write_world(
    config: WorldConfig, out: str | Path, *, progress: Progress | None = None
) -> WorldSummary:
    """Write a world into a new folder.

    The folder appears under its name only when everything is written. The same configuration
    gives the same bytes for any number of workers, on one machine with one version of PyAV and
    numpy.

    Args:
        config: what to make.
        out: the folder; it must not exist, be empty, or hold the same world already, which is
            then left as it is.
        progress: called after every video.

    Returns:
        What the folder holds.

    Raises:
        RunError: the folder holds something else, or cannot be written.
        WorkerError: a worker process died.
    """
    root = Path(out)
    entries = plan(config)
    if _occupied(root):
        return _reuse(config, root, len(entries))
    partial = root.absolute().parent / f".{root.absolute().name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir(parents=True)
        (partial / "truth").mkdir()
        for split in sorted({entry.split for entry in entries}):
            (partial / "videos" / split).mkdir(parents=True)
        rows: list[LabelRow] = []
        make = functools.partial(_write_video, config, partial)
        # The pool ends before the folder is renamed or removed: nobody writes into it any more.
        with Pool(make, workers=config.workers) as pool:
            for row in pool.map(entries):
                rows.append(row)
                if progress is not None:
                    progress(len(rows), len(entries))
        write_labels(partial / "labels.csv", rows)
        atomic_write(partial / "world.json", _describe(config, rows))
        partial.replace(root.absolute())
        fsync_directory(root.absolute().parent)
    except OSError as error:
        raise RunError(
            f"the world cannot be written: {error.strerror or error}",
            file=root,
            stage="world",
            remedy="check free space and permissions, or take another folder",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _summary(root, rows, reused=False)


def render_arrays(
    config: WorldConfig, *, at: Sequence[int] | None = None, progress: Progress | None = None
) -> WorldArrays:
    """Render the clips of a world into memory, without files, sound or per-frame truth.

    Args:
        config: what to make; ``config.workers`` processes render.
        at: frame numbers, e.g. ``(0, 5, 10, 15)`` for the keyframes of 16; all by default.
        progress: called after every clip.

    Raises:
        ConfigError: the world holds untrimmed videos, whose lengths differ, or a frame number is
            outside of a clip.
    """
    if config.untrimmed:
        raise ConfigError(
            "untrimmed videos differ in length and do not fit into one array",
            stage="world",
            value=config.untrimmed,
            remedy="set untrimmed to 0, or write the world to files",
        )
    entries = plan(config)
    numbers = tuple(range(config.frames)) if at is None else tuple(at)
    shape = (len(entries), len(numbers), config.size, config.size, 3)
    frames = np.empty(shape, np.uint8)
    make = functools.partial(_render_entry, config, numbers)
    with Pool(make, workers=config.workers) as pool:
        for i, pixels in enumerate(pool.map(entries)):
            frames[i] = pixels
            if progress is not None:
                progress(i + 1, len(entries))
    specs = [entry.spec(config) for entry in entries]
    return WorldArrays(
        frames=frames,
        ids=[entry.id for entry in entries],
        split=np.array([entry.split for entry in entries]),
        group=np.array([entry.group_name for entry in entries]),
        appearance=np.array([spec.appearance for spec in specs]),
        motion=np.array([spec.motion for spec in specs]),
        sound=np.array([spec.voice.kind for spec in specs]),
        pattern=np.array([spec.pattern for spec in specs]),
        captions=[caption(spec) for spec in specs],
    )


def _render_entry(config: WorldConfig, numbers: tuple[int, ...], entry: Entry) -> NDArray[np.uint8]:
    return render(entry.spec(config), config.size, at=numbers).frames


def _write_video(config: WorldConfig, root: Path, entry: Entry) -> LabelRow:
    """Write the files of one video; returns its row of labels."""
    spec = entry.spec(config)
    file = root / "videos" / entry.split / f"{entry.id}.mp4"
    sound = synthesise_sound(spec, config.sound_rate) if config.sound else None
    parts: list[Rendered] = []
    encode(
        file,
        _pixels(config, spec, parts),
        size=config.size,
        rate=config.rate,
        gop=config.gop,
        sound=sound,
        sound_rate=config.sound_rate,
    )
    truth = Truth(
        id=entry.id,
        times=np.arange(spec.frames) / float(config.rate),
        objects=np.concatenate([p.objects for p in parts]) if config.truth == "full" else None,
        boxes=np.concatenate([p.boxes for p in parts]),
        keypoints=np.concatenate([p.keypoints for p in parts]),
        visible=np.concatenate([p.visible for p in parts]),
        poses=np.concatenate([p.poses for p in parts]),
        phases=phases(spec),
        onsets=onsets(spec),
        appearances=None if config.creatures == ALONE else _appearances(spec),
    )
    write_truth(root / "truth" / f"{entry.id}.npz", truth)
    untrimmed = spec.motion < 0
    return LabelRow(
        path=file.relative_to(root).as_posix(),
        id=entry.id,
        group=entry.group_name,
        split=entry.split,
        kind="untrimmed" if untrimmed else "clip",
        appearance=APPEARANCES[spec.appearance],
        motion="" if untrimmed else MOTIONS[spec.motion],
        sound=SOUNDS[spec.voice.kind] if config.sound else "",
        pattern=PATTERNS[spec.pattern],
        colour=colour(spec),
        caption=caption(spec),
        background=spec.background if untrimmed else None,
        frames=spec.frames,
        fps=float(config.rate),
        duration=spec.duration,
        size=config.size,
        bytes=file.stat().st_size,
    )


def _appearances(spec: VideoSpec) -> NDArray[np.int64]:
    """Classes of all creatures of a video, the first one's first."""
    return np.array([member.appearance for member in (spec, *spec.company)])


def _pixels(
    config: WorldConfig, spec: VideoSpec, parts: list[Rendered]
) -> Iterator[NDArray[np.uint8]]:
    """Render in chunks, so that the pixels of a long video never lie in memory all at once.

    The truth of each chunk is appended to ``parts``, without its pixels.
    """
    step = max(1, _CHUNK_PIXELS // config.size**2)
    for start in range(0, spec.frames, step):
        part = render(spec, config.size, at=range(start, min(spec.frames, start + step)))
        yield part.frames
        parts.append(
            Rendered(
                frames=part.frames[:0],
                objects=part.objects,
                boxes=part.boxes,
                keypoints=part.keypoints,
                visible=part.visible,
                poses=part.poses,
            )
        )


def _describe(config: WorldConfig, rows: list[LabelRow]) -> str:
    """The text of ``world.json``."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "config": config.facts(),
        "videos": len(rows),
        "splits": _count(rows),
        "classes": {
            "appearance": APPEARANCES,
            "motion": MOTIONS,
            "sound": SOUNDS,
            "pattern": PATTERNS,
            "colour": COLOURS,
            "phase": PRIMITIVES,
            "background": BACKGROUNDS,
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _occupied(root: Path) -> bool:
    """Whether something is at the path that a rename may not replace."""
    if root.is_dir() and not root.is_symlink():
        return next(root.iterdir(), None) is not None
    return root.exists() or root.is_symlink()


def _reuse(config: WorldConfig, root: Path, videos: int) -> WorldSummary:
    """The summary of a complete world of the same configuration, or an error that says why not."""
    found = read_facts(root)
    if found is None:
        raise _taken(root, "the folder is not empty and holds no generated world")
    wanted = config.facts()
    changed = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if changed:
        raise _taken(
            root,
            "the folder holds a world of another configuration: "
            + ", ".join(f"{k} is {found.get(k)!r}, asked {wanted.get(k)!r}" for k in changed),
        )
    try:
        rows = read_labels(root)
    except RhymeError as error:
        raise _taken(root, f"the world in the folder is damaged: {error.cause}") from error
    for row in rows:
        file = root / row.path
        truth = root / "truth" / f"{row.id}.npz"
        if not file.is_file() or file.stat().st_size != row.bytes or not truth.is_file():
            raise _taken(root, f"the world in the folder is damaged: {row.id} is incomplete")
    if len(rows) != videos:
        raise _taken(root, f"the world in the folder is damaged: {len(rows)} of {videos} videos")
    return _summary(root, rows, reused=True)


def _taken(root: Path, cause: str) -> RunError:
    return RunError(
        cause, file=root, stage="world", remedy="take another folder, or remove this one first"
    )


def _count(rows: list[LabelRow]) -> dict[str, int]:
    counts = Counter(row.split for row in rows)
    return {split: counts[split] for split in SPLITS}


def _summary(root: Path, rows: list[LabelRow], *, reused: bool) -> WorldSummary:
    return WorldSummary(
        root=root,
        videos=len(rows),
        splits=_count(rows),
        frames=sum(row.frames for row in rows),
        seconds=sum(row.duration for row in rows),
        bytes=sum(row.bytes for row in rows),
        reused=reused,
    )
