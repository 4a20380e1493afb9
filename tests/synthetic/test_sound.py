from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rhyme.synthetic import LONG_POOL, POOL, VideoSpec, draw_video, onsets, synthesise_sound

RATE = 16000
Find = Callable[..., VideoSpec]


def spectrum(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    window = np.hanning(len(signal))
    power = abs(np.fft.rfft(signal * window)) / window.sum() * 2
    return np.fft.rfftfreq(len(signal), 1 / RATE), power


def tone_part(spec: VideoSpec) -> np.ndarray:
    """Sound between the first and the second burst."""
    return synthesise_sound(spec, RATE)[int(0.1 * RATE) : int(0.9 * RATE)]


@pytest.mark.parametrize("kind", range(10))
def test_fundamental_and_harmonics(kind: int) -> None:
    spec = next(s for i in range(500) if (s := draw_video(2, POOL, i)).voice.kind == kind)
    f0 = spec.voice.f0
    assert f0 / (200 * 2 ** (kind / 5)) == pytest.approx(1, abs=0.03)
    frequency, level = spectrum(tone_part(spec))

    def at(hz: float) -> float:
        return level[abs(frequency - hz) < 4].max()

    first = at(f0)
    for n in range(2, 2 + kind % 5):
        if n <= 1 + kind % 5:
            assert at(n * f0) / first == pytest.approx(1 / n, rel=0.15)
    assert at((2 + kind % 5) * f0) < 0.1 * first
    strongest = frequency[level.argmax()]
    assert strongest == pytest.approx(f0, abs=2)


def test_noise_lies_as_far_below_the_tone_as_drawn() -> None:
    for i in range(12):
        spec = draw_video(5, POOL, i)
        signal = tone_part(spec).astype(float)
        t = np.arange(int(0.1 * RATE), int(0.9 * RATE)) / RATE
        basis = np.column_stack(
            [
                wave(2 * np.pi * k * spec.voice.f0 * t)
                for k in range(1, 2 + spec.voice.kind % 5)
                for wave in (np.sin, np.cos)
            ]
        )
        tone = basis @ np.linalg.lstsq(basis, signal, rcond=None)[0]
        ratio = 10 * np.log10((tone**2).mean() / ((signal - tone) ** 2).mean())
        assert ratio == pytest.approx(spec.voice.snr_db, abs=0.3)
        assert 10 <= spec.voice.snr_db <= 20
        assert np.sqrt((tone**2).mean()) == pytest.approx(0.1 * spec.voice.gain, rel=0.02)


def test_draws_of_the_voice_fill_their_ranges(many_specs: list[VideoSpec]) -> None:
    voices = [s.voice for s in many_specs]
    detune = np.array([v.f0 / (200 * 2 ** (v.kind / 5)) - 1 for v in voices])
    gain = np.array([v.gain for v in voices])
    snr = np.array([v.snr_db for v in voices])
    for x, low, high in ((detune, -0.03, 0.03), (gain, 0.7, 1.3), (snr, 10, 20)):
        span = high - low
        assert low - 1e-9 <= x.min() < low + 0.01 * span
        assert high - 0.01 * span < x.max() <= high + 1e-9


def bursts_of(spec: VideoSpec) -> np.ndarray:
    """The sound less that of a twin whose movements begin elsewhere: only the bursts remain."""
    silent = dataclasses.replace(spec, primitives=(), boundaries=(0.0,))
    return synthesise_sound(spec, RATE) - synthesise_sound(silent, RATE)


def pitch(part: np.ndarray) -> float:
    frequency, level = spectrum(np.pad(part, 4000))
    return float(frequency[level.argmax()])


@pytest.mark.parametrize("motion", range(8))
def test_each_half_begins_with_a_glide_in_the_direction_of_its_movement(
    motion: int, find: Find
) -> None:
    spec = find(motion=motion)
    burst = bursts_of(spec)
    n = round(0.06 * RATE)
    rising = []
    for onset in (0.0, 7.5 / 8):
        start = round(onset * RATE)
        part = burst[start : start + n]
        assert abs(part).max() > 0.2
        rise = pitch(part[-n // 5 :]) - pitch(part[: n // 5])
        assert abs(rise) > 900
        rising.append(rise > 0)
        burst[start : start + n] = 0
    assert abs(burst).max() < 1e-6
    up = {0, 2, 4, 6}
    assert rising == [p in up for p in spec.primitives]


def test_untrimmed_videos_sound_at_every_phase() -> None:
    spec = draw_video(1, LONG_POOL, 3)
    burst = abs(bursts_of(spec)) > 1e-3
    starts = np.flatnonzero(burst)[
        np.flatnonzero(np.diff(np.flatnonzero(burst), prepend=-9999) > 3200)
    ]
    assert len(starts) == len(spec.primitives)
    np.testing.assert_allclose(starts / RATE, onsets(spec), atol=0.01)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_length_is_that_of_the_video(rate: int) -> None:
    sound = synthesise_sound(draw_video(1, POOL, 0, frames=21), rate)
    assert sound.dtype == np.float32
    assert len(sound) == 21 * rate // 8
    assert abs(sound).max() <= 1


def test_sound_is_a_function_of_the_key() -> None:
    a, b = draw_video(1, POOL, 0), draw_video(1, POOL, 1)
    np.testing.assert_array_equal(synthesise_sound(a), synthesise_sound(a))
    assert not np.array_equal(synthesise_sound(a), synthesise_sound(b))
