"""Protocols that look at places: correspondence under known geometry, and propagated masks."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rhyme import api
from rhyme.catalog import scan
from rhyme.encoders import BackboneConfig, InferencePlan, build_backbone, save_package
from rhyme.errors import DataError, EvaluationError
from rhyme.evaluation import correspondence, evaluate, propagation
from rhyme.evaluation.frames import FrameData
from rhyme.evaluation.truth_masks import mask_path, read_masks
from rhyme.synthetic import WorldConfig, read_truth, write_world
from rhyme.tasks import region_similarity

PLAN = InferencePlan(size=48, resize=48)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A generated world with masks, and its catalog."""
    folder = tmp_path_factory.mktemp("masked") / "world"
    write_world(WorldConfig(counts=(6, 3, 4), size=48, frames=6, sound=False, seed=5), folder)
    return scan(folder, out=folder.parent / "world.catalog")


def pixel_net() -> torch.nn.Module:
    """A backbone whose cells are the colours of single pixels, where it has stride 1."""
    net = build_backbone(BackboneConfig(name="small", strides=(1, 1, 1, 1)), seed=0).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv.weight"):
                centre = parameter[:, :, 1, 1].clone()
                parameter.zero_()
                parameter[:, :, 1, 1] = centre
    return net


def data_of(catalog, encoder=None, **changes) -> FrameData:
    encoder = build_backbone("small", seed=0).eval() if encoder is None else encoder
    return FrameData(encoder=encoder, plan=PLAN, catalog=catalog, **changes)


def figures(metrics) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def davis(folder: Path, frames: list[np.ndarray], masks: list[np.ndarray], mode: str = "P") -> None:
    """A sequence in DAVIS's layout."""
    for sub in ("JPEGImages/480p/cow", "Annotations/480p/cow"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for i, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        Image.fromarray(frame).save(folder / f"JPEGImages/480p/cow/{i:05d}.jpg", quality=95)
        picture = Image.fromarray(mask)
        if mode == "P":
            picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [90] * 759)
        picture.convert(mode).save(folder / f"Annotations/480p/cow/{i:05d}.png")


