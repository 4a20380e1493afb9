"""A disk that fails for a moment costs a moment; one that keeps failing is no damage of a file."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rhyme.catalog import examine, scan
from rhyme.errors import MediaError, StorageError
from rhyme.loading import CatalogSource
from rhyme.media import Picture, Video, patience, probe
from rhyme.systems.moco import Moco, MocoConfig


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Let chosen openings of files fail, counted from 0; gives the pauses that were made."""

    def fail(code: int, which: Callable[[int], bool]) -> list[float]:
        opened, pauses, count = os.open, list[float](), [0]

        def opening(path: Any, *args: Any, **options: Any) -> int:
            if not str(path).endswith((".mp4", ".png")):
                return opened(path, *args, **options)
            count[0] += 1
            if which(count[0] - 1):
                raise OSError(code, os.strerror(code), str(path))
            return opened(path, *args, **options)

        monkeypatch.setattr(os, "open", opening)
        monkeypatch.setattr(patience.time, "sleep", pauses.append)
        return pauses

    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_what_fails_for_a_moment_is_tried_again(
    film: Callable[..., Path], failing: Callable[..., list[float]], code: int
) -> None:
    path = film(n=5)
    truth = probe(path)
    pauses = failing(code, lambda n: n < 3)
    with pytest.warns(UserWarning, match="tried again") as told:
        assert probe(path) == truth
    assert pauses == [0.1, 0.5, 2.0]
    assert all(str(path) in str(one.message) for one in told)


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.EIO, "network mount"), (errno.EMFILE, "ulimit -n")]
)
@pytest.mark.filterwarnings("ignore:.*tried again")
def test_what_keeps_failing_is_not_the_file(
    film: Callable[..., Path], failing: Callable[..., list[float]], code: int, remedy: str
) -> None:
    path = film(n=5)
    pauses = failing(code, lambda n: True)
    with pytest.raises(StorageError, match=errno.errorcode[code]) as raised, Video(path) as video:
        video.frames_at([0.0])
    assert not isinstance(raised.value, MediaError)
    assert raised.value.file == str(path)
    assert remedy in str(raised.value.remedy)
    assert sum(pauses) < 3


def test_a_missing_file_is_told_at_once(
    tmp_path: Path, failing: Callable[..., list[float]]
) -> None:
    pauses = failing(errno.ENOENT, lambda n: True)
    with pytest.raises(MediaError, match="cannot be opened"):
        probe(tmp_path / "no.mp4")
    assert pauses == []


@pytest.mark.parametrize("kind", ["film", "picture"])
def test_reads_are_tried_again_too(
    film: Callable[..., Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0))
    if kind == "film":
        path, reader = film(n=50, gop=5), Video
    else:
        path, reader = tmp_path / "a.png", Picture
        noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    with reader(path) as sound:
        truth = sound.frames_at([0.0, 1.5])
    calls, works = [0], [3]

    class Flaky(io.FileIO):
        """Only every so many calls give bytes."""

        def readinto(self, buffer: Any, /) -> int | None:
            calls[0] += 1
            if calls[0] % works[0]:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    monkeypatch.setattr(patience, "FileIO", Flaky)
    with pytest.warns(UserWarning, match="EIO"), reader(path) as flaky:
        assert torch.equal(flaky.frames_at([0.0, 1.5]), truth)
    works[0] = 1000
    with (
        pytest.warns(UserWarning, match="EIO"),
        pytest.raises(StorageError, match="failed 3 times"),
        reader(path) as flaky,
    ):
        flaky.frames_at([0.0])


@pytest.mark.filterwarnings("ignore:.*tried again")
def test_a_batch_is_the_same_after_a_moment_and_none_is_made_from_stand_ins(
    tmp_path: Path, film: Callable[..., Path], failing: Callable[..., list[float]]
) -> None:
    for k in range(5):
        film(f"v{k}.mp4", n=10)
    catalog = scan(tmp_path)

    def batch() -> tuple[list[int], int]:
        plan = Moco(MocoConfig()).plans()["train"]
        source = CatalogSource(catalog, plan, batch_size=4, seed=0)
        try:
            return next(source.batches()).ids.tolist(), len(source.replaced)
        finally:
            source.close()

    truth = batch()
    failing(errno.EIO, lambda n: n == 2)
    assert batch() == truth == (truth[0], 0)
    failing(errno.EIO, lambda n: True)
    with pytest.raises(StorageError):
        batch()


def test_a_scan_that_could_not_read_a_file_looks_again_the_next_time(
    film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, journal = tmp_path / "set", tmp_path / "journal"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        film(name, n=5).rename(folder / name)

    def lost(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "a.mp4":
            raise StorageError("the storage failed", file=path, stage="read")
        return probe(path, *args, **options)

    with monkeypatch.context() as trouble:
        trouble.setattr(examine, "probe", lost)
        first = scan(folder, journal=journal)
    (left_out,) = first.quarantine.to_pylist()
    assert left_out["path"] == "a.mp4"
    assert left_out["reason"].startswith("StorageError")
    assert len(scan(folder, journal=journal)) == 2
