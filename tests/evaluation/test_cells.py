"""A linear classifier on single cells: what it is asked, and what it can know."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rhyme.catalog import Catalog, scan
from rhyme.encoders import BackboneConfig, InferencePlan, build_backbone, save_package
from rhyme.errors import EvaluationError
from rhyme.evaluation import cells, evaluate
from rhyme.evaluation.frames import FrameData
from rhyme.synthetic import APPEARANCES, WorldConfig, plan, write_world
from rhyme.tasks import DenseEncoder

PLAN = InferencePlan(size=48, resize=48)
COLOURS = np.array([[40, 40, 40], [220, 30, 30], [30, 30, 220]], dtype=np.uint8)


def colour_net(stride: int = 4) -> torch.nn.Module:
    """A backbone whose cells see one pixel each: only the middle of its kernels is not zero."""
    config = BackboneConfig(name="small", strides=(stride, 1, 1, 1))
    net = build_backbone(config, seed=0).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv.weight"):
                centre = parameter[:, :, 1, 1].clone()
                parameter.zero_()
                parameter[:, :, 1, 1] = centre
    return net


@pytest.fixture
def coloured(tmp_path) -> Catalog:
    """Pictures whose mask is told by the colour: red of class 1, blue of class 2."""
    rng = np.random.default_rng(0)
    rows = [("path", "split")]
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / "set" / folder / split).mkdir(parents=True)
        for index in range(count):
            ids = np.zeros((40, 48), np.uint8)
            for name in (1, 2):
                top, left = rng.integers(0, 24, 2)
                ids[top : top + 14, left : left + 14] = name
            path = f"{split}/p{index}.png"
            Image.fromarray(COLOURS[ids]).save(tmp_path / "set" / "JPEGImages" / path)
            Image.fromarray(ids).save(tmp_path / "set" / "Annotations" / path)
            rows.append((f"JPEGImages/{path}", split))
    with (tmp_path / "set" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return scan(tmp_path / "set", out=tmp_path / "set.catalog")


def data_of(catalog: Catalog, encoder: torch.nn.Module) -> FrameData:
    splits = np.array([catalog.item(i).split for i in range(len(catalog))])
    train, val, test = (
        catalog.select(indices=np.flatnonzero(splits == name)) for name in ("train", "val", "test")
    )
    return FrameData(encoder=encoder, plan=PLAN, catalog=test, train_items=train, val_items=val)


def test_what_the_colour_tells_is_read_and_nothing_from_a_constant(coloured) -> None:
    settings = cells.Settings(stride=4, ids="classes")
    data = data_of(coloured, colour_net())
    miou, accuracy = cells.run(data, settings)
    assert miou.value == accuracy.value == 1.0
    assert miou.items == 6 * 10 * 12, "all cells of all test pictures"
    assert set(miou.details["per_class"]) == {"background", "class 1", "class 2"}
    assert 0 < miou.chance < 0.34 < accuracy.chance < 1
    blind = colour_net()
    with torch.no_grad():
        blind.get_parameter("layer1.conv.weight").zero_()
    miou, accuracy = cells.run(dataclasses.replace(data, encoder=blind.eval()), settings)
    assert (miou.value, accuracy.value) == (miou.chance, accuracy.chance)


def test_ids_of_objects_are_one_class(coloured) -> None:
    miou = cells.run(data_of(coloured, colour_net()), cells.Settings(stride=4))[0]
    assert set(miou.details["per_class"]) == {"background", "object"}
    assert miou.value == 1.0


def test_cells_are_drawn_by_seed(coloured) -> None:
    data = data_of(coloured, colour_net())
    few = cells.Settings(stride=4, cells=300)
    first = cells._read(
        data, cells.dense_encoder(data.encoder, 4), few, data.train_items, 1, "train"
    )
    again = cells._read(
        data, cells.dense_encoder(data.encoder, 4), few, data.train_items, 1, "train"
    )
    assert len(first.names) == 300
    assert np.array_equal(first.names, again.names)
    other = dataclasses.replace(data, seed=1)
    drawn = cells._read(
        other, cells.dense_encoder(data.encoder, 4), few, data.train_items, 1, "train"
    )
    assert not np.array_equal(first.features, drawn.features)
    told = cells.run(data, few)[0].details
    assert (told["train_cells"], told["val_cells"]) == (300, 100)
    fewer = dataclasses.replace(few, cells=10_000, items=3)
    told = cells.run(data, fewer)[0].details
    assert (told["train_cells"], told["val_cells"]) == (3 * 120, 120), "of three items, and of one"


def test_the_class_of_a_cell_is_that_of_the_pixel_at_its_centre() -> None:
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8)
    dense = DenseEncoder(build_backbone("small", seed=0), "layer4", 2.0, 1.0)
    assert np.array_equal(
        cells._at_centres(ids, torch.zeros(1, 4, 4), dense, (8, 8)), ids[1::2, 1::2]
    )
    half = cells._at_centres(ids, torch.zeros(1, 2, 2), dense, (4, 4))
    assert np.array_equal(half, ids[2::4, 2::4])


def test_overlap_is_counted_by_class() -> None:
    true = np.array([0, 0, 1, 1, 2])
    assert cells.overlaps(np.array([0, 1, 1, 1, 0]), true) == {0: 1 / 3, 1: 2 / 3, 2: 0.0}
    assert cells.overlaps(np.full(5, -1), true) == {0: 0.0, 1: 0.0, 2: 0.0}, "-1 is no class"


def repaint(catalog: Catalog, splits: tuple[str, ...], ids: dict[int, int]) -> None:
    """Other ids in the masks of some splits; the pictures stay as they are."""
    for split in splits:
        for file in Path(catalog.root, "Annotations", split).iterdir():
            mask = np.array(Image.open(file))
            for old, new in ids.items():
                mask[mask == old] = new
            Image.fromarray(mask).save(file)


def test_a_class_that_no_training_cell_shows_has_no_part_and_is_named(coloured) -> None:
    settings = cells.Settings(stride=4, ids="classes")
    data = data_of(coloured, colour_net())
    whole = cells.run(data, settings)[0]
    repaint(coloured, ("test",), {2: 3})
    miou, accuracy = cells.run(data, settings)
    assert set(miou.details["per_class"]) == {"background", "class 1"}
    assert miou.value == np.mean([*miou.details["per_class"].values()]) == 1
    assert accuracy.value == 1
    unseen = miou.details["unseen_classes"]
    assert set(unseen) == {"class 3"}
    assert miou.items == whole.items - unseen["class 3"]
    told = f"classes left out, which no training cell shows: class 3 ({unseen['class 3']} cells)"
    assert miou.notes == accuracy.notes == (told,)
    assert whole.details["unseen_classes"] == {}
    repaint(coloured, ("test",), {0: 4, 1: 5})
    with pytest.raises(EvaluationError, match="no class of the training cells"):
        cells.run(data, settings)


def test_without_a_background_to_learn_a_guess_of_background_is_never_right(coloured) -> None:
    repaint(coloured, ("train", "val"), {0: 1})
    miou, accuracy = cells.run(
        data_of(coloured, colour_net()), cells.Settings(stride=4, ids="classes")
    )
    assert set(miou.details["unseen_classes"]) == {"background"}
    assert miou.chance == accuracy.chance == 0


def test_few_items_and_cells_leave_one_for_validation(coloured) -> None:
    data = data_of(coloured, colour_net())
    few = cells.Settings(stride=4, ids="classes", items=2)
    assert cells.run(data, few)[0].details["val_cells"] == 120
    two = cells.Settings(stride=4, cells=2)
    val = cells._read(data, cells.dense_encoder(data.encoder, 4), two, data.val_items, 3, "val")
    assert len(val.names) == 1


def test_pictures_without_masks_or_of_one_class_are_refused(coloured) -> None:
    data = data_of(coloured, colour_net())
    for file in Path(coloured.root, "Annotations", "val").iterdir():
        file.unlink()
    with pytest.raises(EvaluationError, match="'val'") as caught:
        cells.run(data, cells.Settings(stride=4))
    assert "Annotations" in str(caught.value.remedy)
    for file in Path(coloured.root, "Annotations", "train").iterdir():
        Image.new("L", (48, 40)).save(file)
    fitted = dataclasses.replace(data, val_items=data.train_items)
    with pytest.raises(EvaluationError, match="one class"):
        cells.run(fitted, cells.Settings(stride=4))


def test_a_world_is_judged_by_its_classes_beside_the_untrained_encoder(tmp_path) -> None:
    world = tmp_path / "world"
    write_world(WorldConfig(counts=(16, 6, 8), size=32, frames=4, sound=False, seed=3), world)
    catalog = scan(world, out=tmp_path / "world.catalog")
    save_package(tmp_path / "encoder", build_backbone("small", seed=3), PLAN, card={"seed": 0})
    done = evaluate(
        tmp_path / "encoder",
        catalog,
        protocols=("cells",),
        settings={"cells": {"stride": 4, "l2": [1e-2, 1e-1]}},
        label_column="appearance",
        untrained_seeds=(3, 4),
    )
    assert not done.skipped
    rows = [row for row in done.results if row.metric == "miou"]
    assert [row.encoder for row in rows] == ["trained", "untrained", "untrained"]
    assert rows[0].value == rows[1].value != rows[2].value
    named = rows[0].details["per_class"]
    assert "background" in named
    assert len(named) > 2
    unseen = rows[0].details["unseen_classes"]
    assert rows[0].items + sum(unseen.values()) == 8 * 2 * 8 * 8
    assert not unseen.keys() & named.keys()


def test_each_creature_of_a_scene_has_its_own_class(tmp_path) -> None:
    """Whatever the labels, which are the first creature's and none of the cells' here."""
    world = tmp_path / "scenes"
    config = WorldConfig(
        counts=(12, 6, 6), size=48, frames=4, sound=False, seed=3, creatures=(3, 3)
    )
    write_world(config, world)
    catalog = scan(world, out=tmp_path / "scenes.catalog")
    data = dataclasses.replace(data_of(catalog, colour_net()), label_column="motion")
    miou = cells.run(data, cells.Settings(stride=4, frames=1))[0]
    held_out = [entry.spec(config) for entry in plan(config) if entry.split == "test"]
    named = set(miou.details["per_class"]) - {"background"}
    assert named <= {APPEARANCES[m.appearance] for spec in held_out for m in (spec, *spec.company)}
    assert not named <= {APPEARANCES[spec.appearance] for spec in held_out}
    assert len(named) > 3
