"""From a folder to a catalog: layouts, segments, quarantine, going on after a stop."""

from __future__ import annotations

import errno
import importlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rhyme.catalog import Catalog, scan, segments, stable_id
from rhyme.catalog import examine as examining
from rhyme.errors import ConfigError, DataError
from rhyme.media import Limits, probe

Films = Callable[..., Path]
Pictures = Callable[..., Path]


def paths(catalog: Catalog) -> list[str]:
    return [catalog.item(i).path for i in range(len(catalog))]


def test_a_folder_of_films(films: Films) -> None:
    catalog = scan(films("b.mp4", "sub/a.mp4"))
    assert paths(catalog) == ["b.mp4", "sub/a.mp4"]
    item = catalog.item(1)
    assert (item.kind, item.width, item.height, item.frames) == ("video", 32, 24, 4)
    assert item.stop == pytest.approx(0.4)
    assert item.fps == pytest.approx(10)
    assert (item.group, item.split, item.status, item.audio) == ("sub/a.mp4", None, "ok", False)
    assert item.id == stable_id("sub/a.mp4", 0.0)
    with pytest.raises(IndexError):
        catalog.item(2)
    pixels, times = catalog.reader(0).read([0.0, 0.3])
    assert pixels.shape == (2, 3, 24, 32)
    np.testing.assert_allclose(times, [0.0, 0.3])


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (4.0, [(0, 4.0)]),
        (14.9, [(0, 14.9)]),
        (15.0, [(0, 10), (10, 15.0)]),
        (24.0, [(0, 10), (10, 24.0)]),
        (30.0, [(0, 10), (10, 20), (20, 30.0)]),
    ],
)
def test_segments(duration: float, expected: list[tuple[float, float]]) -> None:
    assert segments(duration, 10.0) == expected
    assert segments(duration, None) == [(0.0, duration)]


def test_long_files_become_segments_of_one_group(films: Films) -> None:
    catalog = scan(films("long.mp4", seconds=3.2), segment=1.0)
    facts = catalog.facts()
    np.testing.assert_allclose(facts.start, [0, 1, 2])
    np.testing.assert_allclose(facts.stop, [1, 2, 3.2])
    assert facts.frames.tolist() == [10, 10, 12]
    assert facts.group.tolist() == [0, 0, 0]
    assert len(set(facts.id.tolist())) == 3
    assert facts.id.dtype == np.uint64
    assert len(scan(catalog.root, segment=None)) == 1
    with pytest.raises(ConfigError):
        scan(catalog.root, segment=0.0)


