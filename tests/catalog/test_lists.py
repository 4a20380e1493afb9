"""Official lists of data sets, on tiny trees of the same form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rhyme.api import DataOptions
from rhyme.api.data import read_source
from rhyme.catalog import Catalog, official_lists, open_data, scan
from rhyme.errors import CatalogError, ConfigError, UnknownName

Films = Callable[..., Path]

CLASSES = ("Archery", "BandMarching")


def ucf_names(groups: range, clips: int = 2) -> list[str]:
    return [f"{c}/v_{c}_g{g:02}_c{k:02}.avi" for c in CLASSES for g in groups
            for k in range(1, clips + 1)]  # fmt: skip


@pytest.fixture
def ucf_lists(tmp_path: Path) -> Path:
    """Groups 1 to 3 test in split 1 and 4 to 5 train; split 2 turns that round."""
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Archery\r\n2 BandMarching\r\n")
    low, high = ucf_names(range(1, 4)), ucf_names(range(4, 6))
    for number, train, test in ((1, high, low), (2, low, high)):
        lines = [f"{n} {CLASSES.index(n.split('/')[0]) + 1}" for n in train]
        (folder / f"trainlist{number:02}.txt").write_text("\n".join(lines) + "\n")
        (folder / f"testlist{number:02}.txt").write_text("\r\n".join(test) + "\r\n")
    return folder


def splits(catalog: Catalog) -> dict[str, str | None]:
    paths = catalog.table.column("path").to_pylist()
    return dict(zip(paths, catalog.splits, strict=True))


def test_ucf101(films: Films, ucf_lists: Path) -> None:
    root = films(*ucf_names(range(1, 6)), "Archery/extra.avi")
    catalog = scan(root, labels=f"ucf101:{ucf_lists}", split_number=1)
    found = splits(catalog)
    assert found["Archery/v_Archery_g01_c01.avi"] == "test"
    assert found["BandMarching/v_BandMarching_g05_c02.avi"] == "train"
    assert found["Archery/extra.avi"] is None
    codes, names = catalog.labels()
    assert names == list(CLASSES)
    assert codes.tolist() == [-1] + [0] * 10 + [1] * 10
    assert sorted(set(catalog.group_names))[:3] == [
        "Archery/extra.avi",
        "Archery_g01",
        "Archery_g02",
    ]
    assert len(set(catalog.group_names)) == 11
    assert len(catalog.quarantine) == 0
    assert catalog.meta["lists"] == {
        "form": "ucf101",
        "title": "UCF101",
        "split_number": 1,
        "splits": 3,
        "listed": 20,
        "missing": 0,
    }
    assert splits(scan(root, labels=f"ucf101:{ucf_lists}", split_number=2))[
        "Archery/v_Archery_g01_c01.avi"
    ] == "train"  # fmt: skip


def test_converted_flat_and_missing_videos(films: Films, ucf_lists: Path) -> None:
    """Found by name, whatever folder and suffix; what is not there is counted and named."""
    names = ucf_names(range(1, 6))
    root = films(*(f"all/{Path(n).stem}.mp4" for n in names[3:]))
    catalog = scan(root, labels=f"ucf101:{ucf_lists}")
    assert len(catalog) == 17
    assert catalog.labels()[1] == list(CLASSES)
    assert catalog.meta["lists"]["missing"] == 3
    bad = catalog.quarantine.to_pylist()
    assert [row["path"] for row in bad] == [n.removesuffix(".avi") for n in names[:3]]
    assert bad[0]["reason"] == "FileMissing: named in testlist01.txt line 1, not there"


def test_one_scan_serves_all_splits(films: Films, ucf_lists: Path, tmp_path: Path) -> None:
    root = films(*ucf_names(range(1, 6)))
    plain = scan(root, out=tmp_path / "plain.arrow")
    done = read_source(tmp_path / "plain.arrow",
                       DataOptions(labels=f"ucf101:{ucf_lists}", split_number=2))  # fmt: skip
    straight = scan(root, labels=f"ucf101:{ucf_lists}", split_number=2)
    assert done.splits == straight.splits
    assert done.group_names == straight.group_names
    assert done.labels()[0].tolist() == straight.labels()[0].tolist()
    assert done.meta["lists"] == straight.meta["lists"]
    assert done.fingerprint == straight.fingerprint
    assert plain.group_names != done.group_names
    saved = done.save(tmp_path / "two.arrow")
    assert saved.splits == done.splits
    assert saved.group_codes.tolist() == straight.group_codes.tolist()


def test_lists_that_change_are_read_again(films: Films, ucf_lists: Path, tmp_path: Path) -> None:
    root = films(*ucf_names(range(1, 6)))
    told = {"labels": f"ucf101:{ucf_lists}", "split_number": 1}
    first = open_data(root, cache=tmp_path / "cache", **told)
    for name in ("trainlist01.txt", "testlist01.txt"):
        (ucf_lists / name).write_text((ucf_lists / name.replace("1", "2")).read_text())
    again = open_data(root, cache=tmp_path / "cache", **told)
    assert first.splits != again.splits


def test_whole_videos(films: Films, ucf_lists: Path) -> None:
    root = films(*ucf_names(range(1, 6), clips=1), seconds=2.0)
    for name in ("trainlist01.txt", "testlist01.txt"):
        text = (ucf_lists / name).read_text().splitlines()
        (ucf_lists / name).write_text("\n".join(line for line in text if "_c01" in line))
    options = DataOptions(labels=f"ucf101:{ucf_lists}")
    assert len(read_source(root, options)) == 10
    assert len(read_source(root, DataOptions(labels=options.labels, segment=1.0))) == 20


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("trainlist01.txt", "Archery/Archery_g04.avi 1", "not of the form"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi 2", "does not agree"),
        ("trainlist01.txt", "Rowing/v_Rowing_g09_c01.avi 1", "does not agree"),
        ("trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1", "second time"),
        ("classInd.txt", "Archery", "not of the form"),
    ],
)
def test_damaged_lists(films: Films, ucf_lists: Path, file: str, line: str, message: str) -> None:
    root = films(*ucf_names(range(1, 6)))
    with (ucf_lists / file).open("a") as out:
        out.write(line + "\n")
    with pytest.raises(CatalogError, match=message) as caught:
        scan(root, labels=f"ucf101:{ucf_lists}")
    assert "line" in caught.value.cause
    assert caught.value.remedy


def test_wrong_lists(films: Films, ucf_lists: Path, tmp_path: Path) -> None:
    root = films("a.mp4", "b.mp4")
    with pytest.raises(CatalogError, match="none of the 20 videos"):
        scan(root, labels=f"ucf101:{ucf_lists}")
    with pytest.raises(CatalogError, match="no such list"):
        scan(root, labels=f"ucf101:{ucf_lists}", split_number=3)
    with pytest.raises(CatalogError, match="no such lists of UCF101"):
        scan(root, labels=f"ucf101:{tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match="splits 1 to 3"):
        scan(root, labels=f"ucf101:{ucf_lists}", split_number=4)
    with pytest.raises(ConfigError, match="one split"):
        official_lists("kinetics:x", 2)
    with pytest.raises(ConfigError, match="belongs to official lists"):
        scan(root, split_number=1)
    with pytest.raises(ConfigError, match="no columns"):
        scan(root, labels=f"ucf101:{ucf_lists}", label_column="x")
    with pytest.raises(UnknownName, match="'ucf10'") as caught:
        scan(root, labels=f"ucf10:{ucf_lists}")
    assert "ucf101" in caught.value.remedy
    assert official_lists("tables/labels.csv", None) is None
    twice = films("Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c01.mp4")
    with pytest.raises(CatalogError, match="two files"):
        scan(twice, labels=f"ucf101:{ucf_lists}")


def test_hmdb51(films: Films, tmp_path: Path) -> None:
    """0 is no part of the split; a film that some split tears apart is no source."""
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    name = "{}_{}_f_cm_np1_fr_med_{}.avi".format
    walk = {name("Jaws", "walk", 0): "121", name("Jaws", "walk", 1): "121",
            name("Alien", "walk", 0): "212", name("Alien", "walk", 1): "020",
            name("Torn", "walk", 0): "101", name("Torn", "walk", 1): "221"}  # fmt: skip
    hug = {name("Jaws", "hug", 0): "211", "odd name (1).avi": "112"}
    for label, marks in (("walk", walk), ("hug", hug)):
        for k in range(3):
            lines = [f"{file} {mark[k]} " for file, mark in marks.items()]
            (lists / f"{label}_test_split{k + 1}.txt").write_text("\n".join(lines) + "\n")
    root = films(*(f"walk/{n}" for n in walk), *(f"hug/{n}" for n in hug))
    catalog = scan(root, labels=f"hmdb51:{lists}", split_number=1)
    found = splits(catalog)
    assert found[f"walk/{name('Jaws', 'walk', 0)}"] == "train"
    assert found[f"walk/{name('Alien', 'walk', 0)}"] == "test"
    assert found[f"walk/{name('Alien', 'walk', 1)}"] is None
    groups = dict(zip(found, catalog.group_names, strict=True))
    assert groups[f"walk/{name('Jaws', 'walk', 0)}"] == groups[f"walk/{name('Jaws', 'walk', 1)}"]
    assert groups[f"walk/{name('Jaws', 'walk', 0)}"] != groups[f"hug/{name('Jaws', 'hug', 0)}"]
    torn = [groups[f"walk/{name('Torn', 'walk', k)}"] for k in (0, 1)]
    assert torn == [f"walk/{name('Torn', 'walk', k)}" for k in (0, 1)]
    assert scan(root, labels=f"hmdb51:{lists}", split_number=2).group_names == catalog.group_names
    with pytest.raises(CatalogError, match="no list is called"):
        scan(root, labels=f"hmdb51:{tmp_path}")
    (lists / "walk_test_split1.txt").write_text("Jaws.avi 3\n")
    with pytest.raises(CatalogError, match=r"walk_test_split1\.txt line 1"):
        scan(root, labels=f"hmdb51:{lists}")


def test_kinetics(films: Films, tmp_path: Path) -> None:
    lists = tmp_path / "k400"
    lists.mkdir()
    head = "label,youtube_id,time_start,time_end,split\n"
    (lists / "train.csv").write_text(
        head + 'abseiling,aaaaaaaaaaa,1,11,train\n"air, drumming",bbbbbbbbbbb,20,30,train\n'
        "abseiling,ddddddddddd,0,10,train\n"
    )
    (lists / "val.csv").write_text(head + "abseiling,-ccccccccc_,5,15,validate\n")
    root = films(
        "abseiling/aaaaaaaaaaa_000001_000011.mp4",
        "air drumming/bbbbbbbbbbb_000020_000030.mp4",
        "x/-ccccccccc_.mp4",
    )
    catalog = scan(root, labels=f"kinetics:{lists}")
    assert list(splits(catalog).values()) == ["train", "train", "test"]
    assert catalog.item(1).labels["label"] == "air, drumming"
    assert catalog.group_names == ["aaaaaaaaaaa", "bbbbbbbbbbb", "-ccccccccc_"]
    assert [r["path"] for r in catalog.quarantine.to_pylist()] == ["ddddddddddd_000000_000010"]
    (lists / "test.csv").write_text(head + "abseiling,aaaaaaaaaaa,40,50,test\n")
    three = scan(root, labels=f"kinetics:{lists}")
    assert list(splits(three).values())[1:] == ["train", "val"]
    (lists / "test.csv").write_text(head + "abseiling,aaaaaaaaaaa,50,40,test\n")
    with pytest.raises(CatalogError, match=r"test\.csv line 2"):
        scan(root, labels=f"kinetics:{lists}")
    (lists / "test.csv").write_text("label,youtube_id,split\n")
    with pytest.raises(CatalogError, match="no column time_end, time_start"):
        scan(root, labels=f"kinetics:{lists}")


def test_something_something(films: Films, tmp_path: Path) -> None:
    lists = tmp_path / "ssv2"
    lists.mkdir()
    prefix = "something-something-v2-"
    rows = {
        "train": [{"id": "1", "label": "holding a cup", "template": "Holding [something]"}],
        "validation": [{"id": "2", "template": "Moving [part] of [something]"}],
        "test": [{"id": "3"}],
    }
    for part, told in rows.items():
        (lists / f"{prefix}{part}.json").write_text(json.dumps(told))
    (lists / f"{prefix}labels.json").write_text(json.dumps({"Holding something": "0"}))
    catalog = scan(films("1.webm", "2.webm", "3.webm"), labels=f"something:{lists}")
    assert catalog.splits == ["train", "test", None], "the test part brings no labels"
    assert [catalog.item(i).labels["label"] for i in range(3)] == [
        "Holding something",
        "Moving part of something",
        None,
    ]
    (lists / f"{prefix}train.json").write_text("{}")
    with pytest.raises(CatalogError, match="JSON list"):
        scan(films("1.webm"), labels=f"something:{lists}")
