"""Files that vanish after the scan are found all at once, whatever an item is made of."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from rhyme.catalog import missing_files, scan, without_files


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"{k:04}.png" for k in range(1, count + 1)]
    for k, file in enumerate(files):
        Image.new("RGB", (30, 20), (20 * k, 90, 90)).save(file)
    return files


def test_pictures_folders_of_frames_and_archives(tmp_path: Path) -> None:
    files = pictures(tmp_path / "stills" / "a", 3) + pictures(tmp_path / "stills" / "b", 2)
    stills = scan(tmp_path / "stills", kinds=("image",))
    frames = scan(tmp_path / "stills", kinds=("frames",))
    assert missing_files(stills) == missing_files(frames) == {}
    files[1].unlink()
    files[3].unlink()
    files[4].unlink()
    (tmp_path / "stills" / "b").rmdir()
    gone = missing_files(stills)
    assert set(gone) == {"a/0002.png", "b/0001.png", "b/0002.png"}
    for name, rows in gone.items():
        assert [stills.item(row).path for row in rows] == [name]
    assert list(missing_files(frames)) == [frames.item(0).path, frames.item(1).path]

    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("one", "two"):
        with zipfile.ZipFile(packed / f"{name}.zip", "w") as archive:
            for k in (0, 2):
                archive.write(files[k], f"{k}.png")
    inside = scan(packed)
    assert len(inside) == 4
    (packed / "one.zip").unlink()
    assert missing_files(inside) == {"one.zip": [0, 1]}


def test_what_is_left_tells_what_is_gone(tmp_path: Path) -> None:
    files = pictures(tmp_path / "stills" / "a", 4)
    catalog = scan(tmp_path / "stills", kinds=("image",))
    for k in (0, 2):
        files[k].unlink()
    gone = missing_files(catalog)
    left = without_files(catalog, gone)
    assert [left.item(k).path for k in range(len(left))] == ["a/0002.png", "a/0004.png"]
    assert left.root == catalog.root
    assert np.array_equal(left.facts().id, catalog.facts([1, 3]).id)
    assert [row["path"] for row in left.quarantine.to_pylist()] == ["a/0001.png", "a/0003.png"]
    again = left.save(tmp_path / "left.arrow")
    assert again.quarantine.num_rows == 2
    assert missing_files(again) == {}
