"""The forms in which data sets publish their splits, each read into the same entries."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from rhyme.errors import CatalogError

Part = Literal["train", "val", "test"]

_UCF_NAME = re.compile(r"v_(\w+)_g(\d+)_c\d+")
_HMDB_FILE = "{}_test_split{}.txt"
_HMDB_SPLITS: dict[str, Part | None] = {"0": None, "1": "train", "2": "test"}
_PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A video that a list names.

    Args:
        name: class folder and name without suffix, or the name alone.
        label: its class.
        split: its split; None where this split does not use it.
        group: its source; None for a source of its own.
        where: list and line, for messages.
        others: further names under which it may lie.
    """

    name: str
    label: str | None
    split: Part | None
    group: str | None
    where: str
    others: tuple[str, ...] = ()


def ucf101(folder: Path, number: int) -> list[Entry]:
    """UCF101: the groups g01 to g25 of a class are its sources.

    Args:
        folder: where the lists lie.
        number: of the split, 1 to 3.

    Raises:
        CatalogError: a list is missing, or a line has another form.
    """
    classes: dict[str, str] = {}
    for where, line in _lines(folder / "classInd.txt"):
        index, _, name = line.partition(" ")
        if not index.isdigit() or not name:
            raise _damaged(folder / "classInd.txt", where, line, "1 ApplyEyeMakeup")
        classes[name.strip()] = index
    entries: list[Entry] = []
    for part, known in (("train", "trainlist"), ("test", "testlist")):
        file = folder / f"{known}{number:02}.txt"
        for where, line in _lines(file):
            path, _, index = line.partition(" ")
            found = _UCF_NAME.fullmatch(PurePosixPath(path).stem)
            label = PurePosixPath(path).parent.name or (found[1] if found else "")
            if found is None:
                raise _damaged(file, where, line, "Archery/v_Archery_g08_c01.avi 3")
            if label not in classes or (index and index != classes[label]):
                raise CatalogError(
                    f"{where}: the class does not agree with classInd.txt",
                    file=file,
                    stage="labels",
                    value=line,
                    remedy="take all lists from one download",
                )
            entries.append(
                Entry(
                    name=f"{label}/{PurePosixPath(path).stem}",
                    label=label,
                    split=cast(Part, part),
                    group=f"{label}_g{found[2]}",
                    where=where,
                )
            )
    return entries


def hmdb51(folder: Path, number: int) -> list[Entry]:
    """HMDB51: a list a class; sources are told by the names, which begin with the film's.

    A source that any of the splits both trains on and tests is taken apart into one a file: the
    lists lead, and a source may not stand on both sides.

    Args:
        folder: where the lists lie.
        number: of the split, 1 to 3.

    Raises:
        CatalogError: there are no lists, or a line has another form.
    """
    ending = _HMDB_FILE.format("", number)
    files = sorted(folder.glob("*" + ending))
    if not files:
        raise CatalogError(
            f"no list is called <class>{ending}",
            file=folder,
            stage="labels",
            remedy="give the folder that holds the lists of HMDB51, unpacked",
        )
    entries: list[Entry] = []
    parts: dict[str, set[Part]] = {}
    for file in files:
        label = file.name.removesuffix(ending)
        for k in (1, 2, 3):
            other = folder / _HMDB_FILE.format(label, k)
            if k != number and not other.is_file():
                continue
            for where, line in _lines(other):
                path, _, mark = line.rpartition(" ")
                if not path or mark not in _HMDB_SPLITS:
                    raise _damaged(other, where, line, "film_walk_f_cm_np1_fr_med_0.avi 1")
                stem = PurePosixPath(path.strip()).stem
                group, split = f"{label}/{_film(stem, label)}", _HMDB_SPLITS[mark]
                if split is not None:
                    parts.setdefault(f"{k} {group}", set()).add(split)
                if k == number:
                    entries.append(
                        Entry(
                            name=f"{label}/{stem}",
                            label=label,
                            split=split,
                            group=group,
                            where=where,
                        )
                    )
    torn = {key.partition(" ")[2] for key, found in parts.items() if len(found) > 1}
    return [replace(e, group=None) if e.group in torn else e for e in entries]


