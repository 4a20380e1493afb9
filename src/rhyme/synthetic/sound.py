"""The sound of a video: a harmonic tone, noise, and a glide where a movement begins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rhyme.synthetic.draw import HISS, VideoSpec, generator
from rhyme.synthetic.motion import onsets

TONE_RMS = 0.1
BURST_SECONDS = 0.06
BURST_PEAK = 0.4
BURST_HZ = (1500.0, 3000.0)
"""Lowest and highest pitch of a burst; it glides up or down between the two."""


_RAMP_SECONDS = 0.01


def synthesise_sound(spec: VideoSpec, rate: int = 16000) -> NDArray[np.float32]:
    """Synthesise the mono sound of a video.

    The tone has the partials 1 to 1 + (class mod 5) at amplitude 1/n. Every movement begins with
    a burst of 60 ms whose pitch glides up (rightward, upward, clockwise, growing) or down.

    Args:
        spec: the video.
        rate: samples a second.

    Returns:
        float32 ``[n]`` in [-1, 1], as long as the video to the nearest sample.
    """
    n = round(spec.frames / spec.fps * rate)
    t = np.arange(n) / rate
    voice = spec.voice
    order = np.arange(1, 2 + voice.kind % 5)
    tone = np.zeros(n)
    for k in order:
        tone += np.sin(2 * np.pi * k * voice.f0 * t) / k
    tone *= TONE_RMS / np.sqrt(np.sum(0.5 / order**2))
    seed, stream, index = spec.key
    hiss = generator(seed, stream, HISS, index).standard_normal(n)
    signal = tone + TONE_RMS * 10 ** (-voice.snr_db / 20) * hiss
    for onset, primitive in zip(onsets(spec), spec.primitives, strict=True):
        # The opposite movements of an axis are neighbours: the even one of them glides up.
        _add_burst(signal, round(onset * rate), rate, rising=primitive % 2 == 0)
    return np.clip(voice.gain * signal, -1, 1).astype(np.float32)


def _add_burst(signal: NDArray[np.float64], start: int, rate: int, *, rising: bool) -> None:
    """Add one glide in place, cut off where the signal ends."""
    n = min(round(BURST_SECONDS * rate), len(signal) - start)
    s = np.arange(n) / rate
    low, high = BURST_HZ if rising else BURST_HZ[::-1]
    cycles = low * s + (high - low) / (2 * BURST_SECONDS) * s**2
    ramp = np.clip(np.minimum(s, BURST_SECONDS - s) / _RAMP_SECONDS, 0, 1)
    window = np.sin(np.pi / 2 * ramp) ** 2
    signal[start : start + n] += BURST_PEAK * window * np.sin(2 * np.pi * cycles)
