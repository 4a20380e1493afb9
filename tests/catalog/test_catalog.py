"""The table: on disk and back, selections, splits, folds, and data by its path."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rhyme.catalog import Catalog, assign_splits, folds, open_data, scan
from rhyme.catalog.schema import build_table, stable_id
from rhyme.catalog.splits import share
from rhyme.errors import CatalogError, ConfigError, DataError, UnknownName

Films = Callable[..., Path]


def made(groups: list[str], labels: list[str | None] | None = None) -> Catalog:
    rows: list[dict[str, object]] = [
        {
            "id": stable_id(str(i), 0.0),
            "path": str(i),
            "kind": "video",
            "start": 0.0,
            "stop": 1.0,
            "fps": 8.0,
            "frames": 8,
            "width": 4,
            "height": 4,
            "audio": False,
            "group": group,
            "status": "ok",
            "label:label": None if labels is None else labels[i],
        }
        for i, group in enumerate(groups)
    ]
    meta = {"version": 1, "root": "/nowhere", "label_column": None if labels is None else "label"}
    return Catalog(build_table(rows, ["label"], [], meta))


def split_of(catalog: Catalog) -> list[str]:
    return [str(catalog.item(i).split) for i in range(len(catalog))]


def test_save_open_and_parquet(films: Films, tmp_path: Path) -> None:
    catalog = scan(films("x/a.mp4", "x/b.mp4", "y/c.mp4", "y/d.mp4"))
    saved = catalog.save(tmp_path / "deep" / "c.arrow")
    again = Catalog.open(tmp_path / "deep" / "c.arrow")
    saved.to_parquet(tmp_path / "c.parquet")
    other = Catalog.from_parquet(tmp_path / "c.parquet")
    for copy in (saved, again, other, pickle.loads(pickle.dumps(again))):
        assert copy.fingerprint == catalog.fingerprint
        assert [copy.item(i) for i in range(4)] == [catalog.item(i) for i in range(4)]
        assert copy.reader(3).frames_at([0.0]).shape == (1, 3, 24, 32)
    assert again.labels()[1] == other.labels()[1] == ["x", "y"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.arrow"]


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such catalog"):
        Catalog.open(tmp_path)
    catalog = made(["a"])
    catalog.save(tmp_path)
    file = tmp_path / "catalog.arrow"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"words", b""):
        file.write_bytes(content)
        with pytest.raises(CatalogError):
            Catalog.open(file)
    with pytest.raises(CatalogError, match="version"):
        catalog.with_meta(version=99)
    with pytest.raises(CatalogError, match="Parquet"):
        Catalog.from_parquet(file)


def test_fingerprint_follows_content_not_place(films: Films, tmp_path: Path) -> None:
    root = films("a.mp4", "b.mp4")
    first = scan(root)
    moved = root.rename(tmp_path / "elsewhere")
    assert scan(moved).fingerprint == first.fingerprint
    assert first.select([1, 0]).fingerprint != first.fingerprint
    assert first.with_column("split", ["train", "test"]).fingerprint != first.fingerprint


def test_catalog_moves_with_its_folder(films: Films, tmp_path: Path) -> None:
    root = films("a.mp4")
    scan(root, out=root)
    moved = root.rename(tmp_path / "elsewhere")
    assert open_data(moved).reader(0).frames_at([0.0]).shape[0] == 1


@pytest.mark.parametrize("place", ["data", "."], ids=["within the data", "above them"])
def test_data_that_stay_where_they_were_are_found(films: Films, tmp_path: Path, place: str) -> None:
    root = films("a.mp4")
    made = scan(root, out=tmp_path / place / "c.arrow").path
    assert made is not None
    (tmp_path / "kept").mkdir()
    moved = made.rename(tmp_path / "kept" / "c.arrow")
    assert Catalog.open(moved).root == root
    assert Catalog.open(moved).reader(0).frames_at([0.0]).shape[0] == 1
    root.rename(tmp_path / "gone")
    beside = {"data": tmp_path / "kept", ".": tmp_path / "kept" / "data"}
    assert Catalog.open(moved).root == beside[place], "where nothing is, it moved with its data"


def test_selections_share_label_names(films: Films) -> None:
    catalog = scan(films("x/a.mp4", "x/b.mp4", "y/c.mp4", "y/d.mp4"))
    part = catalog.select(np.array([False, False, True, True]))
    codes, names = part.labels()
    assert names == ["x", "y"]
    assert codes.tolist() == [1, 1]
    assert catalog.select(indices=[3, 0]).item(0).path == "y/d.mp4"
    assert part.facts([1]).frames.tolist() == [4]
    for wrong in (np.ones(3, dtype=bool), [4]):
        with pytest.raises(CatalogError):
            catalog.select(wrong)
    with pytest.raises(DataError):
        catalog.select(split="train")
    with pytest.raises(UnknownName):
        catalog.labels("lable")


def test_selection_of_a_saved_catalog_pickles_small(tmp_path: Path) -> None:
    saved = made([str(i) for i in range(2000)]).save(tmp_path)
    part = saved.select(np.arange(1000, 1003)).select([2, 0])
    data = pickle.dumps(part)
    assert len(data) < 2000
    assert pickle.loads(data).item(0).path == "1002"


def touched(path: Path) -> None:
    """Another time, the same bytes, as a copy or a restore leaves them."""
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def test_files_that_were_staged_again_are_those_of_the_scan(films: Films) -> None:
    root = films(*(f"{n}.mp4" for n in range(10)))
    catalog = scan(root)
    assert not catalog.staged_again()
    touched(root / "3.mp4")
    with pytest.raises(CatalogError, match="changed"):
        catalog.reader(3)
    for path in root.iterdir():
        touched(path)
    assert catalog.staged_again()
    part = catalog.select([3, 4])
    assert len(part.reader(0).frames_at([0.0])) == 1
    with (root / "4.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CatalogError, match="changed"):
        part.reader(1)


def test_a_few_files_are_not_taken_for_a_fresh_copy(films: Films) -> None:
    root = films("a.mp4", "b.mp4")
    catalog = scan(root)
    for path in root.iterdir():
        touched(path)
    with pytest.raises(CatalogError, match="changed") as caught:
        catalog.reader(0)
    assert "rsync -t" in str(caught.value.remedy)


def test_a_changed_or_missing_file_is_refused(
    films: Films, film_bytes: Callable[..., bytes]
) -> None:
    root = films("a.mp4", "b.mp4")
    catalog = scan(root)
    (root / "a.mp4").write_bytes(film_bytes(0.8))
    with pytest.raises(CatalogError, match="changed") as caught:
        catalog.reader(0)
    assert "cp -a" in str(caught.value.remedy)
    os.utime(root / "b.mp4", (1, 1))
    with pytest.raises(CatalogError, match="changed"):
        catalog.reader(1)
    (root / "b.mp4").unlink()
    with pytest.raises(CatalogError, match="gone"):
        catalog.reader(1)


def test_splits_never_part_a_group() -> None:
    groups = [f"g{i % 40}" for i in range(200)]
    catalog = assign_splits(made(groups), seed=3)
    by_group: dict[str, set[str]] = {}
    for group, split in zip(groups, split_of(catalog), strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(s) == 1 for s in by_group.values())
    assert sorted(split_of(catalog)).count("train") == 120
    assert split_of(catalog) == split_of(assign_splits(made(groups), seed=3))
    assert split_of(catalog) != split_of(assign_splits(made(groups), seed=4))
    assert catalog.meta["splits"] == {"fractions": [0.6, 0.2, 0.2], "seed": 3}


def test_splits_keep_classes_in_proportion() -> None:
    groups = [f"g{i:03}" for i in range(100)]
    labels: list[str | None] = ["rare" if i % 10 == 0 else "common" for i in range(100)]
    splits = split_of(assign_splits(made(groups, labels)))
    for name, count in (("train", 6), ("val", 2), ("test", 2)):
        rare = [s for s, label in zip(splits, labels, strict=True) if label == "rare"]
        assert rare.count(name) == count


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (5, (3, 1, 1))]
)
def test_share_of_few_groups(count: int, expected: tuple[int, int, int]) -> None:
    assert share(count, (0.6, 0.2, 0.2)) == expected
    assert share(count, (0.5, 0.0, 0.5))[1] == 0


def test_impossible_splits() -> None:
    with pytest.raises(ConfigError):
        assign_splits(made(["a", "b", "c"]), (0.5, 0.2, 0.2))
    with pytest.raises(DataError):
        assign_splits(made(["a", "a", "b"]))


def test_written_splits_can_be_selected(tmp_path: Path) -> None:
    assign_splits(made([str(i) for i in range(10)])).save(tmp_path)
    catalog = Catalog.open(tmp_path)
    sizes = {name: len(catalog.select(split=name)) for name in ("train", "val", "test")}
    assert sizes == {"train": 6, "val": 2, "test": 2}
    assert catalog.summary()["splits"] == {"test": 2, "train": 6, "val": 2}


def test_folds_leave_one_value_out() -> None:
    catalog = made(["a", "a", "b", "c"], ["1", "1", "2", None])
    first, second = folds(catalog, "label")
    assert (first.name, first.test.tolist(), first.train.tolist()) == ("1", [0, 1], [2])
    assert (second.name, second.test.tolist(), second.train.tolist()) == ("2", [2], [0, 1])
    assert [f.name for f in folds(catalog, "group")] == ["a", "b", "c"]
    with pytest.raises(DataError, match="two folds") as caught:
        folds(made(["a", "a"], ["1", "2"]), "label")
    assert caught.value.value == "a"
    with pytest.raises(UnknownName):
        folds(catalog, "fold")


def test_open_data_keeps_its_result_outside_of_the_folder(
    films: Films, tmp_path: Path, film_bytes: Callable[..., bytes]
) -> None:
    root = films("a.mp4", "b.mp4")
    before = sorted(root.rglob("*"))
    cache = tmp_path / "cache"
    first = open_data(root, cache=cache)
    assert sorted(root.rglob("*")) == before
    assert first.meta["reused"] == 0
    kept = first.path
    assert kept is not None
    stamp = kept.stat().st_mtime_ns
    assert open_data(root, cache=cache).fingerprint == first.fingerprint
    assert kept.stat().st_mtime_ns == stamp
    (root / "c.mp4").write_bytes(film_bytes(0.8))
    third = open_data(root, cache=cache)
    assert len(third) == 3
    assert third.meta["reused"] == 2
    (root / "labels.csv").write_text("file,label\na.mp4,x\n")
    assert open_data(root, cache=cache).label_column == "label"


def test_open_data_of_files(films: Films, tmp_path: Path) -> None:
    root = films("a.mp4")
    catalog = scan(root, out=tmp_path / "c.arrow")
    catalog.to_parquet(tmp_path / "c.parquet")
    for name in ("c.arrow", "c.parquet"):
        assert open_data(tmp_path / name).fingerprint == catalog.fingerprint
    films("b.mp4")
    (alone,) = [item.path for item in map(open_data(root / "a.mp4").item, range(1))]
    assert alone == "a.mp4"
    assert len(open_data(root / "a.mp4")) == 1
    with pytest.raises(DataError, match="no such"):
        open_data(tmp_path / "none")
