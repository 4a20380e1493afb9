"""Where two views see the same place, told from their maps alone."""

import numpy as np
import pytest
import torch

from rhyme.encoders import BackboneConfig, build_backbone
from rhyme.errors import DataError
from rhyme.views import (
    cell_centres,
    cells_apart,
    compose,
    crop_resize_map,
    flip_map,
    identity,
    true_matches,
)


def maps(*found: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(found)).float()


def slow(query, key, centres, size):
    """The same for one item with loops, solving for the place in the key view."""
    match, valid = [], []
    for y in centres:
        for x in centres:
            source = query[:, :2] @ np.array([x, y]) + query[:, 2]
            there = np.linalg.solve(key[:, :2], source - key[:, 2])
            valid.append(bool(np.all((there >= -0.5) & (there <= size - 0.5))))
            column, row = (int(np.argmin([abs(c - v) for c in centres])) for v in there)
            match.append(row * len(centres) + column)
    return match, valid


@pytest.mark.parametrize(("name", "size"), [("small", 30), ("small", 64), ("resnet18", 64)])
def test_the_centres_are_those_of_the_backbone(name: str, size: int) -> None:
    backbone = build_backbone(BackboneConfig(name=name), seed=0).eval()
    with torch.no_grad():
        found = backbone(torch.zeros(1, 3, size, size))
    assert found.map is not None
    centres = cell_centres(size, found.stride, found.offset)
    assert len(centres) == found.map.shape[-1]
    assert centres[0] == found.offset
    assert centres[-1] < size


@pytest.mark.parametrize(("count", "grid"), [(8, 4), (7, 3), (7, 7), (2, 1), (3, 5)])
def test_pooled_centres_are_the_pooled_coordinates(count: int, grid: int) -> None:
    plain = cell_centres(count * 8, 8, 0)
    want = torch.nn.functional.adaptive_avg_pool1d(plain[None], grid)[0]
    assert torch.allclose(cell_centres(count * 8, 8, 0, grid), want)


def test_equal_views_match_cell_by_cell_and_mirrored_ones_by_column() -> None:
    size = 32
    centres = cell_centres(size, 8, 3.5)
    plain, mirrored = maps(identity()), maps(flip_map(True, size))
    match, valid = true_matches(plain, plain, centres, size)
    assert match.tolist() == [list(range(16))]
    assert valid.all()
    match, valid = true_matches(plain, mirrored, centres, size)
    assert match.reshape(4, 4).tolist() == [[4 * r + 3 - c for c in range(4)] for r in range(4)]
    assert valid.all()


def test_places_outside_the_other_view_are_left_out() -> None:
    size, centres = 32, cell_centres(32, 8, 3.5)
    left = maps(crop_resize_map(0, 0, 32, 32, size, size))
    right = maps(crop_resize_map(0, 16, 32, 32, size, size))
    far = maps(crop_resize_map(0, 64, 32, 32, size, size))
    match, valid = true_matches(left, right, centres, size)
    assert valid.reshape(4, 4).tolist() == [[False, False, True, True]] * 4
    assert match.reshape(4, 4)[:, 2:].tolist() == [[4 * r, 4 * r + 1] for r in range(4)]
    assert not true_matches(left, far, centres, size)[1].any()


def test_against_loops_on_random_crops() -> None:
    rng = np.random.default_rng(0)
    size, centres = 40, cell_centres(40, 8, 0.0)

    def crop() -> np.ndarray:
        height, width = rng.uniform(15, 50, 2)
        box = crop_resize_map(*rng.uniform(0, 30, 2), height, width, size, size)
        return compose(box, flip_map(rng.random() < 0.5, size))

    pairs = [(crop(), crop()) for _ in range(40)]
    query, key = (maps(*side) for side in zip(*pairs, strict=True))
    match, valid = true_matches(query, key, centres, size)
    for i, (q, k) in enumerate(pairs):
        want, inside = slow(q, k, centres.tolist(), size)
        assert valid[i].tolist() == inside
        agree = [a == b for a, b, v in zip(match[i].tolist(), want, inside, strict=True) if v]
        assert all(agree)
    assert 0 < valid.float().mean() < 1


def test_distances_are_in_cells_and_by_the_larger_side() -> None:
    one = torch.tensor([0, 0, 5, 15])
    other = torch.tensor([0, 5, 10, 0])
    assert cells_apart(one, other, 4).tolist() == [0, 1, 1, 3]


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[b, 2, 3\]"):
        true_matches(torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 2, 3), cell_centres(8, 4, 0), 8)