@pytest.fixture
def still(tmp_path):
    """Five equal frames of noise with two objects and a void pixel."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
    frame = np.asarray(Image.fromarray(frame[::4, ::4]).resize((56, 40), Image.Resampling.NEAREST))
    mask = np.zeros((40, 56), dtype=np.uint8)
    mask[8:24, 8:24], mask[16:32, 32:48], mask[0, 0] = 1, 2, 255
    davis(tmp_path / "d", [frame] * 5, [mask] * 5)
    return scan(tmp_path / "d", out=tmp_path / "d.catalog"), mask


def test_a_still_video_keeps_its_masks(still) -> None:
    catalog, _ = still
    for preset in ("vfs", "vfs-r50", "videowalk"):
        settings = propagation.Settings(preset=preset, stride=4, k=1)
        found = propagation.run(data_of(catalog), settings)
        assert [m.name for m in found] == ["j_and_f", "j", "f"]
        assert figures(found)["j"] > 0.8, "what the grid of cells loses"
        assert [m.items for m in found] == [2, 2, 2], "objects are counted, not videos"
        assert [m.chance for m in found] == [1, 1, 1], "nothing moves"
        assert found[0].value == pytest.approx((found[1].value + found[2].value) / 2)
        assert set(found[0].details["objects"]) == {
            "JPEGImages/480p/cow#1",
            "JPEGImages/480p/cow#2",
        }


def test_masks_of_all_layouts_are_read(still, masked, tmp_path) -> None:
    catalog, mask = still
    ids = read_masks(catalog, catalog.item(0)).ids
    assert ids.shape == (5, 40, 56)
    assert ids[0, 0, 0] == 0, "void becomes background"
    assert np.array_equal(ids[0] == 2, mask == 2)
    assert mask_path("a/JPEGImages/480p/cow/00001.jpg") == "a/Annotations/480p/cow/00001.png"
    assert mask_path("frames/cow/00001.jpg") is None
    item = masked.item(0)
    world = read_masks(masked, item).ids
    assert np.array_equal(world > 0, read_truth(masked.root, Path(item.path).stem).masks)
    two = np.where(mask == 1, 255, 0).astype(np.uint8)
    davis(tmp_path / "bw", [np.zeros((40, 56, 3), np.uint8)] * 2, [two] * 2, mode="L")
    catalog = scan(tmp_path / "bw", out=tmp_path / "bw.catalog")
    assert np.array_equal(read_masks(catalog, catalog.item(0)).ids[0], mask == 1)


def test_what_two_levels_mean_is_decided_over_all_masks_of_an_item(tmp_path) -> None:
    """A frame of a gray sequence that shows void alone has no object; black and white has one."""
    frame = np.zeros((40, 56, 3), np.uint8)
    ids = np.zeros((40, 56), np.uint8)
    ids[8:24, 8:24], ids[16:32, 32:48], ids[:4] = 1, 2, 255
    void = np.where(ids == 255, ids, 0)
    white = np.where(ids == 1, 255, 0).astype(np.uint8)

    def read(name: str, masks: list[np.ndarray]) -> np.ndarray:
        davis(tmp_path / name, [frame] * len(masks), masks, mode="L")
        catalog = scan(tmp_path / name, out=tmp_path / f"{name}.catalog")
        return read_masks(catalog, catalog.item(0)).ids

    found = read("gray", [ids, void, void * 0])
    assert [np.unique(mask).tolist() for mask in found] == [[0, 1, 2], [0], [0]]
    found = read("white", [white, white * 0, white])
    assert [np.unique(mask).tolist() for mask in found] == [[0, 1], [0], [0, 1]]
    # a picture of one bit means black and white too, whatever form its neighbours were stored in
    path = tmp_path / "white/Annotations/480p/cow/00000.png"
    Image.fromarray(white).convert("1").save(path)
    catalog = scan(tmp_path / "white", out=tmp_path / "white.catalog")
    assert np.array_equal(read_masks(catalog, catalog.item(0)).ids, found)


@pytest.mark.parametrize("damage", ["cut", "colour", "size", "gone"])
def test_masks_that_cannot_be_used_are_named(still, damage) -> None:
    catalog, mask = still
    path = catalog.root / "Annotations/480p/cow/00003.png"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif damage == "colour":
        Image.fromarray(np.stack([mask] * 3, 2)).save(path)
    elif damage == "size":
        Image.fromarray(mask[:20]).save(path)
    else:
        path.unlink()
    with pytest.raises(DataError) as caught:
        read_masks(catalog, catalog.item(0))
    assert "00003.png" in str(caught.value)
    with pytest.raises(EvaluationError, match="no item has masks") as caught:
        propagation.run(data_of(catalog), propagation.Settings())
    assert "JPEGImages" in str(caught.value.remedy)


def test_the_ends_are_left_out_and_scores_are_those_of_the_predicted_masks(masked) -> None:
    data = data_of(masked.select(indices=np.array([0])))
    settings = propagation.Settings(stride=4)
    found = propagation.run(data, settings)
    item = data.catalog.item(0)
    truth = read_masks(masked, item).ids
    encoder = propagation.dense_encoder(data.encoder, 4)
    predicted = propagation._carried(
        data, encoder, settings.rule(), data.all_frames(0), truth[0], None
    )
    assert np.array_equal(predicted[0], truth[0])
    values = region_similarity(predicted > 0, truth > 0)
    assert figures(found)["j"] == pytest.approx(values[1:-1].mean())
    still = region_similarity(np.broadcast_to(truth[:1], truth.shape) > 0, truth > 0)
    assert found[1].chance == pytest.approx(still[1:-1].mean())
    every = propagation.run(data, dataclasses.replace(settings, score_ends=True))
    assert figures(every)["j"] == pytest.approx(values.mean())


def test_a_picture_shows_propagated_masks_above_true_ones(masked, tmp_path) -> None:
    folder = tmp_path / "pictures"
    data = data_of(masked.select(indices=np.arange(4)), pictures=folder)
    propagation.run(data, propagation.Settings(stride=4))
    pictures = sorted(folder.iterdir())
    assert len(pictures) == 3
    with Image.open(pictures[0]) as picture:
        assert picture.size == (3 * 4 * 48, 3 * 2 * 48), "small frames are enlarged"
        top, bottom = np.split(np.asarray(picture), 2)
    assert np.array_equal(top[:, :144], bottom[:, :144]), "the first mask is given"
    assert not np.array_equal(top, bottom)


def test_settings_start_from_a_preset(masked) -> None:
    rule = propagation.Settings(preset="videowalk", radius=5.0).rule()
    assert (rule.radius, rule.temperature, rule.window_first) == (5.0, 0.05, False)
    data = data_of(masked.select(indices=np.array([0])))
    told = propagation.run(data, propagation.Settings(k=3, height=24, stride=4))[0].details
    assert told["rule"]["k"] == 3
    assert (told["stage"], told["stride"]) == ("layer4", 4)


def test_places_are_found_by_features_that_move_with_the_pixels(masked) -> None:
    """Colours of single pixels find themselves in mirrored and cropped views far above chance."""
    settings = correspondence.Settings(stride=1, size=24, colour=False, smallest=0.6)
    data = data_of(masked.select(indices=np.arange(6)), pixel_net())
    near, exact = correspondence.run(data, settings)
    assert near.value > 4 * near.chance
    assert exact.chance == 1 / 24**2
    assert 0 < exact.value <= near.value
    assert near.items == exact.items > 0
    assert 4 / 24**2 <= near.chance <= 9 / 24**2
    loose = correspondence.run(data, dataclasses.replace(settings, tolerance=23))[0]
    assert loose.value == loose.chance == 1


def test_views_are_the_same_for_every_encoder_and_seed_decides(masked) -> None:
    data = data_of(masked.select(indices=np.arange(3)))
    settings = correspondence.Settings(pairs=2)
    first = correspondence.run(data, settings)
    assert figures(first) == figures(correspondence.run(data, settings))
    fresh = build_backbone("small", seed=9).eval()
    other = correspondence.run(dataclasses.replace(data, encoder=fresh), settings)
    assert (other[0].items, other[0].chance) == (first[0].items, first[0].chance)
    assert other[0].value != first[0].value
    again = correspondence.run(dataclasses.replace(data, seed=1), settings)
    assert again[0].items != first[0].items


def test_both_stand_beside_the_untrained_encoder(masked, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    save_package(tmp_path / "encoder", build_backbone("small", seed=3), PLAN, card={"seed": 0})
    done = evaluate(
        tmp_path / "encoder",
        masked,
        protocols=("correspondence", "propagation"),
        settings={"propagation": {"stride": 4}, "correspondence": {"pairs": 2}},
        untrained_seeds=(3, 4),
        pictures=tmp_path / "pictures",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == 2 * [(done, 12) for done in range(1, 13)], "four items, three encoders, twice"
    assert not done.skipped
    assert not done.features
    assert {(r.protocol, r.metric) for r in done.results} == {
        *(("correspondence", name) for name in ("accuracy", "exact")),
        *(("propagation", name) for name in ("j_and_f", "j", "f")),
    }
    for metric in ("accuracy", "j"):
        rows = [row for row in done.results if row.metric == metric]
        assert [row.encoder for row in rows] == ["trained", "untrained", "untrained"]
        assert rows[0].value == rows[1].value != rows[2].value
    assert len(next(row for row in done.results if row.metric == "j").details["objects"]) == 4
    assert any("split given" in note for note in done.notes)
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_items_that_fall_out_are_told_by_every_protocol_on_frames(tmp_path) -> None:
    """Of six sequences one has a damaged mask, two have damaged frames; another has no masks."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    mask = np.zeros((48, 48), np.uint8)
    mask[8:32, 8:32] = 1
    for i in range(6):
        for k in range(4):
            for sub, pixels in (
                ("JPEGImages", rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)),
                ("Annotations", mask),
            ):
                (folder / sub / f"s{i}").mkdir(parents=True, exist_ok=True)
                name = "png" if sub == "Annotations" else "jpg"
                Image.fromarray(pixels).save(folder / sub / f"s{i}" / f"{k:05d}.{name}")
    (folder / "JPEGImages/bare").mkdir()
    for k in range(4):
        shutil.copy(folder / f"JPEGImages/s0/{k:05d}.jpg", folder / f"JPEGImages/bare/{k:05d}.jpg")
    catalog = scan(folder, out=tmp_path / "set.catalog")
    splits = ["val" if "s0" in p else "train" if "s1" in p or "s2" in p else "test"
              for p in catalog.table.column("path").to_pylist()]  # fmt: skip
    (folder / "Annotations/s3/00002.png").write_bytes(b"no mask")
    for path in (folder / "JPEGImages").glob("s[14]/*.jpg"):
        path.write_bytes(b"no picture" * 30)
    save_package(tmp_path / "encoder", build_backbone("small", seed=3), PLAN)
    done = evaluate(
        tmp_path / "encoder",
        catalog.with_splits(splits),
        protocols=("correspondence", "propagation", "cells"),
        settings={"correspondence": {"pairs": 1}, "cells": {"l2": [0.1]}},
        untrained_seeds=(0,),
    )
    assert not done.skipped
    told = [note for note in done.notes if "left out, e.g." in note]
    for protocol, count, name in (
        ("correspondence", "1 of 4 items was", "JPEGImages/s4"),
        ("propagation", "2 of 3 items with masks were", "JPEGImages/s3"),
        ("cells", "3 of 6 items with masks were", "JPEGImages/s1"),
    ):
        (note,) = (note for note in told if note.startswith(protocol))
        assert note.startswith(f"{protocol}: {count} left out, e.g. {name}: ")
    assert len(told) == 3
    lost = {
        row.protocol: (set(row.details["skipped"]), row.details["left_out"]) for row in done.results
    }
    assert lost == {
        "correspondence": ({"JPEGImages/s4"}, 1),
        "propagation": ({"JPEGImages/s3", "JPEGImages/s4"}, 2),
        "cells": ({f"JPEGImages/s{i}" for i in (1, 3, 4)}, 3),
    }


