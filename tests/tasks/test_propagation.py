"""Masks carried by features: limits that are known, and a slow oracle of the whole rule."""

import dataclasses

import numpy as np
import pytest
import torch

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import (
    PROPAGATION_PRESETS,
    PropagationRule,
    grid_labels,
    label_map,
    propagate_labels,
)

VFS, WALK = PROPAGATION_PRESETS["vfs"], PROPAGATION_PRESETS["videowalk"]


def test_the_published_rules() -> None:
    """Of VFS's two encoders the radius alone differs: half of its ranges of 24 and 36 cells."""
    assert (VFS.context, VFS.k, VFS.temperature, VFS.radius) == (20, 10, 0.07, 12)
    assert (VFS.window_first, VFS.pad_first, VFS.resize, VFS.stretch) == (
        True,
        False,
        "nearest",
        True,
    )
    assert PROPAGATION_PRESETS["vfs-r50"] == dataclasses.replace(VFS, radius=18.0)
    assert (WALK.context, WALK.k, WALK.temperature, WALK.radius) == (20, 10, 0.05, 12)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def labels_of(h: int, w: int, objects: int = 2, seed: int = 0) -> torch.Tensor:
    drawn = torch.randint(objects + 1, (h, w), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(drawn, objects + 1).float()


def carried(features: torch.Tensor, first: torch.Tensor, rule: PropagationRule) -> torch.Tensor:
    return torch.stack(list(propagate_labels(features, first, rule)))


def slow(features, first, rule):
    """Every place of every frame against every place of its context, one by one."""
    t, h, w, _ = features.shape
    soft = [first.numpy().astype(np.float64)]
    features = features.double().numpy()
    for now in range(1, t):
        start = now - rule.context
        frames = [0] + [max(i, 0) for i in range(start, now) if rule.pad_first or i >= 0]
        out = np.zeros(first.shape)
        for y in range(h):
            for x in range(w):
                keys = []
                for place, frame in enumerate(frames):
                    for v in range(h):
                        for u in range(w):
                            free = place == 0 and not rule.window_first
                            if free or (y - v) ** 2 + (x - u) ** 2 < rule.radius**2:
                                score = features[now, y, x] @ features[frame, v, u]
                                keys.append((-score, place, v, u, frame))
                best = sorted(keys)[: rule.k]
                logits = np.array([-key[0] for key in best]) / rule.temperature
                weights = np.exp(logits - logits.max())
                weights /= weights.sum()
                for weight, (_, _, v, u, frame) in zip(weights, best, strict=True):
                    out[y, x] += weight * soft[frame][v, u]
        soft.append(out)
    return np.stack(soft)


@pytest.mark.parametrize("preset", [VFS, WALK])
def test_the_whole_rule_against_loops(preset: PropagationRule) -> None:
    rule = dataclasses.replace(preset, context=3, k=4, radius=2.0)
    features, first = unit(7, 5, 6, 8), labels_of(5, 6)
    found = carried(features, first, rule)
    np.testing.assert_allclose(found.numpy(), slow(features, first, rule), atol=2e-5)


def test_the_first_frame_competes_several_times_at_the_beginning() -> None:
    assert VFS.frames(1) == [0, 0]
    assert VFS.frames(2) == [0, 0, 1]
    assert VFS.frames(20) == [0, *range(20)]
    assert VFS.frames(21) == [0, *range(1, 21)]
    assert VFS.frames(40) == [0, *range(20, 40)]
    assert WALK.frames(1) == [0] * 21
    assert WALK.frames(3) == [0] * 19 + [1, 2]
    assert WALK.frames(40) == VFS.frames(40)


@pytest.mark.parametrize("rule", [VFS, WALK])
def test_equal_frames_keep_the_first_mask(rule: PropagationRule) -> None:
    frame, first = unit(8, 9, 64), labels_of(8, 9)
    found = carried(frame.expand(6, -1, -1, -1), first, dataclasses.replace(rule, k=1))
    assert torch.equal(found, first.expand(6, -1, -1, -1)), "one-hot stays one-hot under k = 1"
    soft = carried(frame.expand(6, -1, -1, -1), first, rule)
    assert torch.equal(soft.argmax(3), first.argmax(2).expand(6, -1, -1))
    assert torch.allclose(soft.sum(3), torch.ones(6, 8, 9), atol=1e-5), "labels stay a partition"


def test_a_moving_picture_takes_its_mask_along() -> None:
    scene, mask = unit(8, 24, 32), torch.zeros(8, 24, 2)
    mask[2:6, 3:8, 1] = 1
    mask[..., 0] = 1 - mask[..., 1]
    frames = torch.stack([scene.roll(t, dims=1) for t in range(8)])
    found = carried(frames, mask, dataclasses.replace(VFS, k=1))
    for t in range(8):
        inside = slice(t, None)  # what came round the edge is too far from where it was
        assert torch.equal(found[t][:, inside], mask.roll(t, dims=1)[:, inside])


def test_a_radius_of_one_forbids_to_move_and_constant_features_blur() -> None:
    first = labels_of(6, 6)
    still = carried(unit(4, 6, 6, 5), first, dataclasses.replace(VFS, radius=1.0))
    assert torch.allclose(still, first.expand(4, -1, -1, -1), atol=1e-6)
    flat = torch.ones(2, 7, 7, 1)
    spot = torch.zeros(7, 7, 2)
    spot[3, 3, 1] = 1
    rule = dataclasses.replace(VFS, radius=1.5, k=100)
    spread = carried(flat, spot, rule)[1, :, :, 1]
    want = torch.zeros(7, 7)
    for y in range(7):
        for x in range(7):
            disk = [
                (v, u) for v in range(7) for u in range(7) if (y - v) ** 2 + (x - u) ** 2 < 2.25
            ]
            want[y, x] = (3, 3) in disk and 1 / len(disk)
    assert torch.allclose(spread, want, atol=1e-6)


def test_a_permutation_of_channels_permutes_the_output() -> None:
    features, first = unit(4, 5, 5, 6), labels_of(5, 5)
    order = torch.tensor([2, 0, 1])
    plain, permuted = (carried(features, x, VFS) for x in (first, first[..., order]))
    assert torch.equal(plain[..., order], permuted)


def test_masks_go_to_the_grid_and_back() -> None:
    ids = torch.zeros(24, 32, dtype=torch.int64)
    ids[8:16, 8:24] = 1
    ids[16:24, 0:8] = 2
    for rule in (VFS, WALK):
        small = grid_labels(ids, 2, (6, 8), rule)
        assert small.shape == (6, 8, 3)
        assert torch.allclose(small.sum(2), torch.ones(6, 8))
        back = label_map(small, (24, 32), rule)
        assert (back == ids).float().mean() > 0.9
    assert set(grid_labels(ids, 2, (6, 8), VFS).unique().tolist()) == {0.0, 1.0}


def test_stretching_lets_a_faint_object_win() -> None:
    soft = torch.full((4, 4, 2), 0.9)
    soft[..., 1] = 0.1
    soft[1, 1] = torch.tensor([0.6, 0.4])
    assert label_map(soft, (4, 4), VFS)[1, 1] == 1
    assert label_map(soft, (4, 4), WALK).sum() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="different grids"):
        carried(unit(2, 4, 4, 3), labels_of(5, 4), VFS)
    with pytest.raises(ConfigError, match="context"):
        PropagationRule(context=0)
