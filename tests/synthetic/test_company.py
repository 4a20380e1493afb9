"""Several creatures in one video: who they are, where they stand, and what of them is seen."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rhyme.catalog import scan
from rhyme.errors import DataError
from rhyme.evaluation.truth_masks import read_masks
from rhyme.synthetic import (
    APPEARANCES,
    VideoSpec,
    WorldConfig,
    plan,
    poses,
    read_labels,
    read_truth,
    render,
    write_world,
)
from rhyme.synthetic.motion import local
from rhyme.synthetic.shapes import inside

SCENES = WorldConfig(
    videos=10, seed=5, size=48, frames=6, sound=False, creatures=(3, 5), palette_keep=0.7
)


@pytest.fixture(scope="module")
def casts() -> list[tuple[VideoSpec, ...]]:
    """The creatures of 300 videos."""
    config = WorldConfig(videos=300, seed=1, creatures=(3, 5))
    specs = [entry.spec(config) for entry in plan(config)]
    return [(spec, *spec.company) for spec in specs]


def painted(spec: VideoSpec, size: int) -> NDArray[np.uint8]:
    """Ids ``[t, size, size]``: every creature over those behind it, the first over all."""
    ids = np.zeros((spec.frames, size, size), np.uint8)
    for number in range(len(spec.company), -1, -1):
        member = (spec, *spec.company)[number]
        u, v = local(member, poses(member), size)
        ids[inside(member.appearance, u, v, member.contour) > 0] = number + 1
    return ids


def test_numbers_looks_and_movements_are_drawn_apart(casts: list[tuple[VideoSpec, ...]]) -> None:
    sizes = Counter(len(cast) for cast in casts)
    assert set(sizes) == {3, 4, 5}
    assert min(sizes.values()) > 70, "of 100 expected"
    pairs = np.array([(a.appearance, b.appearance) for a, b, *_ in casts])
    same = (pairs[:, 0] == pairs[:, 1]).mean()
    assert 0.04 < same < 0.17, "one in ten: classes of one video are independent"
    assert len({cast[1].motion for cast in casts}) == 8
    assert len({member.key for cast in casts for member in cast}) == sum(map(len, casts))


def test_each_has_a_place_by_itself_and_is_as_much_smaller(
    casts: list[tuple[VideoSpec, ...]],
) -> None:
    for cast in casts:
        side = 2 if len(cast) < 5 else 3
        cells = [tuple(int((x + 1) / 2 * side) for x in member.offset) for member in cast]
        assert len(set(cells)) == len(cast)
        assert all(0.66 / side <= member.radius <= 0.78 / side for member in cast)


def test_the_first_creature_is_that_of_the_world_without_company() -> None:
    alone = WorldConfig(videos=4, seed=1)
    together = WorldConfig(videos=4, seed=1, creatures=(5, 5))
    for a, b in zip(plan(alone), plan(together), strict=True):
        one, first = a.spec(alone), b.spec(together)
        assert len(first.company) == 4
        for name in ("appearance", "motion", "pattern", "palettes", "scenes", "lights", "voice"):
            assert getattr(one, name) == getattr(first, name)


def test_one_of_few_may_be_alone_at_its_full_size() -> None:
    config = WorldConfig(videos=60, seed=2, creatures=(1, 2))
    alone = WorldConfig(videos=60, seed=2)
    specs = [entry.spec(config) for entry in plan(config)]
    lone = [spec for spec in specs if not spec.company]
    assert 15 < len(lone) < 45
    assert [spec for spec in lone if spec not in [e.spec(alone) for e in plan(alone)]] == []


def test_what_is_seen_is_what_was_painted_last() -> None:
    hidden = 0
    crowd = dataclasses.replace(SCENES, creatures=(9, 9))
    for entry in plan(crowd):
        spec = entry.spec(crowd)
        shown = render(spec, 48)
        expected = painted(spec, 48)
        np.testing.assert_array_equal(shown.objects, expected)
        np.testing.assert_array_equal(shown.masks, expected == 1)
        np.testing.assert_array_equal(render(spec, 48, at=(3,)).objects[0], expected[3])
        for member in (spec, *spec.company):
            u, v = local(member, poses(member), 48)
            hidden += int((inside(member.appearance, u, v, member.contour) > 0).sum())
        hidden -= int((expected > 0).sum())
    assert hidden > 20, "creatures meet and hide each other"


def test_a_creature_has_its_own_colours() -> None:
    """In the middle of a plain creature the picture has its palette, whoever stands beside it."""
    checked = 0
    config = WorldConfig(videos=40, seed=7, creatures=(3, 5), palette_keep=1.0)
    for entry in plan(config):
        spec = entry.spec(config)
        for number, member in enumerate((spec, *spec.company), 1):
            if member.pattern != 1 or member.appearance not in (0, 1):
                continue
            shown = render(spec, 64, at=(0,))
            row, column = np.rint((poses(member).centre[0][::-1] + 1) * 32 - 0.5).astype(int)
            if not 0 <= row < 64 or not 0 <= column < 64 or shown.objects[0, row, column] != number:
                continue
            light = spec.lights[0]
            side = 1 + 0.35 * light.side * ((2 * column + 1) / 64 - 1)
            colour = np.array(member.palettes[0].c1) * light.channels * light.gain * side
            wanted = np.clip(colour * 255, 0, 255)
            assert np.abs(shown.frames[0, row, column] - wanted).max() < 5 * 0.02 * 255
            checked += 1
    assert checked >= 5


def test_a_world_of_scenes_tells_every_creature(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    write_world(SCENES, root)
    catalog = scan(root, out=tmp_path / "scenes.catalog")
    for row, entry in zip(read_labels(root), plan(SCENES), strict=True):
        spec, truth = entry.spec(SCENES), read_truth(root, row.id)
        assert row.appearance == APPEARANCES[spec.appearance], "labels are the first creature's"
        assert truth.objects is not None
        assert truth.appearances is not None
        np.testing.assert_array_equal(truth.objects, render(spec, 48).objects)
        np.testing.assert_array_equal(truth.boxes, render(spec, 48).boxes)
        assert truth.appearances.tolist() == [m.appearance for m in (spec, *spec.company)]
    item = catalog.item(0)
    masks = read_masks(catalog, item)
    assert masks is not None
    truth = read_truth(root, Path(item.path).stem)
    assert truth.appearances is not None
    assert masks.classes == tuple(APPEARANCES[code] for code in truth.appearances)
    assert len(masks.classes) == masks.ids.max()


def test_bytes_do_not_depend_on_workers_and_another_number_is_another_world(
    tmp_path: Path,
) -> None:
    few = {"counts": (4, 1, 2), "seed": 3, "size": 32, "frames": 4, "sound": False}
    one = write_world(WorldConfig(**few, creatures=(2, 4)), tmp_path / "a").root
    two = write_world(WorldConfig(**few, creatures=(2, 4), workers=2), tmp_path / "b").root
    for file in sorted(path for path in one.rglob("*") if path.is_file()):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes(), file
    with pytest.raises(Exception, match="creatures is"):
        write_world(WorldConfig(**few, creatures=(2, 5)), one)
    with pytest.raises(Exception, match="creatures is"):
        write_world(WorldConfig(**few), one)


@pytest.mark.parametrize(
    "forged",
    [
        {"appearances": np.array([99, 3, 1])},
        {"appearances": np.array([-1, 3, 1])},
        {"appearances": np.array([2])},
        {"appearances": np.array([0.5, 1, 2])},
        {"objects": np.zeros((6, 8, 8), np.float32)},
        {"objects": np.zeros((8, 8), np.uint8)},
    ],
)
def test_objects_and_classes_that_do_not_fit_are_damage(
    tmp_path: Path, forged: dict[str, NDArray[np.generic]]
) -> None:
    config = dataclasses.replace(SCENES, videos=1, creatures=(3, 3))
    write_world(config, tmp_path / "w")
    (file,) = (tmp_path / "w" / "truth").iterdir()
    with np.load(file) as whole:
        arrays = {name: whole[name] for name in whole.files}
    assert read_truth(tmp_path / "w", file.stem).objects is not None
    np.savez_compressed(file, **{**arrays, **forged})
    with pytest.raises(DataError, match="the truth file is damaged"):
        read_truth(tmp_path / "w", file.stem)
