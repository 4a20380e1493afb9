"""Catalogs that commands keep of a folder: when one is used again, and what a change costs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhyme.catalog import Catalog, open_data
from rhyme.catalog import examine as examining
from rhyme.errors import StorageError

Pictures = Callable[..., Path]


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Catalog]:
    """Open ``data/`` as commands do, with a cache of its own."""

    def open_kept(**options: Any) -> Catalog:
        return open_data(tmp_path / "data", cache=tmp_path / "cache", **options)

    return open_kept


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are looked at, in order."""
    scanning = importlib.import_module("rhyme.catalog.scan")
    seen: list[str] = []

    def watched(task: examining.Task) -> dict[str, Any]:
        seen.append(task.candidate.path)
        return examining.examine(task)

    monkeypatch.setattr(scanning, "examine", watched)
    return seen


def test_a_kept_catalog_forgets_what_the_storage_refused(
    tmp_path: Path,
    picture: Pictures,
    kept: Callable[..., Catalog],
    looked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "abc":
        picture(tmp_path / "data" / f"{name}.png")
    real, failing = examining.probe, {"b.png"}

    def probe(path: Path, *rest: Any, **more: Any) -> object:
        if path.name in failing:
            raise StorageError("the storage failed 4 times", file=path)
        return real(path, *rest, **more)

    monkeypatch.setattr(examining, "probe", probe)
    assert len(kept()) == 2
    assert kept().quarantine["path"].to_pylist() == ["b.png"]
    failing.clear()
    looked.clear()
    assert len(kept()) == 3
    assert looked == ["b.png"]
    looked.clear()
    assert len(kept()) == 3
    assert looked == []


def test_a_kept_catalog_notices_frames_of_other_names(
    tmp_path: Path, picture: Pictures, kept: Callable[..., Catalog]
) -> None:
    folder = tmp_path / "data" / "run"
    for k in range(3):
        os.utime(picture(folder / f"{k}.png"), (1, 1))
    assert kept().item(0).files == ("run/0.png", "run/1.png", "run/2.png")
    for k in range(3):
        (folder / f"{k}.png").rename(folder / f"{k + 10}.png")
    assert kept().item(0).files == ("run/10.png", "run/11.png", "run/12.png")


def test_under_other_labels_and_options_no_file_is_looked_at_again(
    tmp_path: Path, picture: Pictures, kept: Callable[..., Catalog], looked: list[str]
) -> None:
    for name in "ab":
        picture(tmp_path / "data" / f"{name}.png")
    table = tmp_path / "data" / "labels.csv"
    table.write_text("path,label\na.png,x\nb.png,y\n")
    assert kept().labels()[1] == ["x", "y"]
    assert looked == ["a.png", "b.png"]
    looked.clear()
    table.write_text("path,label\na.png,x\nb.png,z\n")
    assert kept().labels()[1] == ["x", "z"]
    assert kept(labels="none").label_columns == []
    picture(tmp_path / "data" / "c.png")
    assert len(kept(labels="none")) == 3
    assert looked == ["c.png"]
    assert len(kept(depth="frames")) == 3, "a deeper look is another one"
    assert looked == ["c.png", "a.png", "b.png", "c.png"]
