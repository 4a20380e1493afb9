"""Labels, groups and splits from a CSV file or from folder names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rhyme.errors import CatalogError, UnknownName, nearest
from rhyme.media import MARK

PATH_NAMES = ("path", "file", "filename", "file_name", "video", "clip", "image", "video_path")
GROUP_NAMES = ("group",)
SPLIT_NAMES = ("split",)
LABEL_NAMES = ("label", "class", "category", "target", "appearance")
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How splits are spelled: names of folders that are no classes, and values in a CSV file."""
_SHARD = re.compile(r"([a-z]+)([-_]\d+([-_]of[-_]\d+)?)?", re.ASCII)
ASSET_PREFIX = "asset_"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a CSV file mean what; None looks for the usual names.

    Args:
        path: the file's path.
        label: the main label.
        group: the source that splits and masks go by.
        split: the split.
    """

    path: str | None = None
    label: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(kw_only=True)
class Labels:
    """Labels of a collection, by path relative to its root.

    Args:
        names: the label columns.
        main: the main label column.
        values: labels by path.
        groups: group by path.
        splits: split by path.
        assets: assets by path.
        asset_names: the asset columns, without prefix.
        lines: line in the CSV file by path, as written there.
        lost: where a file is named that is not there, by path as written.
        bad: why a member of an archive gives no label, by its path.
        beside: number of labels that lay beside their pictures in archives.
        source: the CSV file.
    """

    names: list[str] = field(default_factory=list[str])
    main: str | None = None
    values: dict[str, dict[str, str | None]] = field(
        default_factory=dict[str, "dict[str, str | None]"]
    )
    groups: dict[str, str] = field(default_factory=dict[str, str])
    splits: dict[str, str] = field(default_factory=dict[str, str])
    assets: dict[str, dict[str, str]] = field(default_factory=dict[str, "dict[str, str]"])
    asset_names: list[str] = field(default_factory=list[str])
    lines: dict[str, int] = field(default_factory=dict[str, int])
    lost: dict[str, str] = field(default_factory=dict[str, str])
    bad: dict[str, str] = field(default_factory=dict[str, str])
    beside: int = 0
    source: Path | None = None


def find_path_column(header: list[str]) -> str | None:
    """The column of a CSV file that names files, by the usual names; None without one."""
    lowered = {name.lower(): name for name in header}
    return next((lowered[name] for name in PATH_NAMES if name in lowered), None)


def read_header(file: Path) -> list[str]:
    """The column names of a CSV file; the first is empty where it is an index without a name.

    Args:
        file: the CSV file.

    Raises:
        CatalogError: it cannot be read as CSV, names a column twice, or another one not at all.
    """
    for _, row in _rows(file):
        header = [name.strip() for name in row]
        named = header[1:] if header and not header[0] else header  # first may stand an index
        twice = [name for name, count in Counter(named).items() if count > 1]
        if twice or "" in named:
            raise CatalogError(
                "line 1: a column has no name" if not twice else "line 1: a column is named twice",
                file=file,
                stage="labels",
                value=twice or header,
                remedy="give each column a name of its own; only the first, an index, needs none",
            )
        return header
    raise CatalogError(
        "the file has no line",
        file=file,
        stage="labels",
        remedy="write its header, path,label, and a line a file; or leave it out: --labels none",
    )


def read_csv(file: Path, columns: Columns) -> Labels:
    """Labels from a CSV file, by path as written there (``./`` removed, one kind of slash).

    Args:
        file: the CSV file: a header line, then one line a file.
        columns: which columns mean what.

    Raises:
        CatalogError: damage, with its line number; a path given twice or missing.
        UnknownName: a column that is not there.
    """
    header = read_header(file)
    path_at = _column(header, columns.path, PATH_NAMES, file, "path")
    if path_at is None:
        raise CatalogError(
            "no column names the files",
            file=file,
            stage="labels",
            value=header,
            remedy=f"name it with --path-column, or call it one of {', '.join(PATH_NAMES)}",
        )
    group_at = _column(header, columns.group, GROUP_NAMES, file, "group")
    split_at = _column(header, columns.split, SPLIT_NAMES, file, "split")
    label_at = _column(header, columns.label, LABEL_NAMES, file, "label")
    # A column may be a group or a split and a label too, when the reader named it as one.
    structural = {path_at, *(at for at in (group_at, split_at) if at != label_at)}
    assets = [i for i, name in enumerate(header) if name.startswith(ASSET_PREFIX)]
    apart = structural.union(assets)
    plain = [i for i, name in enumerate(header) if name and i not in apart]
    named = [header[i] for i in plain]
    for column in (columns.group, columns.split):
        if column is not None and column not in named:
            plain.append(header.index(column))
            named.append(column)
    out = Labels(source=file, names=named, asset_names=[header[i][6:] for i in assets])
    if label_at is not None:
        out.main = header[label_at]
    elif len(named) == 1:
        out.main = named[0]
    for line, row in _rows(file):
        if line == 1 or not any(row):
            continue
        if len(row) != len(header):
            raise CatalogError(
                f"line {line}: {len(row)} values for {len(header)} columns",
                file=file,
                stage="labels",
                value=row[:8],
                remedy='put values that hold a comma in double quotes: "a, b"',
            )
        path = slashed(row[path_at])
        if not path:
            raise CatalogError(f"line {line}: the path is empty", file=file, stage="labels")
        if path in out.lines:
            raise CatalogError(
                f"line {line}: the file is named a second time, first on line {out.lines[path]}",
                file=file,
                stage="labels",
                value=path,
                remedy="keep one line a file",
            )
        out.lines[path] = line
        out.values[path] = {
            name: row[i].strip() or None for name, i in zip(named, plain, strict=True)
        }
        if group_at is not None and row[group_at].strip():
            out.groups[path] = row[group_at].strip()
        if split_at is not None and row[split_at].strip():
            value = row[split_at].strip()
            out.splits[path] = SPLIT_FOLDERS.get(value.lower(), value)
        given = {header[i][6:]: row[i].strip() for i in assets if row[i].strip()}
        if given:
            out.assets[path] = given
    return out


def slashed(path: str) -> str:
    """A path as it is compared: without ``./``, one kind of slash; empty for nothing."""
    text = path.strip().replace("\\", "/")
    return str(PurePosixPath(text)) if text else ""


def from_folders(paths: list[str], *, force: bool) -> Labels | None:
    """Class names from folder names, and splits where the folders above are called so.

    What counts as a folder is told by `by_split`.

    Args:
        paths: relative paths of the items.
        force: take the first folder of each path, or the second where the first is a split; items
            at the top get no label. Otherwise labels are given only where every path has exactly
            one folder (below its split), there are two classes or more, and each has two items or
            more. Splits need no classes.

    Returns:
        Labels in the column ``label``; no column where the folders are splits and no classes; None
        where they are neither.
    """
    splits, classes = by_split(paths)
    counts = Counter(p[0] for p in classes.values() if p)
    if not force:
        flat = all(len(p) == 1 for p in classes.values())
        if not flat or len(counts) < 2 or min(counts.values()) < 2:
            return Labels(splits=splits) if splits else None
    return Labels(
        names=["label"],
        main="label",
        values={path: {"label": p[0] if p else None} for path, p in classes.items()},
        splits=splits,
    )


def by_split(paths: list[str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Splits from the names of folders and archives, and the folders that lie below them.

    The folders within an archive count like any other. The archive's own name counts where it is
    that of a split, as in ``train.zip`` or ``train-000003.tar``, and so does that of the folder it
    lies in, as in ``train/000003.tar``.

    Args:
        paths: relative paths of the items.

    Returns:
        The split by path, empty unless every item lies in a folder that is called after one; and
        the folders of each path, without that one.
    """
    parts = {path: _folders(path) for path in paths}
    firsts = {p[0].lower() for p in parts.values() if p}
    if not firsts or not firsts <= SPLIT_FOLDERS.keys() or not all(parts.values()):
        return {}, parts
    splits = {path: SPLIT_FOLDERS[p[0].lower()] for path, p in parts.items()}
    return splits, {path: p[1:] for path, p in parts.items()}


