from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

import rhyme.synthetic.pictures as render_module
from rhyme.errors import ConfigError
from rhyme.synthetic import LONG_POOL, POOL, VideoSpec, draw_video, poses, render
from rhyme.synthetic.pictures import boxes_of
from rhyme.synthetic.shapes import inside, pattern

Find = Callable[..., VideoSpec]


def slow_inside(kind: int, u: float, v: float, j: float) -> float:
    r, a = math.hypot(u, v), math.atan2(v, u)
    arm = 0.30 + 0.05 * j
    return [
        0.85 - r,
        min(0.68 - abs(u), 0.68 - abs(v)),
        min(0.62 + v, 0.62 - v / 2 - 0.87 * abs(u)) - 0.08,
        0.58 + (0.30 + 0.05 * j) * math.cos(5 * a) - r,
        min(max(arm - abs(u), arm - abs(v)), 0.95 - max(abs(u), abs(v))),
        min(r - (0.50 + 0.07 * j), 0.92 - r),
        0.58 + (0.33 + 0.05 * j) * math.cos(3 * a) - r,
        min(0.92 - r, v - (-0.1 - 0.15 * j)),
        min(0.36 + 0.06 * j - abs(u), 0.98 - abs(v)),
        min(0.92 - r, math.hypot(u - 0.42, v) - (0.62 + 0.05 * j)),
    ][kind]


def slow_pattern(kind: int, u: float, v: float, f: float, p: float) -> float:
    def s(z: float) -> float:
        return math.tanh(2.5 * math.sin(z))

    r, a, sin, tanh = math.hypot(u, v), math.atan2(v, u), math.sin, math.tanh
    return [
        s(6 * f * v + p),
        1.0,
        s(5 * f * u + p) * s(5 * f * v + p),
        s(9 * f * r + p),
        tanh(4 * (sin(6 * f * u + p) * sin(6 * f * v + p) - 0.35)),
        s(4 * a + p),
        tanh(5 * u),
        s(8 * f * (u + v) + p),
        tanh(2 * (sin(4 * f * u + 2 * sin(3 * f * v + p)) + sin(5 * f * v + p))),
        tanh(6 * (r - 0.5)),
    ][kind]


def slow_pixel(spec: VideoSpec, t: int, x: float, y: float, px: int) -> tuple[np.ndarray, float]:
    """One pixel of one frame without noise, straight from the recipe; also the opacity."""
    pose = poses(spec)
    dx, dy = (np.array([x, y]) - pose.centre[t]) / pose.scale[t]
    c, s = math.cos(pose.angle[t]), math.sin(pose.angle[t])
    u, v = (c * dx + s * dy) / spec.aspect, (c * dy - s * dx) * spec.aspect
    depth = slow_inside(spec.appearance, u, v, spec.contour)
    opacity = 1 / (1 + math.exp(min(700, -depth * pose.scale[t] * px)))
    p = (slow_pattern(spec.pattern, u, v, spec.frequency, spec.phase) + 1) / 2

    place = 3 * t / (spec.frames - 1)
    q = min(int(place), 2)
    blend = place - q

    def mix(values: list[np.ndarray]) -> np.ndarray:
        return (1 - blend) * values[q] + blend * values[q + 1]

    c1 = mix([np.array(pal.c1) for pal in spec.palettes])
    c2 = mix([np.array(pal.c2) for pal in spec.palettes])
    behind = []
    for scene in spec.scenes:
        bx, by = x + t * spec.pan[0], y + t * spec.pan[1]
        angle, f = scene.direction, 2 * math.pi * scene.frequency
        z = 0.6 * math.sin(f * (bx * math.cos(angle) + by * math.sin(angle)) + scene.phase)
        angle += 1.2
        along = bx * math.cos(angle) + by * math.sin(angle)
        z += 0.4 * math.sin(0.6 * f * along + 2 * scene.phase)
        k = 1 if scene.kind < 5 else 3
        w = 0.4 * math.tanh(k * z) + 0.5
        behind.append(w * np.array(scene.dark) + (1 - w) * np.array(scene.light))
    colour = opacity * (p * c1 + (1 - p) * c2) + (1 - opacity) * mix(behind)
    colour = colour * mix([np.array(light.channels) for light in spec.lights])
    colour = colour * mix([np.array(light.gain) for light in spec.lights])
    side = float(mix([np.array(light.side) for light in spec.lights]))
    return np.clip(colour * (1 + 0.35 * side * x), 0, 1), opacity


