"""Action segmentation as a protocol: a world's phases, and the field's text files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.catalog import scan
from rhyme.encoders import Features, InferencePlan, build_backbone, save_package
from rhyme.errors import DataError, EvaluationError, UnknownName
from rhyme.evaluation import evaluate, group_hashes, segmentation
from rhyme.evaluation.frame_labels import read_bundle, read_frame_labels, read_mapping
from rhyme.evaluation.videos import VideoData
from rhyme.synthetic import PRIMITIVES, WorldConfig, read_truth, write_world
from rhyme.tasks import timelines
from support.tiny_runs import rhyme

PLAN = InferencePlan(size=24, resize=24)
TINY = {"stages": 1, "layers": 3, "maps": 16, "epochs": 2, "every": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of two clips and ten long videos, cut into items of 5 s."""
    folder = tmp_path_factory.mktemp("long") / "world"
    config = WorldConfig(
        counts=(2, 0, 2), untrimmed=10, size=24, sound=False, truth="labels", seed=4
    )
    write_world(config, folder)
    return scan(folder, out=folder.parent / "w.catalog", segment=5.0)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "encoder"
    save_package(folder, build_backbone("small", seed=1), PLAN, card={"system": "made_up"})
    return folder


def tree(folder: Path, world, names: dict[str, list[str]] | None = None) -> Path:
    """The field's layout with four of the world's long videos."""
    videos = [v for v in timelines(world, np.arange(len(world))) if "u" in Path(v.path).stem]
    (folder / "groundTruth").mkdir(parents=True)
    (folder / "splits").mkdir()
    bundles = {"train": [], "test": []}
    for i, video in enumerate(videos[:4]):
        name = f"rgb-0{i}.v1"
        shutil.copy(world.root / video.path, folder / f"{name}.mp4")
        phases = read_truth(world.root, Path(video.path).stem).phases
        lines = [f"act_{p % 2}" for p in phases]
        lines[:7] = ["background"] * 7
        (folder / "groundTruth" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        bundles["train" if i < 3 else "test"].append(f"{name}.txt")
    for part, members in bundles.items():
        (folder / "splits" / f"{part}.split1.bundle").write_text("\n".join(members) + "\n")
    (folder / "mapping.txt").write_text("0 act_1\n1 act_0\n2 background\n")
    return folder


def data_of(catalog, encoder, **changes) -> VideoData:
    rows = np.arange(len(catalog))
    half = rows[: len(rows) // 2]
    given = {"train": half, "test": np.setdiff1d(rows, half), "plan": PLAN}
    return VideoData(encoder=encoder, catalog=catalog, **(given | changes))


def test_trained_beside_untrained_on_the_worlds_phases(world, package) -> None:
    told = []
    done = evaluate(
        package,
        world,
        protocols=("segmentation",),
        settings={"segmentation": TINY},
        untrained_seeds=(0,),
        progress=lambda done, total: told.append((done, total)),
    )
    assert not done.skipped
    found = {(r.metric, r.encoder): r for r in done.results}
    figures = ("accuracy", "edit", "f1_10", "f1_25", "f1_50")
    assert set(found) == {(m, e) for m in figures for e in ("trained", "untrained")}
    row = found["accuracy", "trained"]
    assert row.details["segment_classes"] == list(PRIMITIVES)
    assert row.details["train_videos"] == 6, "clips have no part, and items of a file are joined"
    assert row.details["test_videos"] == found["edit", "trained"].items == 2
    test = [v for v in timelines(world, done.splits.test) if "c" not in Path(v.path).stem]
    assert row.items == sum(len(v) for v in test if len(v) > 16)
    assert 0 < row.chance < 1
    assert row.settings["stages"] == 1
    steps, totals = zip(*told, strict=True)
    assert list(steps) == sorted(steps)
    assert len(set(totals)) == 1
    assert steps[-1] <= totals[0]
    assert steps[-1] > 0.9 * totals[0]


class Knows(nn.Module):
    """An encoder whose part ``knows`` is the frame's red, in which the label is written."""

    def forward(self, frames: torch.Tensor) -> Features:
        red = frames.mean(dim=(2, 3))[:, :1]
        bright = torch.cat([(4 * (red * 8 - i)).sigmoid() for i in range(1, 6)], 1)
        noise = torch.zeros(len(frames), 5)
        return Features(pooled=torch.cat([bright, noise], 1), parts={"knows": bright, "not": noise})


@pytest.fixture
def lit(tmp_path):
    """Frame folders whose brightness is the label."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(8):
        labels = np.repeat(rng.permutation(4)[:3], 12)
        folder = tmp_path / "lit" / f"v{i}"
        folder.mkdir(parents=True)
        for t, label in enumerate(labels):
            frame = np.full((16, 16, 3), 20 + 60 * label, np.uint8)
            Image.fromarray(frame).save(folder / f"{t:04d}.png")
        texts = tmp_path / "lit" / "groundTruth"
        texts.mkdir(exist_ok=True)
        (texts / f"v{i}.txt").write_text("".join(f"class {label}\n" for label in labels))
    return scan(tmp_path / "lit", segment=None, kinds=("frames",))


def test_a_part_that_knows_is_told_from_one_that_does_not(lit) -> None:
    plan = InferencePlan(size=16, resize=16, mean=(0, 0, 0), std=(1, 1, 1))
    settings = segmentation.Settings(stages=1, layers=2, maps=16, epochs=15, lr=1e-2)
    data = data_of(lit, Knows().eval(), plan=plan)
    found = {m.name: m for m in segmentation.run(data, settings)}
    assert found["accuracy@knows"].value > 0.95
    assert found["f1_50@knows"].value > 0.9
    assert found["accuracy"].value > 0.95
    assert found["accuracy@not"].value < 0.6
    assert found["accuracy@not"].details["dim"] == 5
    assert found["accuracy@knows"].details["segment_classes"] == [f"class {i}" for i in range(4)]
    one = segmentation.run(data, segmentation.Settings(parts=("knows",), epochs=1, stages=1))
    assert [m.name for m in one][:2] == ["accuracy@knows", "edit@knows"]
    with pytest.raises(UnknownName, match="no part 'nows'"):
        segmentation.run(data, segmentation.Settings(parts=("nows",)))


def test_the_fields_layout(world, tmp_path) -> None:
    folder = tree(tmp_path / "set", world)
    catalog = scan(folder, segment=6.0)
    assert len(catalog) > 4
    videos = timelines(catalog, np.arange(len(catalog)))
    labels = read_frame_labels(catalog, videos)
    assert labels.classes == ("act_1", "act_0", "background")
    assert not labels.skipped
    for video in videos:
        lines = (folder / "groundTruth" / f"{Path(video.path).stem}.txt").read_text().split()
        assert [labels.classes[c] for c in labels.codes[video.path]] == lines
    encoder = build_backbone("small", seed=0).eval()
    settings = segmentation.Settings(**TINY, bundle=1)
    found = {m.name: m for m in segmentation.run(data_of(catalog, encoder), settings)}
    details = found["accuracy"].details
    assert (details["train_videos"], details["test_videos"]) == (3, 1)
    segments = details["segments_true"]
    counted = segmentation.Settings(**TINY, bundle=1, background=())
    again = segmentation.run(data_of(catalog, encoder), counted)[0]
    assert again.details["segments_true"] == segments + 1, "the background is left out"
    assert again.value == found["accuracy"].value
    group = catalog.item(len(catalog) - 1).group
    with pytest.raises(EvaluationError, match="trained on 1 groups"):
        segmentation.run(data_of(catalog, encoder, seen=frozenset([group])), settings)
    with pytest.raises(EvaluationError, match="no such split") as caught:
        segmentation.run(data_of(catalog, encoder), segmentation.Settings(bundle=2))
    assert "test.split1.bundle" in str(caught.value.remedy)
    assert read_bundle(folder, "test", 1) == {"rgb-03.v1"}


def test_videos_of_a_bundle_that_have_no_part_are_told(world, tmp_path) -> None:
    folder = tree(tmp_path / "set", world)
    shutil.copy(folder / "rgb-02.v1.mp4", folder / "rgb-04.v1.mp4")
    with (folder / "splits/test.split1.bundle").open("a") as file:
        file.write("gone-1.txt\nrgb-04.v1.txt\ngone-2.txt\n")
    (folder / "groundTruth/rgb-01.v1.txt").write_text("")
    package = tmp_path / "encoder"
    save_package(package, build_backbone("small", seed=1), PLAN)
    done = evaluate(
        package, scan(folder), protocols=("segmentation",), untrained_seeds=(),
        settings={"segmentation": {**TINY, "bundle": 1}},
    )  # fmt: skip
    assert [note for note in done.notes if note.startswith("segmentation")] == [
        "segmentation: 1 of 3 train videos of the bundle was left out, e.g. rgb-01.v1.mp4: "
        "a label is missing: every line names the label of one frame",
        "segmentation: 3 of 4 test videos of the bundle were left out, e.g. gone-1: no such video "
        "in the collection",
    ]
    for row in done.results:
        assert row.details["left_out"] == 4
        assert row.details["skipped"]["rgb-04.v1.mp4"] == "no labels of its frames"
        assert row.details["skipped"]["gone-2"] == "no such video in the collection"


def test_an_asset_names_the_labels(world, tmp_path) -> None:
    folder = tree(tmp_path / "set", world)
    (folder / "groundTruth").rename(folder / "mine")
    rows = [f"{p.name},mine/{p.stem}.txt" for p in sorted(folder.glob("*.mp4"))]
    (folder / "labels.csv").write_text("path,asset_frame_labels\n" + "\n".join(rows) + "\n")
    catalog = scan(folder)
    videos = timelines(catalog, np.arange(len(catalog)))
    assert len(read_frame_labels(catalog, videos).codes) == 4
    text = (folder / "labels.csv").read_text().replace("mine/rgb-00", "../rgb-00")
    (folder / "labels.csv").write_text(text)
    catalog = scan(folder)
    skipped = read_frame_labels(catalog, timelines(catalog, np.arange(len(catalog)))).skipped
    assert list(skipped.values()) == ["the labels lie outside of the collection"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t.write_text(t.read_text()[: len(t.read_text()) // 2]), "labels for"),
        (lambda t: t.write_text(t.read_text().replace("act_1", "act_9")), "mapping.txt"),
        (lambda t: t.write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda t: t.write_text(t.read_text().replace("act_0", "", 1)), "a label is missing"),
        (lambda t: t.write_text(""), "a label is missing"),
    ],
)
def test_labels_that_cannot_be_used_are_told(world, tmp_path, damage, says) -> None:
    folder = tree(tmp_path / "set", world)
    damage(folder / "groundTruth" / "rgb-03.v1.txt")
    catalog = scan(folder)
    labels = read_frame_labels(catalog, timelines(catalog, np.arange(len(catalog))))
    assert set(labels.skipped) == {"rgb-03.v1.mp4"}
    assert says in labels.skipped["rgb-03.v1.mp4"]
    with pytest.raises(EvaluationError, match="'test' has frame labels") as caught:
        segmentation.run(
            data_of(catalog, build_backbone("small", seed=0).eval()),
            segmentation.Settings(**TINY, bundle=1),
        )
    assert says in str(caught.value)


def test_a_little_more_or_less_is_cut(world, tmp_path) -> None:
    folder = tree(tmp_path / "set", world)
    path = folder / "groundTruth" / "rgb-00.v1.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    catalog = scan(folder)
    found = read_frame_labels(catalog, timelines(catalog, np.arange(len(catalog))))
    assert found.codes["rgb-00.v1.mp4"][-2:].tolist()[1] == -1
    assert (found.codes["rgb-00.v1.mp4"][:-1] >= 0).all()


def test_a_damaged_mapping_is_named(tmp_path) -> None:
    path = tmp_path / "mapping.txt"
    for text, says in (("0 a\n0 b\n", "line 2"), ("0 a\n2 b\n", "0, 1, 2"), ("zero a\n", "line 1")):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read_mapping(path)


def test_from_the_command_line(world, package, tmp_path) -> None:
    flags = [w for k, v in TINY.items() for w in (f"--segmentation.{k}", v)]
    done = rhyme(
        "evaluate", package, "--data", world.root, "--protocol", "segmentation", *flags, "--json"
    )
    assert done.code == 0, done.err
    rows = done.document["results"]
    assert {r["metric"] for r in rows} >= {"accuracy", "edit", "f1_50"}
    assert len({r["encoder"] for r in rows}) >= 2
    clips = tmp_path / "clips"
    write_world(
        WorldConfig(counts=(4, 2, 2), size=24, frames=8, sound=False, truth="labels"), clips
    )
    done = rhyme("evaluate", package, "--data", clips, "--protocol", "segmentation", "--json")
    assert done.code == 1, "nothing was measured"
    assert "untrimmed" in done.err


def test_groups_seen_in_training_reach_the_bundle(world, tmp_path) -> None:
    folder = tree(tmp_path / "set", world)
    catalog = scan(folder)
    group = next(
        catalog.item(i).group for i in range(len(catalog)) if "rgb-03" in catalog.item(i).path
    )
    split = ["test" if "rgb-00" in catalog.item(i).path else "train" for i in range(len(catalog))]
    package = tmp_path / "encoder"
    save_package(
        package, build_backbone("small", seed=1), PLAN,
        extra={"train_groups": group_hashes([group])},
    )  # fmt: skip
    done = evaluate(
        package, catalog.with_splits(split), protocols=("segmentation",), untrained_seeds=(),
        settings={"segmentation": {**TINY, "bundle": 1}},
    )  # fmt: skip
    assert "trained on 1 groups" in done.skipped["segmentation"]