def _folders(path: str) -> tuple[str, ...]:
    """The folders that an item lies in, those within its archive first of all."""
    outer, mark, inner = path.partition(MARK)
    if not mark:
        return PurePosixPath(path).parts[:-1]
    folders = PurePosixPath(inner).parts[:-1]
    if folders and folders[0].lower() in SPLIT_FOLDERS:
        return folders
    archive = PurePosixPath(outer)
    shard = _SHARD.fullmatch(archive.stem.lower())
    for name in (shard[1] if shard else "", archive.parent.name):
        if name.lower() in SPLIT_FOLDERS:
            return (name, *folders)
    return folders


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they begin on."""
    line = 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            first = text.readline()
            text.seek(0)
            tab = file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
            semicolon = ";" in first and "," not in first
            reader = csv.reader(
                text, delimiter="\t" if tab else ";" if semicolon else ",", strict=True
            )
            for row in reader:
                yield line + 1, row
                line = reader.line_num
    except csv.Error as error:
        raise CatalogError(f"line {line + 1}: {error}", file=file, stage="labels") from error
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"after line {line}: not UTF-8 text",
            file=file,
            stage="labels",
            remedy="save the file as UTF-8",
        ) from error
    except OSError as error:
        raise CatalogError(
            f"the CSV file cannot be read: {error.strerror}", file=file, stage="labels"
        ) from error


def _column(
    header: list[str], asked: str | None, usual: tuple[str, ...], file: Path, role: str
) -> int | None:
    if asked is not None:
        if asked not in header:
            raise UnknownName(
                f"no such {role} column",
                file=file,
                stage="labels",
                value=asked,
                remedy=nearest(asked, header),
            )
        return header.index(asked)
    lowered = [name.lower() for name in header]
    return next((lowered.index(name) for name in usual if name in lowered), None)
