"""Real pictures: CIFAR-10 from its zip files, trained on, judged with few labels, and prepared."""

from __future__ import annotations

import io
import math
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.pictures import cut_pictures
from rhyme import api
from rhyme.catalog import Catalog
from rhyme.run import read_jsonl
from support.tiny_runs import flags, rhyme

REDUCED = {
    "train.steps": 3,
    "train.batch_size": 32,
    "train.schedule.warmup_steps": 0,
    "train.log_every": 1,
    "model.backbone.widths": "[8, 8, 16, 16]",
}


@pytest.fixture(scope="module")
def pictures(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and four test pictures of each class, in zip files as the source has them."""
    source = real_data / "images" / "cifar10"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    return cut_pictures(source, tmp_path_factory.mktemp("small") / "cifar", train=12, test=4)


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as WebDataset shards: no folders, the class of each in a member beside."""
    root = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 2), ("test", 1)):
        with zipfile.ZipFile(pictures / f"{split}.zip") as whole:
            names = sorted(whole.namelist(), key=lambda name: Path(name).stem)
            for shard in range(count):
                with tarfile.open(root / f"{split}-{shard:06}.tar", "w:") as made:
                    for name in names[shard::count]:
                        key = "-".join(Path(name).with_suffix("").parts)
                        pack(made, f"{key}.jpg", whole.read(name))
                        pack(made, f"{key}.cls", Path(name).parent.name.encode())
    return root


