from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhyme.synthetic import (
    LONG_POOL,
    MOTION_PAIRS,
    POOL,
    VideoSpec,
    draw_video,
    keyframe_weights,
    onsets,
    phases,
    poses,
    render,
)

Find = Callable[..., VideoSpec]


def table(spec: VideoSpec) -> np.ndarray:
    """x, y, angle, log-scale relative to the base pose, without jitter: ``[t, 4]``."""
    pose = poses(spec, jitter=False)
    return np.column_stack(
        [
            pose.centre - np.array(spec.offset),
            pose.angle - spec.rotation,
            np.log(pose.scale / spec.radius),
        ]
    )


STEPS = {
    0: (0, 0.36),
    1: (0, -0.36),
    2: (1, -0.36),  # up is against y, which points down
    3: (1, 0.36),
    4: (2, 1.2),
    5: (2, -1.2),
    6: (3, 0.45),
    7: (3, -0.45),
}


@pytest.mark.parametrize("motion", range(8))
def test_each_half_holds_one_linear_movement(motion: int, find: Find) -> None:
    moved = table(find(motion=motion))
    first, second = MOTION_PAIRS[motion]
    speed = np.diff(moved, axis=0)
    expected = np.zeros((15, 4))
    axis, travel = STEPS[first]
    expected[:7, axis] = travel / 7.5
    expected[7, axis] = travel / 15
    axis, travel = STEPS[second]
    expected[8:, axis] = travel / 7.5
    expected[7, axis] = travel / 15
    np.testing.assert_allclose(speed, expected, atol=1e-12)


@pytest.mark.parametrize("motion", range(8))
def test_movements_are_centred_and_the_pair_starts_and_ends_alike(motion: int, find: Find) -> None:
    moved = table(find(motion=motion))
    np.testing.assert_allclose(moved[0] + moved[-1], 0, atol=1e-12)
    twin = table(find(motion=motion ^ 1))
    np.testing.assert_allclose(moved[[0, -1]], twin[[0, -1]], atol=1e-12)
    assert abs(moved - twin).max() > 0.3


@pytest.mark.parametrize("motion", range(8))
def test_a_reversed_clip_has_the_track_of_another_class(motion: int, find: Find) -> None:
    backwards = table(find(motion=motion))[::-1]
    equal = [m for m in range(8) if np.allclose(table(find(motion=m)), backwards)]
    assert len(equal) == 1
    assert equal != [motion]


def test_clockwise_is_clockwise_on_the_screen(find: Find) -> None:
    spec = find(appearance=8, motion=4)
    points = render(spec, 64).keypoints.astype(float)
    right = points[:, 7] - points[:, 6]
    turn = right[0, 0] * right[7, 1] - right[0, 1] * right[7, 0]
    # With y down, a positive cross product is a clockwise turn.
    assert turn > 0


def test_position_jitter_has_the_stated_spread() -> None:
    gaps = []
    for i in range(100):
        spec = draw_video(8, POOL, i)
        gaps.append(poses(spec).centre - poses(spec, jitter=False).centre)
    jitter = np.concatenate(gaps)
    assert abs(jitter.std() / 0.03 - 1) < 0.05
    assert abs(np.corrcoef(jitter.T)[0, 1]) < 0.1
    steps = np.stack(gaps)[:, 1:].ravel() @ np.stack(gaps)[:, :-1].ravel()
    assert abs(steps / (jitter**2).sum()) < 0.1


def test_phases_of_a_clip_change_in_the_middle(find: Find) -> None:
    spec = find(motion=2)
    assert phases(spec).tolist() == [1] * 8 + [3] * 8
    np.testing.assert_allclose(onsets(spec), [0, 7.5 / 8])
    odd = draw_video(2, POOL, 0, frames=5)
    assert (phases(odd) == odd.primitives[0]).tolist() == [True, True, False, False, False]


def test_phases_of_untrimmed_videos_name_the_movement_of_each_frame() -> None:
    for i in range(40):
        spec = draw_video(6, LONG_POOL, i)
        labels = phases(spec)
        moved = table(spec)
        assert labels.shape == (spec.frames,)
        # Between two frames of one phase exactly the labelled axis moves, in its direction.
        for t in np.flatnonzero(labels[1:] == labels[:-1]):
            axis, travel = STEPS[int(labels[t])]
            step = moved[t + 1] - moved[t]
            assert step[axis] * travel > 0
            assert np.count_nonzero(abs(step) > 1e-12) == 1
        assert np.count_nonzero(np.diff(labels)) == len(spec.primitives) - 1
        np.testing.assert_allclose(moved[0] + moved[-1], 0, atol=1e-9)
        assert np.ptp(moved[:, :2], axis=0).max() <= 0.36 + 1e-9
        np.testing.assert_allclose(onsets(spec), np.array(spec.boundaries[:-1]) / 8)


@given(st.integers(4, 300))
@settings(max_examples=40, deadline=None)
def test_keyframe_weights_are_linear_between_four_keyframes(frames: int) -> None:
    weights = keyframe_weights(frames)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    assert ((weights > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(weights[0], [1, 0, 0, 0])
    np.testing.assert_allclose(weights[-1], [0, 0, 0, 1])
    np.testing.assert_allclose(weights @ np.arange(4.0), np.linspace(0, 3, frames), atol=1e-9)
    if (frames - 1) % 3 == 0:
        assert weights[:: (frames - 1) // 3].tolist() == np.eye(4).tolist()


def test_key_points_follow_the_pose(find: Find) -> None:
    spec = find(motion=0)
    n = 100
    pose = poses(spec)
    points = render(spec, n).keypoints
    local = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    local += [(0, -0.7), (0, 0.7), (-0.7, 0), (0.7, 0)]
    for t in range(spec.frames):
        for k, (u, v) in enumerate(local):
            # Invert: pixel -> frame -> local must give the definition back.
            x, y = (points[t, k].astype(float) + 0.5) * 2 / n - 1
            dx, dy = (np.array([x, y]) - pose.centre[t]) / pose.scale[t]
            c, s = np.cos(pose.angle[t]), np.sin(pose.angle[t])
            assert (c * dx + s * dy) / spec.aspect == pytest.approx(u, abs=1e-5)
            assert (c * dy - s * dx) * spec.aspect == pytest.approx(v, abs=1e-5)


def test_key_points_are_visible_inside_the_frame_only() -> None:
    seen = set()
    for i in range(60):
        r = render(draw_video(9, POOL, i), 24)
        inside = ((r.keypoints >= -0.5) & (r.keypoints <= 23.5)).all(-1)
        assert (r.visible == inside).all()
        seen |= set(r.visible.ravel().tolist())
    assert seen == {True, False}
