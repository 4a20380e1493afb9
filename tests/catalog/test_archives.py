"""Collections with pictures in zip and tar files, and labels from the folders within."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from media.test_archives import make, png
from rhyme.catalog import Catalog, open_data, scan
from rhyme.errors import CatalogError, DataError, MediaError


def paths(catalog: Catalog) -> list[str]:
    return [catalog.item(i).path for i in range(len(catalog))]


def reasons(catalog: Catalog) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in catalog.quarantine.to_pylist()}


def classes(*splits: str, count: int = 2) -> dict[str, bytes]:
    """Numbered pictures of two classes, below folders of splits where there are any."""
    return {
        f"{split}{name}/{k}.png": png(20 * c + k)
        for split in (splits or ("",))
        for c, name in enumerate(("cat", "dog"))
        for k in range(count)
    }


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_every_picture_of_an_archive_is_an_item(suffix: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    make(root / "sub" / f"all.{suffix}", classes())
    catalog = scan(root, out=tmp_path / "c.arrow")
    assert paths(catalog)[0] == f"sub/all.{suffix}!/cat/0.png"
    codes, names = catalog.labels()
    assert (codes.tolist(), names) == ([0, 0, 1, 1], ["cat", "dog"])
    assert catalog.split_names == []
    item = catalog.item(3)
    assert (item.kind, item.frames, item.stop, item.width) == ("image", 1, 0, 10)
    assert item.group == item.path
    for row, shade in enumerate((0, 1, 20, 21)):
        assert (catalog.reader(row).frames_at([0.0]) == shade).all()
    assert scan(root).fingerprint == catalog.fingerprint
    assert scan(root, kinds=("image",)).fingerprint == catalog.fingerprint


def test_an_archive_is_data_too(tmp_path: Path) -> None:
    archive = make(tmp_path / "all.zip", classes("train/", "test/"))
    (tmp_path / "labels.csv").write_text("path,label\nsomething.jpg,else\n")
    catalog = scan(archive)
    assert len(catalog) == 8
    assert set(catalog.split_names) == {"train", "test"}
    assert catalog.labels()[1] == ["cat", "dog"]


@pytest.mark.parametrize("inner", [False, True])
def test_splits_come_from_folders_or_from_archives(inner: bool, tmp_path: Path) -> None:
    for split in ("train", "Validation", "test"):
        make(tmp_path / f"{split}.zip", classes(f"{split}/") if inner else classes())
    catalog = scan(tmp_path)
    assert set(catalog.split_names) == {"train", "val", "test"}
    assert catalog.item(0).split == "val"
    assert catalog.labels()[1] == ["cat", "dog"]


def test_split_folders_of_plain_files(tmp_path: Path, picture: Callable[..., Path]) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for k in "ab":
                picture(tmp_path / split / name / f"{k}.png")
    catalog = scan(tmp_path)
    assert catalog.labels()[1] == ["cat", "dog"]
    assert set(catalog.split_names) == {"train", "test"}
    forced = scan(tmp_path, labels="folder")
    assert forced.labels()[1] == ["cat", "dog"]
    picture(tmp_path / "extra" / "cat" / "a.png")
    assert scan(tmp_path).label_columns == [], "then the first folders are no splits"


def test_what_an_archive_holds_besides_is_named(tmp_path: Path) -> None:
    content = {
        **classes(),
        "cat/notes.txt": b"passed over",
        "cat/0.cls": b"1",
        "film.mp4": b"no picture",
        "nested.zip": png(),
        "cat/\x1b[31m.mov": b"escape",
        "cat/broken.png": b"words",
        "../out.png": png(),
        "__MACOSX/cat/._0.png": b"mac",
        "truth/1.png": png(),
    }
    make(tmp_path / "all.zip", content)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "all.zip").read_bytes()[:-30])
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    catalog = scan(tmp_path)
    assert len(catalog) == 4
    found = reasons(catalog)
    assert found.pop("all.zip!/film.mp4").startswith("UnsupportedMedia: not a picture")
    assert found.pop("all.zip!/nested.zip").startswith("UnsupportedMedia: not a picture")
    assert "\x1b" not in "".join(found)
    assert found.pop("all.zip!/cat/\\x1b[31m.mov").startswith("UnsupportedMedia: not a picture")
    assert found.pop("all.zip!/cat/broken.png").startswith("NotMedia: the file is text")
    assert "outside of its folder" in found.pop("all.zip!/../out.png")
    assert found.pop("cut.zip").startswith("TruncatedMedia: the archive is cut")
    assert found.pop("packed.tar.gz").startswith("UnsupportedMedia: a packed archive")
    assert found == {}
    assert not (tmp_path.parent / "out.png").exists()


def test_a_damaged_tar_is_named_and_all_else_of_it_is_used(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    archive = make(root / "all.tar", classes(count=10))
    header = archive.read_bytes().index(b"cat/4.png")
    data = bytearray(archive.read_bytes())
    data[header] ^= 1
    archive.write_bytes(data)
    catalog = open_data(root, cache=tmp_path / "kept")
    assert paths(catalog) == [
        f"all.tar!/{name}" for name in classes(count=10) if name != "cat/4.png"
    ]
    assert reasons(catalog)["all.tar"].startswith("TruncatedMedia: the archive is cut or damaged")
    for row in range(len(catalog)):
        catalog.reader(row).frames_at([0.0])


def test_a_catalog_that_is_kept_notices_damage_behind_all_members(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    archive = make(root / "all.tar", classes())
    facts = archive.stat()
    assert reasons(open_data(root, cache=tmp_path / "kept")) == {}
    archive.write_bytes(archive.read_bytes().rstrip(b"\0"))
    os.utime(archive, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert "without an end mark" in reasons(open_data(root, cache=tmp_path / "kept"))["all.tar"]


def test_many_members_that_are_no_pictures_are_summed_up(tmp_path: Path) -> None:
    make(tmp_path / "a.zip", {**classes(), **{f"{k}.wav": b"RIFF" for k in range(50)}})
    found = reasons(scan(tmp_path))
    assert len(found) == 21
    assert found["a.zip"].endswith("so are 30 further members")


def test_an_archive_without_pictures_is_an_error_that_says_why(tmp_path: Path) -> None:
    make(tmp_path / "a.zip", {"a.wav": b"RIFF"})
    with pytest.raises(DataError, match=r"a\.zip!/a\.wav: UnsupportedMedia"):
        scan(tmp_path)


def test_archives_beside_films_are_left_alone(tmp_path: Path, films: Callable[..., Path]) -> None:
    root = films("a.mp4")
    make(root / "all.zip", {**classes(), "x.mov": b""})
    catalog = scan(root)
    assert paths(catalog) == ["a.mp4"]
    assert len(catalog.quarantine) == 0
    assert catalog.summary()["ignored"] == {"image": 4, "archive": 1}


def test_an_archive_that_changed_is_refused_and_scanned_again(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    archive = make(root / "all.zip", classes())
    catalog = scan(root, out=tmp_path / "c.arrow")
    shutil.copytree(root, tmp_path / "moved")
    there = Catalog.open(tmp_path / "c.arrow", root=tmp_path / "moved")
    assert (there.reader(1).frames_at([0.0]) == 1).all(), "a copy has other times"
    make(archive, classes(count=3))
    with pytest.raises(CatalogError, match="has changed"):
        catalog.reader(0)
    make(tmp_path / "moved" / "all.zip", {"x/1.png": png()})
    with pytest.raises(MediaError, match="not where it was"):
        there.reader(3).frames_at([0.0])
    assert len(scan(root)) == 6


def test_a_forged_catalog_reads_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root / "all.zip", classes())
    make(tmp_path / "secret.zip", classes())
    table = scan(root).table
    forgeries = {
        "offset": [-5, 0, 0, 0],
        "path": ["../secret.zip!/cat/0.png", "/x.zip!/a", "b", "c"],
    }
    for name, values in forgeries.items():
        forged = table.set_column(table.column_names.index(name), name, [values])
        with pytest.raises(CatalogError, match="does not say where"):
            Catalog(forged, root=root).reader(0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut of the real CIFAR-10 zips, as they are."""
    if not os.environ.get("RHYME_DATA"):
        pytest.skip("set RHYME_DATA to the folder with the shared real data")
    source = Path(os.environ["RHYME_DATA"]) / "images" / "cifar10"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    root = tmp_path_factory.mktemp("cifar")
    for split, count in (("train", 20), ("test", 5)):
        with (
            zipfile.ZipFile(source / f"{split}.zip") as whole,
            zipfile.ZipFile(root / f"{split}.zip", "w", zipfile.ZIP_DEFLATED) as part,
        ):
            for name in whole.namelist():
                if int(Path(name).stem) < count:
                    part.writestr(name, whole.read(name))
    return root


def test_real_small_pictures(pictures: Path) -> None:
    catalog = scan(pictures)
    assert len(catalog) == 250
    codes, names = catalog.labels()
    assert len(names) == 10
    assert np.bincount(codes).tolist() == [25] * 10
    assert catalog.split_names == ["test", "train"]
    with zipfile.ZipFile(pictures / "train.zip") as opened:
        from PIL import Image

        name = "train/frog/0007.jpg"
        wanted = np.asarray(Image.open(opened.open(name)))
    row = paths(catalog).index(f"train.zip!/{name}")
    found = catalog.reader(row).frames_at([0.0])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, wanted)


def test_real_pictures_of_a_thousand_classes(data: Path) -> None:
    catalog = scan(data / "images" / "imagenet_1000x1_short128")
    assert len(catalog) == 1000
    assert len(catalog.quarantine) == 0
    assert catalog.label_columns == [], "one picture a class is no class to learn"
    facts = catalog.facts()
    assert int(np.minimum(facts.width, facts.height).min()) >= 50


def test_a_broken_archive_beside_films_is_counted(
    tmp_path: Path, films: Callable[..., Path]
) -> None:
    root = films("a.mp4")
    (root / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    assert scan(root).summary()["ignored"] == {"archive": 1}