def test_without_a_split_all_items_are_judged(still, tmp_path) -> None:
    catalog, _ = still
    save_package(tmp_path / "encoder", build_backbone("small", seed=3), PLAN)
    done = evaluate(tmp_path / "encoder", catalog, protocols=("propagation",), untrained_seeds=())
    assert len(done.splits.test) == 1
    assert any("all items judged" in note for note in done.notes)
    assert {row.metric for row in done.results} == {"j_and_f", "j", "f"}
    told = api.evaluate(tmp_path / "encoder", catalog.root, protocols=("propagation",))
    assert len(told.splits.test) == 1, "a folder is not split either"
    assert [row.value for row in told.results if row.encoder == "trained"] == [
        row.value for row in done.results
    ]


def test_videos_without_masks_are_skipped_with_a_reason(masked, tmp_path, world) -> None:
    catalog, encoder = world  # written without masks
    done = evaluate(encoder, catalog, protocols=("propagation",), untrained_seeds=())
    assert "JPEGImages" in done.skipped["propagation"]
    assert not done.results


def test_real_sequences(real_data) -> None:
    """Repeating the first mask and random features on DAVIS, at the size that lies there."""
    catalog = scan(real_data / "vos" / "davis2016_val_240p", depth="header")
    assert len(catalog) == 12
    row = next(i for i in range(12) if catalog.item(i).path.endswith("blackswan"))
    data = data_of(catalog.select(indices=np.array([row])))
    j = propagation.run(data, propagation.Settings(height=60, context=3))[1]
    assert j.details["objects"]["JPEGImages/blackswan#1"]["still_j"] == pytest.approx(
        0.545, abs=0.01
    )
    assert 0.05 < j.value < 1
    assert j.items == 1