def kinetics(path: Path, number: int) -> list[Entry]:
    """Kinetics: CSV files with a line a clip of a video.

    Args:
        path: a file, or a folder of files.
        number: 1.

    Raises:
        CatalogError: no file, a column is missing, or a line has another form.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if not files:
        raise CatalogError("no CSV file is there", file=path, stage="labels")
    entries: list[Entry] = []
    for file in files:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            lacking = {"youtube_id", "time_start", "time_end", "split"} - {
                *(reader.fieldnames or ())
            }
            if lacking:
                raise CatalogError(
                    f"line 1: no column {', '.join(sorted(lacking))}",
                    file=file,
                    stage="labels",
                    value=reader.fieldnames,
                    remedy="the columns are label, youtube_id, time_start, time_end, split",
                )
            for row in reader:
                where = f"{file.name} line {reader.line_num}"
                part = _PARTS.get((row["split"] or "").strip().lower())
                try:
                    first, last = (round(float(row[k])) for k in ("time_start", "time_end"))
                except (TypeError, ValueError):
                    first = last = -1
                if part is None or last < first or first < 0:
                    raise _damaged(file, where, row, "abseiling,3E7Jib8Yq5M,118,128,train")
                video = row["youtube_id"].strip()
                entries.append(
                    Entry(
                        name=f"{video}_{first:06}_{last:06}",
                        label=(row.get("label") or "").strip() or None,
                        split=part,
                        group=video,
                        where=where,
                        others=(video,),
                    )
                )
    return _whole_sources(entries)


def something(path: Path, number: int) -> list[Entry]:
    """Something-Something: JSON lists of videos; the class is the template without its brackets.

    Args:
        path: the folder.
        number: 1.

    Raises:
        CatalogError: no list of the training part, or a file of another form.
    """
    entries: list[Entry] = []
    ends: dict[str, Part] = {"train": "train", "validation": "val", "test": "test"}
    for file in sorted(path.glob("*.json")):
        part: Part | None = next(
            (ends[end] for end in ends if file.stem.lower().endswith(end)), None
        )
        if part is None:  # labels.json numbers the classes; the numbers mean nothing here
            continue
        for place, row in enumerate(_json_list(file)):
            where = f"{file.name} entry {place + 1}"
            told = row.get("template") or row.get("label")
            if "id" not in row or (told is not None and not isinstance(told, str)):
                raise _damaged(file, where, row, '{"id": "78687", "template": "Holding [it]"}')
            label = None if told is None else re.sub(r"[\[\]]", "", told).strip()
            entries.append(
                Entry(name=str(row["id"]), label=label, split=part, group=None, where=where)
            )
    if not any(e.split == "train" for e in entries):
        raise CatalogError(
            "no list of the training part is there",
            file=path,
            stage="labels",
            remedy="give the folder with the JSON files that end in train, validation and test",
        )
    return entries


def _whole_sources(entries: list[Entry]) -> list[Entry]:
    """Sources that stand in two splits are taken apart into one a video: the lists lead."""
    parts: dict[str | None, set[Part | None]] = {}
    for entry in entries:
        parts.setdefault(entry.group, set()).add(entry.split)
    return [replace(e, group=None) if len(parts[e.group]) > 1 else e for e in entries]


def _film(stem: str, label: str) -> str:
    """The film that a name of HMDB51 begins with; the whole name where it has another form."""
    found = re.fullmatch(rf"(.+)_{re.escape(label)}_\w_\w\w_np\d_\w\w_\w{{3}}_\d+", stem)
    return stem if found is None else found[1]


def _json_list(file: Path) -> list[dict[str, Any]]:
    try:
        rows: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CatalogError(f"not JSON: {error}", file=file, stage="labels") from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in cast(list[Any], rows)):
        raise CatalogError(
            "not a JSON list of videos",
            file=file,
            stage="labels",
            remedy='expected [{"id": ..., "template": ...}, ...]',
        )
    return cast("list[dict[str, Any]]", rows)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, with their place."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CatalogError(
            "no such list",
            file=file,
            stage="labels",
            remedy="give the folder that holds the official lists, under their own names",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(
            f"the list cannot be read: {error}", file=file, stage="labels"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{file.name} line {number}", line.strip()


def _damaged(file: Path, where: str, line: object, example: str) -> CatalogError:
    return CatalogError(
        f"{where}: not of the form of this list",
        file=file,
        stage="labels",
        value=line,
        remedy=f"expected for example: {example}",
    )
