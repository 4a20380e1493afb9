"""Labels, groups and splits from CSV files and folders."""

from __future__ import annotations

import importlib
from collections.abc import Callable, ValuesView
from pathlib import Path

import numpy as np
import pytest

from rhyme.catalog import scan
from rhyme.errors import CatalogError, ConfigError, DataError, UnknownName

Films = Callable[..., Path]


def test_class_folders(films: Films) -> None:
    root = films("run/a.mp4", "run/b.mp4", "jump/c.mp4", "jump/d.mp4")
    catalog = scan(root)
    codes, names = catalog.labels()
    assert names == ["jump", "run"]
    assert codes.tolist() == [0, 0, 1, 1]
    assert scan(root, labels="none").label_columns == []
    with pytest.raises(DataError):
        scan(root, labels="none").labels()


@pytest.mark.parametrize(
    "names",
    [
        ("run/a.mp4", "run/b.mp4"),
        ("run/a.mp4", "run/b.mp4", "jump/c.mp4"),
        ("run/a.mp4", "run/b.mp4", "jump/c.mp4", "jump/d.mp4", "top.mp4"),
        ("x/run/a.mp4", "x/run/b.mp4", "x/jump/c.mp4", "x/jump/d.mp4"),
    ],
)
def test_other_folders_are_no_classes_unless_asked(films: Films, names: tuple[str, ...]) -> None:
    root = films(*names)
    assert scan(root).label_columns == []
    forced = scan(root, labels="folder")
    assert forced.label_column == "label"
    assert forced.item(0).labels["label"] == names[-1].split("/")[0] or "/" in forced.item(0).path


@pytest.mark.parametrize(
    "names",
    [
        ("train/a.mp4", "train/b.mp4", "test/c.mp4"),
        ("train/x/a.mp4", "train/x/b.mp4", "train/y/d.mp4", "test/x/c.mp4"),
        ("train/p/x/a.mp4", "test/p/y/b.mp4"),
    ],
    ids=["no classes", "a class of one item", "deeper folders"],
)
def test_split_folders_are_splits_without_classes_too(films: Films, names: tuple[str, ...]) -> None:
    catalog = scan(films(*names))
    assert catalog.label_columns == []
    for i in range(len(catalog)):
        item = catalog.item(i)
        assert item.split == item.path.split("/")[0]