@pytest.mark.parametrize("kind", range(10))
def test_pixels_equal_a_slow_reading_of_the_recipe(
    kind: int, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_module, "NOISE_SD", 0.0)
    spec = find(appearance=kind, motion=(3 * kind) % 8)
    spec = dataclasses.replace(spec, pattern=(kind * 7 + 1) % 10)
    n = 30
    fast = render(spec, n)
    rng = np.random.default_rng(kind)
    for t in (0, 6, 7, 15):
        for row, column in rng.integers(0, n, (60, 2)):
            x, y = (2 * column + 1) / n - 1, (2 * row + 1) / n - 1
            colour, opacity = slow_pixel(spec, t, x, y, n)
            np.testing.assert_allclose(fast.frames[t, row, column], 255 * colour, atol=0.6)
            if abs(opacity - 0.5) > 1e-4:
                assert fast.masks[t, row, column] == (opacity > 0.5)


@pytest.mark.parametrize("kind", range(10))
def test_silhouettes_and_patterns(kind: int) -> None:
    u, v = np.random.default_rng(kind).uniform(-1.2, 1.2, (2, 400))
    for jitter in (-1.0, 0.0, 0.6):
        slow = [slow_inside(kind, *uv, jitter) for uv in zip(u, v, strict=True)]
        np.testing.assert_allclose(inside(kind, u, v, jitter), slow, atol=1e-12)
    slow = [slow_pattern(kind, *uv, 1.1, 0.7) for uv in zip(u, v, strict=True)]
    np.testing.assert_allclose(pattern(kind, u, v, 1.1, 0.7), slow, atol=1e-12)


def test_unknown_silhouettes_and_patterns_are_refused() -> None:
    zero = np.zeros(1)
    with pytest.raises(ValueError, match="silhouette 10"):
        inside(10, zero, zero, 0)
    with pytest.raises(ValueError, match="pattern -1"):
        pattern(-1, zero, zero, 1, 0)


def test_noise_has_the_stated_spread_and_is_new_in_every_frame(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find(motion=1)
    noisy = render(spec, 64).frames.astype(float)
    monkeypatch.setattr(render_module, "NOISE_SD", 0.0)
    clean = render(spec, 64).frames.astype(float)
    inner = (clean > 30) & (clean < 225)
    noise = np.where(inner, noisy - clean, np.nan)
    assert np.nanstd(noise) / 255 == pytest.approx(0.02, rel=0.03)
    a, b = noise[0], noise[1]
    both = ~np.isnan(a + b)
    assert abs(np.corrcoef(a[both], b[both])[0, 1]) < 0.05


def test_any_frame_can_be_rendered_alone() -> None:
    spec = draw_video(1, LONG_POOL, 0)
    whole = render(spec, 26)
    some = render(spec, 26, at=(120, 3, 77))
    for name in ("frames", "masks", "boxes", "keypoints", "visible", "poses"):
        index = [120, 3, 77]
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[index])


def test_frame_numbers_and_sizes_are_checked() -> None:
    spec = draw_video(1, POOL, 0)
    with pytest.raises(ConfigError, match="outside of the video") as caught:
        render(spec, 24, at=(0, 16))
    assert caught.value.value == 16
    with pytest.raises(ConfigError, match="below one pixel"):
        render(spec, 0)


def test_size_changes_the_sampling_and_not_the_scene(find: Find) -> None:
    spec = find(appearance=4, motion=4)
    small, large = render(spec, 32), render(spec, 128)
    shrunk = large.frames.reshape(16, 32, 4, 32, 4, 3).mean((2, 4))
    flat = ~(large.masks.reshape(16, 32, 4, 32, 4).mean((2, 4)) % 1 > 0)
    difference = abs(shrunk - small.frames)[flat]
    assert difference.mean() < 6
    np.testing.assert_allclose((large.keypoints + 0.5) / 4, small.keypoints + 0.5, atol=1e-4)


def test_boxes_enclose_the_masks() -> None:
    for i in range(20):
        r = render(draw_video(4, POOL, i), 40)
        for mask, box in zip(r.masks, r.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            ]


def test_a_box_needs_four_pixels() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, 2, 3:6] = True
    masks[1, 2:4, 3:5] = True
    boxes = boxes_of(masks)
    assert np.isnan(boxes[[0, 2]]).all()
    assert boxes[1].tolist() == [3, 2, 5, 4]


def test_a_creature_out_of_view_has_no_box_and_no_visible_point() -> None:
    spec = dataclasses.replace(draw_video(4, POOL, 0), offset=(4.0, 0.0))
    r = render(spec, 24)
    assert not r.masks.any()
    assert np.isnan(r.boxes).all()
    assert not r.visible.any()
