"""Disks without room, and places that cannot be written: named, with what helps."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.tiny_runs import ALONE, Outcome, catalog, contents, refused, rhyme, trained, videos


@contextmanager
def room(size: int) -> Generator[None]:
    """No file may grow beyond a size: the system says so as it does of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def without_room(size: int, *words: object) -> Outcome:
    with room(size):
        return rhyme(*words)


@pytest.mark.parametrize("size", [100, 100_000])
def test_an_embedding_names_the_file_that_the_disk_refuses(tmp_path: Path, size: int) -> None:
    store = tmp_path / "s.store"
    words = ("embed", trained("moco"), "--data", catalog(), "--store", store)
    refused(without_room(size, *words), 1, "File too large", f"file:   {store}", "stage:  embed")
    assert rhyme(*words).code == 0


def test_vectors_take_their_room_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    words = ("embed", trained("moco"), "--data", catalog(), "--store", tmp_path / "s.store")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        refused(rhyme(*words), 1, "No space left", "vectors.npy", "stage:  embed")
    assert rhyme(*words).code == 0


def test_a_report_names_the_file_that_the_disk_refuses(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = without_room(3000, "report", trained("moco"), "--out", page)
    refused(done, 1, "File too large", f"file:   {page}", "stage:  report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("of", ["run", "shelf"])
@pytest.mark.parametrize("kind", ["torch", "hub", "package"])
def test_an_export_names_the_place_asked_for_where_the_disk_refuses_it(
    tmp_path: Path, kind: str, of: str
) -> None:
    out = tmp_path / ("e.pt2" if kind == "torch" else "out")
    source = [trained("moco")] if of == "run" else ["--encoder", "small"]
    done = without_room(3000, "export", *source, "--format", kind, "--out", out)
    refused(done, 1, "File too large", f"file:   {out}", "stage:  export")
    assert list(tmp_path.iterdir()) == []


def test_a_scan_names_the_file_that_the_disk_refuses(tmp_path: Path) -> None:
    videos(tmp_path / "clips", 4)
    out = tmp_path / "c.arrow"
    done = without_room(100, "scan", tmp_path / "clips", "--out", out, *ALONE)
    refused(done, 1, "File too large", f"{out}.journal", "stage:  scan", "make room", "--out")
    assert rhyme("scan", tmp_path / "clips", "--out", out, *ALONE).code == 0


def test_a_cache_or_catalog_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands in the place of the folder: that refuses every user, root too."""
    clips = tmp_path / "clips"
    videos(clips, 4)
    wall = tmp_path / "wall"
    wall.write_text("no folder")
    before = contents(clips)
    refused(rhyme("scan", clips, "--out", wall / "c.arrow", *ALONE), 1, wall, "--out")
    monkeypatch.setattr("support.tiny_runs._place", lambda: wall)
    done = rhyme("train", "moco", "--data", clips, "--out", tmp_path / "run")
    refused(done, 1, wall, "RHYME_CACHE")
    assert contents(clips) == before


def test_an_empty_table_of_labels_names_the_way_out(tmp_path: Path) -> None:
    videos(tmp_path / "clips", 4)
    (tmp_path / "clips" / "labels.csv").write_text("")
    done = rhyme("scan", tmp_path / "clips", "--out", tmp_path / "c.arrow", *ALONE)
    refused(done, 1, "no line", "labels.csv", "--labels none")
