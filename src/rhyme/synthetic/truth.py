"""The truth files of a world: labels of all videos, and per-frame truth of each."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError, FileMissing, UnknownName
from rhyme.synthetic.names import APPEARANCES

FORMAT = "rhyme-world"
VERSION = 1

_ID = re.compile(r"[a-z][0-9]+")


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One row of ``labels.csv``.

    Attributes:
        path: file of the video, relative to the world's folder.
        id: name of the video and of its truth file.
        group: videos of one group show the same creature; splits go by group.
        split: ``"train"``, ``"val"`` or ``"test"``.
        kind: ``"clip"`` or ``"untrimmed"``.
        appearance: word of ``APPEARANCES``.
        motion: word of ``MOTIONS``; empty for an untrimmed video.
        sound: word of ``SOUNDS``; empty where the world has no sound.
        pattern: word of ``PATTERNS``.
        colour: word of ``COLOURS``, of the first keyframe's first colour.
        caption: one sentence.
        background: background id of an untrimmed video, else ``None``.
        frames: number of frames.
        fps: frames a second.
        duration: seconds.
        size: side of the frame in pixels.
        bytes: size of the video file.
    """

    path: str
    id: str
    group: str
    split: str
    kind: str
    appearance: str
    motion: str
    sound: str
    pattern: str
    colour: str
    caption: str
    background: int | None
    frames: int
    fps: float
    duration: float
    size: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is true of each of ``t`` frames of ``n`` by ``n`` pixels.

    Attributes:
        id: the video.
        times: float64 ``[t]``, seconds at which the frames are shown.
        objects: uint8 ``[t, n, n]``, which creature is seen: 1 for the first, 2 for the second, and
            so on, 0 for the background; ``None`` where the world was written with
            ``truth="labels"``.
        boxes: float32 ``[t, 4]``, x0, y0, x1, y1: the mask fills columns x0 to x1 - 1 and rows
            y0 to y1 - 1; NaN where fewer than 4 pixels are visible.
        keypoints: float32 ``[t, 8, 2]``, x and y in pixels; 0 is the centre of the first pixel.
        visible: bool ``[t, 8]``, whether a key point lies inside the frame.
        poses: float32 ``[t, 4]``: centre x and y ([-1, 1], y down), scale, angle in radians
            (clockwise).
        phases: int64 ``[t]``, id of the movement (``PRIMITIVES``) that a frame shows.
        onsets: float64 ``[p]``, seconds at which the movements and their sounds begin.
        appearances: int64 ``[creatures]``, classes of all creatures in the order of ``objects``;
            ``None`` in a world of one creature a video, whose class its label names.

    Boxes, key points, poses, phases and onsets are the first creature's.
    """

    id: str
    times: NDArray[np.float64]
    objects: NDArray[np.uint8] | None
    boxes: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    visible: NDArray[np.bool_]
    poses: NDArray[np.float32]
    phases: NDArray[np.int64]
    onsets: NDArray[np.float64]
    appearances: NDArray[np.int64] | None = None

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """Where the first creature is seen, bool ``[t, n, n]``; ``None`` where none are known."""
        return None if self.objects is None else self.objects == 1


def write_truth(path: Path, truth: Truth) -> None:
    """Write one truth file; the masks of a world of one creature a video are stored as bits."""
    arrays = {
        field.name: value
        for field in dataclasses.fields(truth)
        if field.name not in ("id", "objects")
        if (value := getattr(truth, field.name)) is not None
    }
    if truth.appearances is not None and truth.objects is not None:
        arrays["objects"] = truth.objects
    elif truth.masks is not None:
        arrays["mask_bits"] = np.packbits(truth.masks.reshape(len(truth.masks), -1), axis=1)
        arrays["mask_side"] = np.array(truth.masks.shape[1])
    # Zip members carry a fixed date, so equal arrays give equal bytes.
    np.savez_compressed(path, **arrays)


def read_truth(world: str | Path, video_id: str) -> Truth:
    """Read the truth of one video.

    Args:
        world: folder of the world.
        video_id: ``id`` of the video, as in ``labels.csv``.

    Raises:
        UnknownName: this is no id.
        FileMissing: the world has no such video.
        DataError: the truth file is damaged.
    """
    if not _ID.fullmatch(video_id):
        raise UnknownName(
            "this is no id of a video",
            stage="truth",
            value=video_id,
            remedy="take one of the column id in labels.csv",
        )
    path = Path(world) / "truth" / f"{video_id}.npz"
    if not path.is_file():
        raise FileMissing(
            "the world has no truth of this video",
            file=path,
            stage="truth",
            remedy="check the folder, and the id against labels.csv",
        )
    try:
        # Opened here, because numpy leaves the file open when it meets a damaged one.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            arrays: dict[str, NDArray[Any]] = {name: data[name] for name in data.files}
        objects = arrays.pop("objects", None)
        if "mask_bits" in arrays:
            side = int(arrays.pop("mask_side"))
            bits = np.unpackbits(arrays.pop("mask_bits"), axis=1, count=side * side)
            objects = bits.reshape(-1, side, side)
        truth = Truth(id=video_id, objects=objects, **arrays)
        _check(truth)
        return truth
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(
            "the truth file is damaged",
            file=path,
            stage="truth",
            remedy="make the world again into another folder",
        ) from None


def _check(truth: Truth) -> None:
    """Refuse objects and classes that do not fit each other.

    Raises:
        ValueError: which of them.
    """
    objects, known = truth.objects, truth.appearances
    if objects is not None and (objects.dtype != np.uint8 or objects.ndim != 3):
        raise ValueError("objects")
    if known is None:
        return
    if known.ndim != 1 or known.dtype.kind != "i":
        raise ValueError("appearances")
    if not ((known >= 0) & (known < len(APPEARANCES))).all():
        raise ValueError("appearances")
    if objects is not None and objects.max(initial=0) > len(known):
        raise ValueError("objects")


def write_labels(path: Path, rows: Iterable[LabelRow]) -> None:
    """Write ``labels.csv``."""
    names = [field.name for field in dataclasses.fields(LabelRow)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def read_labels(world: str | Path) -> list[LabelRow]:
    """Read ``labels.csv`` of a world, in order of split.

    Raises:
        FileMissing: the folder holds no labels.
        DataError: the file is damaged.
    """
    path = Path(world) / "labels.csv"
    if not path.is_file():
        raise FileMissing(
            "this folder holds no generated world",
            file=path,
            stage="truth",
            remedy="check the path, or make a world there: rhyme world --out DIR --videos N",
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(values) for values in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"the labels are damaged: {error}",
            file=path,
            stage="truth",
            remedy="make the world again into another folder",
        ) from None


def _row(values: dict[str, str]) -> LabelRow:
    return LabelRow(
        path=values["path"],
        id=values["id"],
        group=values["group"],
        split=values["split"],
        kind=values["kind"],
        appearance=values["appearance"],
        motion=values["motion"],
        sound=values["sound"],
        pattern=values["pattern"],
        colour=values["colour"],
        caption=values["caption"],
        background=int(values["background"]) if values["background"] else None,
        frames=int(values["frames"]),
        fps=float(values["fps"]),
        duration=float(values["duration"]),
        size=int(values["size"]),
        bytes=int(values["bytes"]),
    )


def read_facts(world: Path) -> dict[str, Any] | None:
    """Settings that a world was made with, or ``None`` where the folder holds no such world."""
    try:
        document = json.loads((world / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    facts = cast(dict[str, Any], document)
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        return None
    config = facts.get("config")
    return cast(dict[str, Any], config) if isinstance(config, dict) else None
