"""A label for each frame of a video: a generated world's phases, or the field's text files.

``groundTruth/<video>.txt`` holds one name a line, one line a frame, and ``mapping.txt`` the classes
as ``number name``; a column ``asset_frame_labels`` of ``labels.csv`` names such a file anywhere in
the collection. ``splits/train.split1.bundle`` and ``splits/test.split1.bundle`` list the videos of
a published split, one file name a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from rhyme.catalog import Catalog
from rhyme.errors import DataError, EvaluationError, RhymeError, nearest
from rhyme.synthetic import PRIMITIVES, read_truth
from rhyme.tasks import Timeline
from rhyme.tasks.table import Integer

__all__ = ["FrameLabels", "read_bundle", "read_frame_labels", "read_mapping", "video_name"]

ASSET = "frame_labels"
_TEXTS, _MAPPING, _SPLITS = "groundTruth", "mapping.txt", "splits"
_LARGEST = 64 << 20
_SLACK = 0.02


@dataclass(frozen=True, kw_only=True)
class FrameLabels:
    """Classes of the frames of videos.

    Attributes:
        classes: names of the classes by code.
        codes: ``int64 [t]`` class of each frame by path of the video, -1 where it has none.
        skipped: reason by path of a video whose labels cannot be used; those without any are not
            listed.
    """

    classes: tuple[str, ...]
    codes: dict[str, Integer]
    skipped: dict[str, str]


def read_frame_labels(catalog: Catalog, videos: Sequence[Timeline]) -> FrameLabels:
    """The labels of all frames of videos.

    Labels may be a little more or fewer than frames, as in the published sets; the rest has none.

    Args:
        catalog: the collection.
        videos: its videos.

    Returns:
        The labels; a world's classes in its own order, else those of the mapping, else by name.

    Raises:
        DataError: the mapping is damaged.
    """
    mapping = read_mapping(catalog.root / _MAPPING)
    names: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    of_world = True
    for video in videos:
        try:
            found, is_world = _names_of(catalog, video)
            if found is None:
                continue
            _check_length(len(found), int(video.numbers[-1]) + 1)
            if mapping and not is_world:
                _check_known(found, mapping)
        except RhymeError as error:
            skipped[video.path] = error.cause
            continue
        names[video.path] = found
        of_world = of_world and is_world
    if names and of_world:
        classes = PRIMITIVES
    else:
        classes = mapping or tuple(sorted({name for found in names.values() for name in found}))
    place = {name: code for code, name in enumerate(classes)}
    codes: dict[str, Integer] = {}
    for video in videos:
        if video.path in names:
            all_codes = np.array([place[n] for n in names[video.path]], dtype=np.int64)
            at = video.numbers
            known = at < len(all_codes)
            codes[video.path] = np.where(known, all_codes[np.where(known, at, 0)], -1)
    return FrameLabels(classes=classes, codes=codes, skipped=skipped)


def read_mapping(path: Path) -> tuple[str, ...]:
    """Class names by number, from lines ``number name``; empty where there is no such file.

    Raises:
        DataError: a line of another form, or numbers that are not 0, 1, 2, ...
    """
    if not path.is_file():
        return ()
    found: dict[int, str] = {}
    for line, text in enumerate(_lines(path), 1):
        number, _, name = text.partition(" ")
        if not text:
            continue
        if not number.isdecimal() or not name.strip() or int(number) in found:
            raise DataError(
                f"line {line}: expected a number and a name, each number once",
                file=path,
                stage="frame labels",
                value=text[:80],
            )
        found[int(number)] = name.strip()
    if sorted(found) != list(range(len(found))):
        raise DataError(
            "the classes are not numbered 0, 1, 2, ...", file=path, value=sorted(found)[:10]
        )
    return tuple(found[number] for number in range(len(found)))


def read_bundle(root: Path, part: Literal["train", "test"], split: int) -> frozenset[str]:
    """Names of the videos, without suffix, of one side of a published split.

    Args:
        root: the collection's folder.
        part: ``"train"`` or ``"test"``.
        split: number of the split, from 1.

    Raises:
        EvaluationError: there is no such list.
    """
    path = root / _SPLITS / f"{part}.split{split}.bundle"
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.bundle"))
        raise EvaluationError(
            "the collection has no such split",
            file=path,
            stage="segmentation",
            value=split,
            remedy=f"there are: {', '.join(there[:8])}" if there else "leave the bundle out",
        )
    # names hold dots in some sets: only the suffix of a label file is taken off
    return frozenset(PurePosixPath(text).name.removesuffix(".txt") for text in _lines(path) if text)


def video_name(video: Timeline) -> str:
    """Name of a video in lists and label files: that of its file or folder, without suffix."""
    path = PurePosixPath(video.path)
    return path.name if video.kind == "frames" else path.stem


def _names_of(catalog: Catalog, video: Timeline) -> tuple[list[str] | None, bool]:
    """Label of every frame of the file, and whether they are a world's phases."""
    root, name = catalog.root, video_name(video)
    item = catalog.item(int(video.rows[0]))
    asset = item.assets.get(ASSET)
    if asset is not None:
        path = root / asset
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError("the labels lie outside of the collection", file=path, value=asset)
        if not path.is_file():
            raise DataError(f"there is no label file {asset}", file=path, stage="frame labels")
        return _text(path), False
    path = root / _TEXTS / f"{name}.txt"
    if path.is_file():
        return _text(path), False
    # a world's clips are cut to two movements each
    if item.labels.get("kind") != "clip" and (root / "truth" / f"{name}.npz").is_file():
        return [PRIMITIVES[code] for code in read_truth(root, name).phases.tolist()], True
    return None, False


def _text(path: Path) -> list[str]:
    found = _lines(path)
    if not found or "" in found:
        raise DataError(
            "a label is missing: every line names the label of one frame",
            file=path,
            stage="frame labels",
            value=f"line {found.index('') + 1}" if found else "the file is empty",
        )
    return found


def _lines(path: Path) -> list[str]:
    """Lines without the space around them; the empty ones at the end are left out."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(
                "the file is too large to be a list", file=path, value=path.stat().st_size
            )
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file cannot be read as UTF-8 text: {error}", file=path, stage="frame labels"
        ) from error
    while found and not found[-1]:
        found.pop()
    return found


def _check_length(labels: int, frames: int) -> None:
    if abs(labels - frames) > max(1, _SLACK * frames):
        raise DataError(
            f"{labels} labels for {frames} frames: they are of another frame rate, or of another "
            "video",
            stage="frame labels",
        )


def _check_known(found: list[str], mapping: tuple[str, ...]) -> None:
    known = set(mapping)
    for line, name in enumerate(found, 1):
        if name not in known:
            raise DataError(
                f"line {line}: the label '{name}' is not in {_MAPPING} ({nearest(name, mapping)})",
                stage="frame labels",
            )
