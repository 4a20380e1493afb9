"""WebDataset shards: classes beside the pictures, splits from the names of the archives."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from media.test_archives import make, png
from rhyme.catalog import Catalog, open_data, scan
from rhyme.errors import DataError
from rhyme.media import archive as archives


def samples(*classes: bytes, first: int = 0) -> dict[str, bytes]:
    """Pictures in a row, each with its class behind it."""
    out: dict[str, bytes] = {}
    for k, content in enumerate(classes, first):
        out |= {f"{k:06}.png": png(k), f"{k:06}.cls": content}
    return out


def labels(catalog: Catalog) -> list[str | None]:
    return [catalog.item(i).labels.get("label") for i in range(len(catalog))]


def reasons(catalog: Catalog) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in catalog.quarantine.to_pylist()}


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_the_class_beside_a_picture_is_its_label(suffix: str, tmp_path: Path) -> None:
    make(tmp_path / f"000000.{suffix}", samples(b"7", b"great white shark\n", b"7\r\n"))
    catalog = scan(tmp_path)
    assert labels(catalog) == ["7", "great white shark", "7"]
    assert catalog.label_column == "label"
    assert catalog.labels()[1] == ["7", "great white shark"]
    assert len(catalog.quarantine) == 0
    assert catalog.summary()["ignored"] == {}
    assert (catalog.reader(2).frames_at([0.0]) == 2).all()


def test_the_order_within_a_sample_and_its_further_parts(tmp_path: Path) -> None:
    content = {
        "b/k.cls": b"\xef\xbb\xbf5",
        "b/k.left.png": png(),
        "b/k.right.PNG": png(),
        "b/k.json": b"{}",
        "b/v1.2.png": png(),
        "b/v1.2.CLS": "Bär".encode(),
        "a/k.png": png(),
        "lone.cls": b"1",
    }
    catalog = scan(make(tmp_path / "x.tar", content))
    found = {catalog.item(i).path.split("!/")[1]: label for i, label in enumerate(labels(catalog))}
    assert found == {
        "b/k.left.png": "5",
        "b/k.right.PNG": "5",
        "b/v1.2.png": "Bär",
        "a/k.png": None,
    }
    assert catalog.summary()["ignored"] == {".json": 1, ".cls": 1}


def several(count: int = 3) -> dict[str, bytes]:
    """Samples of a picture, its mask and a class."""
    return {
        f"s{k:03}.{ending}": str(k % 2).encode() if ending == "cls" else png(k)
        for k in range(count)
        for ending in ("input.png", "seg.png", "cls", "json")
    }


def test_samples_of_several_pictures_are_counted_by_part(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path / "s.tar", several()))
    assert len(catalog) == 6
    assert catalog.summary()["parts"] == {"input.png": 3, "seg.png": 3}
    assert catalog.meta["settings"]["include"] is None
    # names with dots in them are no samples of several
    dated = {f"day.2020.{k}.png": png(k) for k in range(5)}
    assert scan(make(tmp_path / "d.tar", dated)).summary()["parts"] == {}


def test_the_pictures_of_a_sample_are_one_group(tmp_path: Path) -> None:
    archive = make(tmp_path / "s.tar", {**several(12), "alone.png": png(99)})
    catalog = scan(archive)
    groups = {row["path"]: row["group"] for row in catalog.table.to_pylist()}
    assert len(set(groups.values())) == 13
    for k in range(12):
        assert groups[f"s.tar!/s{k:03}.input.png"] == groups[f"s.tar!/s{k:03}.seg.png"]
    # where one part is taken, the groups are what they would be without the others
    alone = {k: v for k, v in several(12).items() if ".seg." not in k}
    (tmp_path / "a").mkdir()
    inputs = scan(archive, include=("*.input.png",)).table["group"].to_pylist()
    assert inputs == scan(make(tmp_path / "a" / "s.tar", alone)).table["group"].to_pylist()
    # a list has the last word
    listed = tmp_path / "all.csv"
    listed.write_text("path,who\n" + "".join(f"{path},me\n" for path in groups))
    by_list = scan(archive, labels=listed, group_column="who").table["group"].to_pylist()
    assert len(set(by_list)) == 1


def numbered(**counts: int) -> dict[str, bytes]:
    return {f"{name}.{k:03}.png": png(k) for name, count in counts.items() for k in range(count)}


@pytest.mark.parametrize(
    "content",
    [
        numbered(cat=5, dog=5),
        numbered(cat=3, dog=9),
        numbered(**{f"class{c:02}": 17 for c in range(20)}),
        numbered(day=5),
    ],
    ids=["two classes", "one of them larger", "twenty classes", "one name"],
)
def test_numbered_pictures_of_a_class_are_no_sample(
    content: dict[str, bytes], tmp_path: Path
) -> None:
    catalog = scan(make(tmp_path / "s.zip", content))
    assert catalog.group_names == [catalog.item(i).path for i in range(len(catalog))]
    assert catalog.summary()["parts"] == {}


def test_a_longer_sample_is_one_group_to_its_end(tmp_path: Path) -> None:
    content = {**numbered(a=3, b=3, c=3, d=3, long=4), "day.2020.1.png": png()}
    catalog = scan(make(tmp_path / "s.zip", content))
    groups = [f"s.zip!/{name}" for name in ("day.2020.1.png", "long")]
    assert sorted(set(catalog.group_names)) == [*(f"s.zip!/{name}" for name in "abcd"), *groups]
    assert catalog.group_names.count("s.zip!/long") == 4
    assert catalog.summary()["parts"] == {"000.png": 5, "001.png": 5, "002.png": 5}


def test_of_several_pictures_the_ones_that_are_asked_for_are_items(tmp_path: Path) -> None:
    archive = make(tmp_path / "s.tar", several())
    catalog = scan(archive, include=("*.input.png",))
    assert [catalog.item(i).path for i in range(3)] == [
        f"s.tar!/s{k:03}.input.png" for k in (0, 1, 2)
    ]
    assert labels(catalog) == ["0", "1", "0"]
    assert catalog.summary()["ignored"] == {".json": 3, "excluded": 3}
    assert len(catalog.quarantine) == 0
    both = scan(archive, include=("*.input.png", "*.seg.png"))
    assert len(both) == 6
    assert both.meta["settings"]["include"] == ["*.input.png", "*.seg.png"]
    with pytest.raises(DataError, match="excluded"):
        scan(archive, include=("*.jpg",))


def test_patterns_choose_among_plain_files_too(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    kept = {"cache": tmp_path / "kept"}
    catalog = open_data(root, include=("images/*",), **kept)
    assert [catalog.item(i).path for i in range(2)] == ["images/a.png", "images/b.png"]
    assert len(open_data(root, include=("images/*",), **kept)) == 2
    assert len(open_data(root, **kept)) == 4


def test_shards_are_splits_by_their_names(tmp_path: Path) -> None:
    make(tmp_path / "train-000000.tar", samples(b"0", b"1"))
    make(tmp_path / "train-000001.tar", samples(b"1", b"0", first=2))
    make(tmp_path / "validation_3.tar", samples(b"0", b"1", first=4))
    make(tmp_path / "test-00000-of-00001.tar", samples(b"0", b"1", first=6))
    catalog = scan(tmp_path)
    items = [catalog.item(i) for i in range(len(catalog))]
    assert [(item.split, item.labels["label"]) for item in items] == [
        *(("test", "0"), ("test", "1"), ("train", "0"), ("train", "1")),
        *(("train", "1"), ("train", "0"), ("val", "0"), ("val", "1")),
    ]
    make(tmp_path / "trains-000000.tar", samples(b"0", first=8))
    assert scan(tmp_path).split_names == [], "one archive is no split, so none is"


def test_the_folder_of_a_shard_may_be_a_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        make(tmp_path / split / "000000.tar", samples(b"0", b"1"))
    assert scan(tmp_path).split_names == ["train", "val"]
    assert scan(tmp_path / "train" / "000000.tar").split_names == []


def test_class_folders_in_shards_of_splits(tmp_path: Path) -> None:
    for split in ("train-0", "test-0"):
        make(tmp_path / f"{split}.tar", {f"{c}/{k}.png": png() for c in ("x", "y") for k in "ab"})
    catalog = scan(tmp_path)
    assert (catalog.labels()[1], catalog.split_names) == (["x", "y"], ["test", "train"])


def test_bad_classes_are_named_with_file_and_member(tmp_path: Path) -> None:
    bad = {
        "empty": b" \n",
        "none": b"",
        "latin": b"caf\xe9",
        "two": b"3\n4",
        "numbers": b"3, 4",
        "long": b"x" * 1025,
        "control": b"a\x1b[31m",
    }
    content = {f"{name}.png": png() for name in bad}
    content |= {f"{name}.cls": text for name, text in bad.items()}
    content |= {"twice.png": png(), "twice.cls": b"1", "twice.CLS": b"2"}
    make(tmp_path / "s.tar", content)
    catalog = scan(tmp_path)
    assert len(catalog) == len(bad) + 1
    assert [label for label in labels(catalog) if label] == ["1"]
    found = {path.removeprefix("s.tar!/"): why for path, why in reasons(catalog).items()}
    assert found == {
        "empty.cls": "DataError: the label is empty",
        "none.cls": "DataError: the label is empty",
        "latin.cls": "DataError: the label is not UTF-8 text",
        "two.cls": "DataError: two labels or more where one is expected: '3\\n4'",
        "numbers.cls": "DataError: two labels or more where one is expected: '3, 4'",
        "long.cls": "DataError: the label is longer than any class name",
        "control.cls": "DataError: the label holds control characters",
        "twice.CLS": "DataError: a second label of one picture, the first says '1'",
    }
    assert all("UTF-8" in row["remedy"] for row in catalog.quarantine.to_pylist())
    assert catalog.summary()["ignored"] == {}


def test_where_no_class_can_be_read_folders_are_labels(tmp_path: Path) -> None:
    names = [f"{folder}/{k}" for folder in ("cat", "dog") for k in range(2)]
    content = {f"{name}.{end}": png() if end == "png" else b"" for name in names
               for end in ("png", "cls")}  # fmt: skip
    catalog = scan(make(tmp_path / "s.tar", content))
    assert labels(catalog) == ["cat", "cat", "dog", "dog"]
    assert set(reasons(catalog)) == {f"s.tar!/{name}.cls" for name in names}


def test_classes_that_nobody_asks_for_are_counted(tmp_path: Path) -> None:
    make(tmp_path / "s.tar", samples(b"0", b"", b"1"))
    (tmp_path / "t.csv").write_text("path,label\ns.tar!/000000.png,a\n")
    for asked, expected in (
        ("none", [None] * 3),
        ("folder", [None] * 3),
        (tmp_path / "t.csv", ["a", None, None]),
    ):
        catalog = scan(tmp_path, labels=asked)
        assert labels(catalog) == expected
        assert catalog.summary()["ignored"] == {".cls": 3}
        assert len(catalog.quarantine) == 0


def test_a_damaged_class_of_a_zip_is_named(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zip", samples(b"zero", b"one"), method=0)
    made.write_bytes(made.read_bytes().replace(b"one", b"two", 1))
    catalog = scan(tmp_path)
    assert labels(catalog) == ["zero", None]
    assert "checksum differs" in reasons(catalog)["s.zip!/000001.cls"]


def test_a_catalog_that_is_kept_notices_other_classes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    made = make(root / "s.tar", samples(b"0", b"1"))
    facts = made.stat()
    assert labels(open_data(root, cache=tmp_path / "kept")) == ["0", "1"]
    make(made, samples(b"1", b"0"))
    os.utime(made, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert labels(open_data(root, cache=tmp_path / "kept")) == ["1", "0"]


def test_a_shard_is_gone_through_once_and_never_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    large = png() + bytes(200_000)
    content = {f"{k}.{end}": b"1" if end == "cls" else large for k in range(count)
               for end in ("png", "cls")}  # fmt: skip
    made = make(tmp_path / "s.tar", content)
    opened: list[Counted] = []

    class Counted(io.FileIO):
        taken = 0

        def readinto(self, buffer: bytearray) -> int:  # pyright: ignore
            self.taken += (got := super().readinto(buffer) or 0)
            return got

    def open_counted(path: Path, **_: object) -> tuple[io.BufferedReader, int]:
        opened.append(Counted(path))
        return io.BufferedReader(opened[-1]), made.stat().st_size

    monkeypatch.setattr(archives, "open_regular", open_counted)
    found = [m for m in archives.members(made, read=(".cls",)) if m.data is not None]
    assert [m.data for m in found] == [b"1"] * count
    assert len(opened) == 1
    assert opened[0].taken < made.stat().st_size / 4
