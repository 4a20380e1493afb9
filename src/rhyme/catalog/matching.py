"""Which file of a collection a line of a table means."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from rhyme.catalog.labels import Labels
from rhyme.errors import CatalogError


def resolve(labels: Labels, paths: list[str], root: Path, *, strict: bool) -> dict[str, str]:
    """Match the paths of a CSV file with the items of a collection.

    A path is relative to the collection's root, else to the CSV file's folder, or absolute; a path
    without suffix also matches the one file that differs by its suffix only.

    Args:
        labels: as read.
        paths: relative paths of everything found, usable or not.
        root: the collection's root.
        strict: a path that matches nothing is an error; else it is left out.

    Returns:
        The path in the CSV file by the collection's path.

    Raises:
        CatalogError: two paths that match one file, or, if strict, paths that match nothing, with
            their line numbers.
    """
    known = set(paths)
    stems: dict[str, list[str]] = {}
    for path in paths:
        stems.setdefault(_stem(path), []).append(path)
    homes = _homes(root, labels.source)
    matched: dict[str, str] = {}
    lost: list[str] = []
    for written in labels.lines:
        names = [written, *(_inside(written, *home) for home in homes)]
        options = [name for name in names if name in known]
        if not options:
            options = [p[0] for name in names if name and len(p := stems.get(name, [])) == 1]
        if options:
            if (first := matched.setdefault(options[0], written)) != written:
                raise CatalogError(
                    f"line {labels.lines[written]}: the file is named a second time, first on line "
                    f"{labels.lines[first]} as '{first}'",
                    file=labels.source,
                    stage="labels",
                    value=written,
                    remedy="keep one line a file",
                )
        else:
            lost.append(written)
    if lost and strict:
        shown = "; ".join(f"line {labels.lines[p]}: {p}" for p in lost[:5])
        raise CatalogError(
            f"{len(lost)} of {len(labels.lines)} files named in the CSV file are not in the "
            f"folder: {shown}{'; ...' if len(lost) > 5 else ''}",
            file=labels.source,
            stage="labels",
            remedy="paths are relative to the scanned folder or to the CSV file, or absolute; "
            "mend them, or delete these lines",
        )
    return matched


def _stem(path: str) -> str:
    """A path without suffix; ``.``, a collection that is one frame folder, has none."""
    whole = PurePosixPath(path)
    return str(whole.with_suffix("")) if whole.name else path


def _homes(root: Path, source: Path | None) -> list[tuple[str, str]]:
    """The CSV file's folder and the root, absolute: as they are named, and with links followed."""
    folder = root if source is None else source.parent
    named = (os.path.normpath(folder.absolute()), os.path.normpath(root.absolute()))
    followed = (str(folder.resolve()), str(root.resolve()))
    return list(dict.fromkeys([named, followed]))


def _inside(written: str, folder: str, root: str) -> str:
    """A path of a CSV file in ``folder``, relative to the root; empty where it lies elsewhere."""
    path = os.path.normpath(written if written.startswith("/") else f"{folder}/{written}")
    if path == root:
        return "."
    within = root.rstrip("/") + "/"
    return path[len(within) :] if path.startswith(within) else ""