def pack(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "simclr"
    arguments = ("--data", pictures, "--out", out, "--json", *flags(REDUCED))
    done = rhyme("train", "simclr_cifar10_cpu", *arguments)
    assert done.code == 0, done.err
    return out


def test_a_run_takes_the_split_and_the_classes_of_the_folders(run: Path) -> None:
    catalog = Catalog.open(run / "catalog.arrow")
    assert set(catalog.split_names) == {"train", "test"}
    assert len(catalog.labels()[1]) == 10
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    plan = api.load(run).package.plan
    assert (plan.size, plan.resize) == (32, 32), "small pictures are judged whole"
    assert (plan.mean, plan.std) == ((0.0,) * 3, (1.0,) * 3)


def test_few_labels_from_the_command_line(run: Path) -> None:
    few = {"fractions": "[0.5]", "epochs": "[1]", "batch_size": 16}
    options = flags({f"semi_supervised.{name}": value for name, value in few.items()})
    done = rhyme(
        "evaluate", run, "--protocol", "knn,semi_supervised", "--heads", "z", *options, "--json"
    )
    assert done.code == 0, done.err
    figures = {(r["protocol"], r["metric"]) for r in done.document["results"]}
    assert {("knn", "top1"), ("knn", "top1@z"), ("semi_supervised", "top1_50pct")} <= figures
    rows = [r for r in done.document["results"] if r["metric"] == "top1_50pct"]
    assert [r["encoder"] for r in rows] == ["trained"] + ["untrained"] * 3
    labels = rows[0]["details"]["labels"]
    assert (labels["a_class"], labels["items"]) == (5, len(labels["ids"]))
    assert rows[0]["items"] == 40
    assert all(r["settings"]["batch_size"] == 16 for r in rows)


def test_a_picture_of_an_archive_can_be_asked_for(
    pictures: Path, run: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = rhyme("embed", run, "--data", pictures, "--store", store, "--json")
    assert done.code == 0, done.err
    asked = f"{pictures}/test.zip!/test/cat/0001.jpg"
    done = rhyme("search", store, "--query", asked, "-k", "3", "--json")
    assert done.code == 0, done.err
    assert len(done.document["hits"]) == 3
    assert all("!/" in hit["path"] for hit in done.document["hits"])
    done = rhyme("search", store, "--query", f"{pictures}/test.zip!/none.jpg", "--json")
    assert done.code == 1
    assert "no such picture" in done.err


def test_wrong_settings_of_protocols_are_refused(run: Path) -> None:
    done = rhyme("evaluate", run, "--protocol", "finetune", "--finetune.epoch", "3")
    assert done.code == 2
    assert "epochs" in done.err
    done = rhyme("evaluate", run, "--protocol", "knn", "--fintune.epochs", "3")
    assert done.code == 2
    assert "finetune" in done.err
    done = rhyme("evaluate", run, "--heads", "m")
    assert done.code == 2
    assert "known: z" in done.err


def test_archives_become_shards_with_the_same_items(pictures: Path, tmp_path: Path) -> None:
    here = ("--workers", "0", "--json")
    done = rhyme("prepare", pictures, "--out", tmp_path / "shards", "--size", "32", *here)
    assert done.code == 0, done.err
    source, shards = api.read_data(pictures), api.read_data(tmp_path / "shards")
    assert source.fingerprint == shards.fingerprint
    assert shards.reader(3).frames_at([0.0]).shape == (1, 3, 32, 32)


def test_densecl_trains_on_real_pictures_from_shards(
    pictures: Path, shards: Path, tmp_path: Path
) -> None:
    """Of the shards come the same pictures, classes and splits as of the folders in the zips."""
    zips, tars = api.read_data(pictures), api.read_data(shards)
    for catalog in (zips, tars):
        assert catalog.summary()["splits"] == {"train": 120, "test": 40}
        assert catalog.summary()["labels"] == {"label": 10}
    places = {zips.item(i).path.split("!/")[1].replace("/", "-"): i for i in range(len(zips))}
    for row in range(0, len(tars), 7):
        there = tars.item(row)
        same = places[there.path.split("!/")[1]]
        assert zips.item(same).labels == there.labels
        assert zips.item(same).split == there.split
        frames = (catalog.reader(i).frames_at([0.0]) for catalog, i in ((zips, same), (tars, row)))
        assert torch.equal(*frames)
    changes = {
        "train.steps": 2,
        "train.batch_size": 16,
        "train.schedule.warmup_steps": 0,
        "train.log_every": 1,
        "model.queue": 64,
        "model.dense_queue": 64,
    }
    out = tmp_path / "dense"
    done = rhyme("train", "densecl", "--data", shards, "--out", out, "--json", *flags(changes))
    assert done.code == 0, done.err
    rows = [row for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert all(row["parts"]["dense"] > 0 for row in rows)
    assert all(0 < row["diagnostics"]["dense/true_match"] < 1 for row in rows)
    assert {"m", "dense"} == set(api.load(out).package.heads)
    judged = rhyme("evaluate", out, "--protocol", "knn", "--json")
    assert judged.code == 0, judged.err
    knn = [r for r in judged.document["results"] if (r["protocol"], r["metric"]) == ("knn", "top1")]
    assert (knn[0]["items"], knn[0]["chance"]) == (40, pytest.approx(0.1))


def test_a_broken_archive_beside_good_ones_is_named(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in ("train.zip", "test.zip"):
        (root / name).write_bytes((pictures / name).read_bytes())
    (root / "more.zip").write_bytes((pictures / "train.zip").read_bytes()[:-40])
    with zipfile.ZipFile(root / "test.zip", "a") as file:
        file.writestr("test/cat/broken.jpg", b"words")
    done = rhyme("scan", root, "--out", tmp_path / "c.arrow", "--workers", "0", "--json")
    assert done.code == 3
    assert done.document["facts"]["items"] == 160
    assert {row["path"] for row in done.document["quarantine"]} == {
        "more.zip",
        "test.zip!/test/cat/broken.jpg",
    }


def test_pictures_of_a_thousand_classes_can_be_trained_on(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "images" / "imagenet_1000x1_short128"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    changes = {
        "train.steps": 2,
        "train.batch_size": 8,
        "train.schedule.warmup_steps": 0,
        "model.transform.size": 32,
        "model.queue": 64,
        "data.cache_frames": "null",
        "data.cache_size": "null",
    }
    for system in ("simclr", "moco"):
        own = {k: v for k, v in changes.items() if k != "model.queue" or system == "moco"}
        out = tmp_path / system
        done = rhyme("train", system, "--data", source, "--out", out, "--json", *flags(own))
        assert done.code == 0, done.err
        assert done.document["steps"] == 2