def test_bad_files_go_to_quarantine_and_nothing_stops(films: Films, tmp_path: Path) -> None:
    root = films("good.mp4", "cut.mp4", seconds=2.0)
    whole = (root / "good.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "zero.mp4").touch()
    (root / "page.mp4").write_text("<html>404</html>")
    (root / "list.m3u8").write_text(f"#EXTM3U\n{root / 'good.mp4'}\n")
    (root / "evil\x1b[31m\n.mp4").write_text("words")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.mp4")).write_bytes(whole)
    catalog = scan(root, out=tmp_path / "out.arrow")
    assert paths(catalog) == ["good.mp4"]
    rows = {row["path"]: row for row in catalog.quarantine.to_pylist()}
    assert set(rows) == {
        "cut.mp4",
        "zero.mp4",
        "page.mp4",
        "list.m3u8",
        "evil\\x1b[31m\\n.mp4",
        "\\udcff.mp4",
    }
    assert rows["cut.mp4"]["reason"].startswith("TruncatedMedia")
    assert rows["zero.mp4"]["reason"].startswith("EmptyMedia")
    assert "playlist" in rows["list.m3u8"]["reason"]
    assert "404" in rows["page.mp4"]["reason"]
    for row in rows.values():
        assert row["remedy"]
        assert "PyAV" in row["versions"]
    assert len(rows["page.mp4"]["sha256"]) == 64
    assert catalog.summary()["quarantined"] == 6


def test_nothing_usable_is_an_error_that_lists_what_was_found(films: Films) -> None:
    root = films("a.mp4")
    (root / "a.mp4").write_text("words")
    with pytest.raises(DataError, match=r"a\.mp4: NotMedia") as caught:
        scan(root)
    assert "mp4" in str(caught.value.remedy)
    (root / "a.mp4").unlink()
    (root / "notes.txt").write_text("words")
    with pytest.raises(DataError, match="no media among 1 files"):
        scan(root)
    with pytest.raises(DataError, match="no such folder"):
        scan(root / "none")


def test_tables_texts_and_hidden_files_are_passed_over(films: Films, picture: Pictures) -> None:
    root = films("a.mp4", ".hidden.mp4", ".cache/b.mp4", "truth/c.mp4")
    (root / "x.json").write_text("{}")
    (root / "catalog.arrow").write_text("old")
    picture(root / "cover.jpg")
    catalog = scan(root)
    assert paths(catalog) == ["a.mp4"]
    assert len(catalog.quarantine) == 0
    assert catalog.summary()["ignored"] == {"image": 1}
    assert len(scan(root, kinds=("video", "image"))) == 2


def test_media_without_a_known_ending_is_found(films: Films) -> None:
    root = films("film", "film.part")
    (root / "README").write_text("words")
    assert paths(scan(root)) == ["film", "film.part"]


def test_linked_folders_are_entered_once(films: Films) -> None:
    root = films("sub/a.mp4")
    (root / "loop").symlink_to(root, target_is_directory=True)
    assert len(scan(root)) == 1


def test_folders_that_cannot_be_read_are_named(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = films("a.mp4", "closed/b.mp4", "lost+found/c.mp4", "open/d.mp4")
    real = os.scandir
    closed = {"closed", "lost+found"}

    def scandir(folder: str | Path) -> object:
        if Path(folder).name in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    catalog = scan(root)
    assert paths(catalog) == ["a.mp4", "open/d.mp4"]
    (row,) = catalog.quarantine.to_pylist()
    assert row["path"] == "closed"
    assert row["reason"] == "FileMissing: the folder cannot be read: Permission denied"
    closed.add("data")
    with pytest.raises(DataError, match="the folder cannot be read: Permission denied"):
        scan(root)


def test_pipes_are_never_opened(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    root = films("a.mp4")
    for name in ("pipe", "pipe.mp4", "pipe.zip", "pipe.dat"):
        os.mkfifo(root / name)
    real = Path.open

    def opened(path: Path, *rest: Any, **more: Any) -> Any:
        assert not path.is_fifo(), "it would wait for a writer"
        return real(path, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)
    catalog = scan(root)
    assert paths(catalog) == ["a.mp4"]
    assert catalog.quarantine["path"].to_pylist() == ["pipe.mp4"]


def test_archives_that_may_not_be_looked_at_are_named(
    tmp_path: Path, picture: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    real = os.stat

    def stat(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("closed.zip"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **more)

    (tmp_path / "closed.zip").touch()
    monkeypatch.setattr(os, "stat", stat)
    rows = scan(tmp_path).quarantine.to_pylist()
    assert [row["path"] for row in rows] == ["closed.zip"]


def test_r2v2_folders(tmp_path: Path, picture: Pictures) -> None:
    root = tmp_path / "r2v2"
    for name, frames in (("ab_-0123456", (150, 300, 600)), ("abXXXXXXXXX", (0,))):
        for frame in frames:
            picture(root / "ab" / f"{name}_{frame:06}.jpg", shade=frame)
    picture(root / "cd" / "cdYYYYYYYYY_000000.jpg")
    picture(root / "cd" / "cdYYYYYYYYY_000150.jpg")
    catalog = scan(root)
    assert paths(catalog) == ["ab/abXXXXXXXXX", "ab/ab_-0123456", "cd/cdYYYYYYYYY"]
    item = catalog.item(1)
    assert item.kind == "frames"
    assert item.files[0] == "ab/ab_-0123456_000150.jpg"
    assert item.frames == 3
    assert item.stop == pytest.approx(20.0)
    assert catalog.label_columns == []
    reader = catalog.reader(1)
    np.testing.assert_allclose(reader.times, [0, 5, 15])
    assert reader.frames_at([5.0])[0, 0, 0, 0] == 300 % 256
    assert scan(root, spacing=1.0).item(1).stop == pytest.approx(4.0)


def test_numbered_pictures_are_one_film_and_others_are_not(
    tmp_path: Path, picture: Pictures
) -> None:
    root = tmp_path / "data"
    for k in (2, 10, 1):
        picture(root / "run" / f"{k}.png", shade=k)
    catalog = scan(root)
    assert paths(catalog) == ["run"]
    assert catalog.item(0).files == ("run/1.png", "run/2.png", "run/10.png")
    pictures = scan(root, kinds=("image",))
    assert len(pictures) == 3
    assert pictures.item(0).kind == "image"
    assert pictures.item(0).stop == 0
    picture(root / "run" / "cover.png")
    assert len(scan(root)) == 4


def test_sound_is_taken_when_there_is_nothing_else(data: Path, tmp_path: Path) -> None:
    import zipfile

    archive = next((data / "audio").rglob("*.zip"))
    with zipfile.ZipFile(archive) as opened:
        names = [n for n in opened.namelist() if n.endswith(".wav")][:3]
        opened.extractall(tmp_path, names)
    catalog = scan(tmp_path)
    assert {catalog.item(i).kind for i in range(3)} == {"audio"}
    assert catalog.item(0).audio
    sound = catalog.reader(0).audio(0.0, 0.1, 8000)
    assert sound is not None
    assert sound.shape == (1, 800)


def test_a_stopped_scan_goes_on(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = films(*(f"{k}.mp4" for k in range(6)))
    (root / "bad.mp4").write_text("words")
    out = tmp_path / "out" / "catalog.arrow"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(root, out=out, progress=stop)
    assert not out.exists()
    journal = out.with_name("catalog.arrow.journal")
    with journal.open("ab") as file:
        file.write(b'{"torn": ')
    (root / "0.mp4").write_bytes((root / "0.mp4").read_bytes() + b"changed")
    looked: list[str] = []
    real = examining.probe

    def watched(path: Path, *rest: object, **more: object) -> object:
        looked.append(Path(path).name)
        return real(path, *rest, **more)  # pyright: ignore

    monkeypatch.setattr(examining, "probe", watched)
    catalog = scan(root, out=out)
    assert looked == ["0.mp4", "4.mp4", "5.mp4", "bad.mp4"]
    assert not journal.exists()
    assert catalog.fingerprint == scan(root).fingerprint
    assert len(catalog) == 6


@pytest.mark.slow
def test_workers_give_the_same_catalog(films: Films) -> None:
    root = films(*(f"{k}.mp4" for k in range(4)))
    (root / "bad.mp4").write_text("words")
    alone, shared = scan(root), scan(root, workers=2)
    assert alone.fingerprint == shared.fingerprint
    assert alone.quarantine.equals(shared.quarantine)


DEADLY = """
import os
import time
from rhyme.catalog.examine import examine as look

def examine(task):
    # Stands for a decoder that has a flaw.
    if task.candidate.path == "crash.mp4":
        os.abort()
    if task.candidate.path == "hang.mp4":
        time.sleep(600)
    return look(task)
"""


@pytest.mark.slow
def test_a_file_that_crashes_or_hangs_the_decoder_costs_itself(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = films("a.mp4", "crash.mp4", "hang.mp4", "z.mp4")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "deadly_scan.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import deadly_scan  # pyright: ignore

    scanning = importlib.import_module("rhyme.catalog.scan")
    monkeypatch.setattr(scanning, "examine", deadly_scan.examine)
    monkeypatch.setattr(scanning, "_DEADLINE", 8.0)
    catalog = scan(root, workers=1)
    assert paths(catalog) == ["a.mp4", "z.mp4"]
    rows = {row["path"]: row for row in catalog.quarantine.to_pylist()}
    assert set(rows) == {"crash.mp4", "hang.mp4"}
    assert rows["crash.mp4"]["reason"].startswith("WorkerError")
    assert rows["hang.mp4"]["reason"].startswith("WorkerHung")
    assert all(row["remedy"] for row in rows.values())


def test_limits_put_a_file_into_quarantine(films: Films) -> None:
    root = films("a.mp4")
    with pytest.raises(DataError, match="LimitExceeded"):
        scan(root, limits=Limits(max_width=16))


def test_depths_agree_on_a_sound_file(films: Films) -> None:
    root = films("a.mp4", seconds=1.0)
    for depth in ("header", "packets", "frames"):
        item = scan(root, depth=depth).item(0)
        assert (item.frames, item.status) == (10, "ok")
        assert item.stop == pytest.approx(1.0)


def test_real_folders(data: Path) -> None:
    catalog = scan(data / "action" / "surveillance_fight", group_column="scene_group")
    assert len(catalog) == 240
    codes, names = catalog.labels()
    assert names == ["fight", "noFight"]
    assert (codes >= 0).all()
    assert len(np.unique(catalog.group_codes)) == 173
    long = scan(data / "action" / "misc_unlabelled")
    assert len(long) > 3
    assert float((long.facts().stop - long.facts().start).max()) < 15
    davis = scan(data / "vos" / "davis2016_val_240p")
    assert len(davis) == 12
    assert davis.item(0).kind == "frames"


def test_cut_pictures_are_found_without_decoding_everything(tmp_path: Path) -> None:
    def cut(name: str, share: float) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    for suffix in ("jpg", "bmp", "tif", "png", "webp"):
        cut(f"pictures/whole.{suffix}", 1)
        cut(f"pictures/cut.{suffix}", 0.5)
    for number in range(4):
        cut(f"film/{number}.jpg", 0.5 if number == 2 else 1)
        cut(f"whole/{number}.jpg", 1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("whole.jpg", "cut.jpg"):
            archive.write(tmp_path / "pictures" / name, name)
    catalog = scan(tmp_path, depth="packets", kinds=("frames", "image"), workers=0)
    bad = {row["path"]: row["reason"] for row in catalog.quarantine.to_pylist()}
    cuts = {f"pictures/cut.{suffix}" for suffix in ("jpg", "bmp", "tif", "png", "webp")}
    assert set(bad) == {"all.zip!/cut.jpg", "film", *cuts}
    assert paths(catalog) == ["all.zip!/whole.jpg", *(f"pictures/whole.{s}" for s in
                              ("bmp", "jpg", "png", "tif", "webp")), "whole"]  # fmt: skip
    assert "2.jpg" in bad["film"], "one of its pictures is to blame"


def test_animated_pictures_are_counted_and_named(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), (60 * k, 90, 90)) for k in range(4)]
    for name in ("a.webp", "b.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    for name in ("c.webp", "d.png", "e.jpg"):
        frames[0].save(tmp_path / name)
    catalog = scan(tmp_path, out=tmp_path / "listed.arrow")
    assert len(catalog) == 5
    assert catalog.meta["animations"] == ["a.webp", "b.png"]
    assert catalog.summary()["animations"] == 2
    assert {name: probe(tmp_path / name).animated for name in ("a.webp", "d.png")} == {
        "a.webp": True,
        "d.png": False,
    }