def test_split_folders_above_folders_of_video_ids(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    for split, video in (("train", "abXXXXXXXXX"), ("test", "cdYYYYYYYYY")):
        for frame in (0, 150):
            picture(tmp_path / split / video[:2] / f"{video}_{frame:06}.jpg")
    catalog = scan(tmp_path)
    assert catalog.splits == ["test", "train"]
    assert catalog.label_columns == []


def test_csv_beside_the_files(films: Films) -> None:
    root = films("a.mp4", "b.mp4", "sub/c d.mp4")
    (root / "labels.csv").write_text(
        'path,label,group,split,note\r\na.mp4,x,g1,train,"one, two"\r\n./b.mp4,,g1,train,\r\n'
        'sub\\c d.mp4,y,g2,test,"say ""hi"""\r\n'
    )
    catalog = scan(root)
    assert catalog.label_column == "label"
    assert catalog.label_columns == ["label", "note"]
    assert catalog.item(0).labels == {"label": "x", "note": "one, two"}
    assert catalog.item(1).labels == {"label": None, "note": None}
    assert catalog.item(2).labels["note"] == 'say "hi"'
    assert [catalog.item(i).group for i in range(3)] == ["g1", "g1", "g2"]
    assert [catalog.item(i).split for i in range(3)] == ["train", "train", "test"]
    codes, names = catalog.labels("label")
    assert (codes.tolist(), names) == ([0, -1, 1], ["x", "y"])


def test_splits_of_a_csv_are_spelled_like_those_of_folders(films: Films) -> None:
    root = films("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    (root / "labels.csv").write_text(
        "path,set\na.mp4,Train\nb.mp4,validation\nc.mp4,TEST\nd.mp4,Extra\n"
    )
    catalog = scan(root, split_column="set")
    assert [catalog.item(i).split for i in range(4)] == ["train", "val", "test", "Extra"]
    assert [catalog.item(i).labels["set"] for i in range(2)] == ["Train", "validation"]


def test_named_columns_and_another_place(films: Films, tmp_path: Path) -> None:
    root = films("a.mp4", "b.mp4")
    table = tmp_path / "table.tsv"
    table.write_text(
        "clip name\tverb\tperson\tset\tasset_mask\na\tgo\tp1\ttrain\tm/a.png\nb\tstop\tp2\ttest\t\n"
    )
    catalog = scan(
        root,
        labels=table,
        path_column="clip name",
        label_column="verb",
        group_column="person",
        split_column="set",
    )
    assert catalog.label_column == "verb"
    assert catalog.item(0).labels == {"verb": "go", "person": "p1", "set": "train"}
    assert (catalog.item(1).group, catalog.item(1).split) == ("p2", "test")
    assert catalog.item(0).assets == {"mask": "m/a.png"}
    assert catalog.item(1).assets == {}
    assert catalog.select(split="test").item(0).path == "b.mp4"


def test_files_without_a_line_stay_unlabelled(films: Films) -> None:
    root = films("a.mp4", "b.mp4")
    (root / "labels.csv").write_text("file,label\na.mp4,x\n")
    codes, _ = scan(root).labels()
    assert codes.tolist() == [0, -1]


def test_paths_from_elsewhere(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = films("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    (tmp_path / "link").symlink_to(tmp_path)
    table = tmp_path / "table.csv"
    lines = [root / "a.mp4", "data/b.mp4", tmp_path / "x" / ".." / "data" / "c", "./data/../data/d"]
    table.write_text("path,label\n" + "".join(f"{line},{k}\n" for k, line in enumerate(lines)))
    monkeypatch.chdir(tmp_path)
    for folder in ("data", root, "data/../data", "link/data"):
        catalog = scan(folder, labels=table)
        assert catalog.labels()[1] == ["0", "1", "2", "3"]
        assert catalog.root.is_absolute()
    monkeypatch.chdir(root)
    for folder in (".", "../data"):
        catalog = scan(folder, labels="../table.csv")
        assert catalog.labels()[1] == ["0", "1", "2", "3"]
        assert catalog.root.name == "data"


def test_a_table_for_a_folder_that_is_one_film(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    for k in range(3):
        picture(tmp_path / "run" / f"{k}.png")
    (tmp_path / "run" / "labels.csv").write_text("path,label\n.,x\n0,y\n")
    catalog = scan(tmp_path / "run")
    assert catalog.item(0).labels == {"label": "x"}
    assert catalog.quarantine["path"].to_pylist() == ["0"]
    table = tmp_path / "table.csv"
    table.write_text("path,label\nrun,z\n")
    assert scan(tmp_path / "run", labels=table).item(0).labels == {"label": "z"}


def test_many_lines_are_matched_in_one_go(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    class Matched(dict[str, str]):
        asked = 0

        def values(self) -> ValuesView[str]:
            Matched.asked += 1
            return super().values()

    scanning = importlib.import_module("rhyme.catalog.scan")
    real = scanning.resolve
    monkeypatch.setattr(scanning, "resolve", lambda *a, **k: Matched(real(*a, **k)))
    root = films("a.mp4")
    (root / "labels.csv").write_text("file,label\na.mp4,x\n" + "".join(f"{k},y\n" for k in "bcd"))
    assert scan(root).quarantine["path"].to_pylist() == ["b", "c", "d"]
    assert Matched.asked == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("lines", [("a.mp4", "a"), ("a", "a.mp4")])
def test_two_lines_that_match_one_file(films: Films, lines: tuple[str, str], strict: bool) -> None:
    root = films("a.mp4", "b.mp4")
    table = root / "labels.csv"
    table.write_text(f"file,label\nb.mp4,x\n{lines[0]},x\n{lines[1]},y\n")
    with pytest.raises(CatalogError, match=r"line 4: .* a second time, first on line 3") as caught:
        scan(root, labels=table if strict else "auto")
    assert (caught.value.value, caught.value.remedy) == (lines[1], "keep one line a file")


def test_lines_without_a_file(films: Films) -> None:
    root = films("a.mp4")
    table = root / "labels.csv"
    table.write_text("file,label\na.mp4,x\ngone.mp4,y\n")
    with pytest.raises(CatalogError, match=r"line 3: gone\.mp4"):
        scan(root, labels=table)
    rows = scan(root).quarantine.to_pylist()
    assert rows[0]["path"] == "gone.mp4"
    assert "line 3" in rows[0]["reason"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\na.mp4,y\n", "line 3: .* second time, first on line 2"),
        ("file,label\na.mp4,x,more\n", "line 2: 3 values for 2 columns"),
        ('file,label\na.mp4,"two\nlines"\nb.mp4\n', "line 4: 1 values"),
        ('file,label\na.mp4,"open\n', "line 2: "),
        ("file,label\n,x\n", "line 2: the path is empty"),
        (f"file,label\na.mp4,x\nb.mp4,{'x' * 1_000_000}\n", "line 3: field larger than"),
        ("file,label,label\na.mp4,x,y\n", "line 1: a column is named twice"),
        ("name,label\na.mp4,x\n", "no column names the files"),
        ("", "no line"),
        ("file,label\r\na.mp4,x\r\n\r\na.mp4,y\r\n", "line 4: .*first on line 2"),
    ],
)
def test_damaged_tables_name_the_line(films: Films, text: str, message: str) -> None:
    root = films("a.mp4", "b.mp4")
    table = root / "t.csv"
    table.write_bytes(text.encode())
    with pytest.raises(CatalogError, match=message):
        scan(root, labels=table)


def test_cells_with_commas_quotes_and_lines_and_without_anything(films: Films) -> None:
    names = [f"{k}.mp4" for k in "abcde"]
    root = films(*names)
    cells = ['"jump, high"', '"say ""go"""', '"two\nlines"', "", "nan"]
    rows = [f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True)]
    (root / "labels.csv").write_text("file,caption\n" + "".join(rows))
    catalog = scan(root)
    found = [catalog.item(k).labels["caption"] for k in range(5)]
    assert found == ["jump, high", 'say "go"', "two\nlines", None, "nan"]


def test_an_index_without_a_name_is_passed_over(films: Films) -> None:
    root = films("a.mp4", "b.mp4")
    table = root / "labels.csv"
    table.write_text(",path,verb\n0,a.mp4,x\n1,b.mp4,y\n")
    catalog = scan(root)
    assert (catalog.label_column, catalog.label_columns) == ("verb", ["verb"])
    assert catalog.labels()[1] == ["x", "y"]
    table.write_text("path,,verb\na.mp4,0,x\n")
    with pytest.raises(CatalogError, match="a column has no name") as caught:
        scan(root)
    assert caught.value.remedy


def test_tables_that_are_no_text(films: Films) -> None:
    root = films("a.mp4")
    table = root / "t.csv"
    table.write_bytes(b"file,label\na.mp4,\xff\xfe\n")
    with pytest.raises(CatalogError, match="UTF-8"):
        scan(root, labels=table)
    with pytest.raises(CatalogError, match="cannot be read"):
        scan(root, labels=root / "none.csv")


def test_wrong_column_names_get_a_suggestion(films: Films) -> None:
    root = films("a.mp4")
    (root / "labels.csv").write_text("file,label,person\na.mp4,x,p\n")
    with pytest.raises(UnknownName, match="persn") as caught:
        scan(root, group_column="persn")
    assert "person" in str(caught.value.remedy)
    with pytest.raises(ConfigError):
        scan(root, labels="none", label_column="label")
    (root / "labels.csv").unlink()
    with pytest.raises(CatalogError):
        scan(root, label_column="label")


def test_a_table_about_something_else_is_passed_over(films: Films) -> None:
    root = films("a.mp4")
    (root / "labels.csv").write_text("id,meaning\n1,dog\n")
    assert scan(root).label_columns == []


def test_number_labels_are_in_order_of_number(films: Films) -> None:
    root = films("a.mp4", "b.mp4", "c.mp4")
    (root / "labels.csv").write_text("file,label\na.mp4,10\nb.mp4,9\nc.mp4,100\n")
    codes, names = scan(root).labels()
    assert names == ["9", "10", "100"]
    np.testing.assert_array_equal(codes, [1, 0, 2])
