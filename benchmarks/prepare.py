"""Clips from prepared shards against the same clips from the mp4 file they were made of.

Compared: eight clips of eight frames, two frames apart, at places of a 360p film of 80 s that lie
in a long group of pictures each; H.264 with a key frame every 250 and every 12 frames, made on the
spot: a picture with the spectrum of natural ones that drifts, under noise, at 5 to 6 kB a frame.
Both sides are the toolkit's own readers, ``Video`` and ``PreparedFrames``: each opens its file,
reads the clips and closes it, in one process on one thread, its tables known as from the second
epoch on. The shards are those of ``rhyme prepare`` with its defaults: JPEG of quality 90, shorter
side 128. The films give full pictures, the shards pictures at training size: what a recipe makes
of either costs the film more, and is left out.

Checked: the times of all frames are equal, and the pictures are those of the film scaled to the
shards' size, but for the PSNR that the shards state.

Expected: 20 times as many frames a second at 12 frames a group, 60 times at 250: a film decodes a
quarter of a megapixel for each frame and on average half a group before the first one, a shard a
small JPEG for each frame and nothing before. And at most 1.6 times the bytes of the film.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks.ratio import Case, WrongResult, told
from rhyme.catalog import Catalog, scan
from rhyme.loading import prepare_shards
from rhyme.media import PreparedFrames, Video
from rhyme.views.crops import resized

FPS, WIDTH, HEIGHT = 30, 640, 360
LONG, SHORT = 250, 12  # frames from one key frame to the next
CLIPS, FRAMES, STRIDE = 8, 8, 2
NOISE, STEEPNESS = 3.4, 1.4


def texture(random: np.random.Generator, steepness: float) -> np.ndarray:
    """A plane twice as wide as the film whose amplitudes fall with frequency, of deviation 1."""
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(2 * WIDTH)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / (2 * WIDTH)) ** steepness
    turned = amplitude * np.exp(2j * np.pi * random.random(amplitude.shape))
    plane = np.fft.irfft2(turned, (HEIGHT, 2 * WIDTH))
    return plane / plane.std()


def film(path: Path, frames: int, gop: int) -> Path:
    """The film of a benchmark."""
    random = np.random.default_rng(0)
    light, warm, green = (texture(random, STEEPNESS + extra) for extra in (0.0, 0.3, 0.3))
    grey = 110 + 40 * light
    wide = np.stack([grey + 15 * warm, grey - 10 * warm + 8 * green, grey - 15 * green], axis=-1)
    noise = random.normal(0, NOISE, (16, HEIGHT, WIDTH, 1))
    options = {"preset": "superfast", "crf": "23", "g": str(gop), "keyint_min": str(gop)}
    options["sc_threshold"] = "0"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(frames):
            shift = 2 * k % WIDTH
            picture = (wide[:, shift : shift + WIDTH] + noise[k % 16]).clip(0, 255)
            picture = np.ascontiguousarray(picture, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def clip_times(frames: int) -> np.ndarray:
    """Times of the frames of eight clips, one in each eighth of the film."""
    random = np.random.default_rng(1)
    part = frames // CLIPS
    starts = [k * part + int(random.integers(0, part - FRAMES * STRIDE)) for k in range(CLIPS)]
    return np.array([(s + STRIDE * j + 0.5) / FPS for s in starts for j in range(FRAMES)])


Read = tuple[torch.Tensor, np.ndarray]


def from_film(path: Path, times: np.ndarray) -> Read:
    with Video(path) as video:
        return video.read(times)


def from_shards(path: Path, entry: int, times: np.ndarray) -> Read:
    with PreparedFrames(path, entry) as frames:
        return frames.read(times)


def agree(least: float) -> Any:
    """Equal times; pictures no further apart than the worst frame that the shards state."""

    def check(small: Read, whole: Read) -> None:
        if not np.array_equal(small[1], whole[1]):
            raise WrongResult("times differ")
        rows, columns = small[0].shape[-2:]
        scaled = resized(whole[0], rows, columns, "bilinear")
        error = (scaled.double() - small[0].double()).square().mean(dim=(1, 2, 3)).max()
        found = 10 * math.log10(255**2 / float(error))
        if found < least - 1e-6:
            raise WrongResult(f"a frame has {found:.2f} dB, the shards state {least:.2f} at least")

    return check


def cases(room: Path, quick: bool) -> Iterator[Case]:
    frames = CLIPS * LONG // (10 if quick else 1)
    times = clip_times(frames)
    for gop, floor in ((LONG, 60.0), (SHORT, 20.0)):
        path = film(room / f"gop{gop}.mp4", frames, gop)
        done = prepare_shards(scan(path, depth="packets"), room / f"shards{gop}")
        catalog = Catalog.open(done.path)
        shard = done.path / str(catalog.table["shard"][0].as_py())
        yield Case(
            name=f"prepare/gop{gop}/clips",
            ours=lambda shard=shard: from_shards(shard, 0, times),
            peer=lambda path=path: from_film(path, times),
            peer_name="the mp4 file, rhyme.media.Video",
            same=agree(done.psnr_worst),
            at_least=floor,
            why="a shard decodes the wanted frames only, at training size",
            threads=1,
            rounds=7,
        )
        yield Case(
            name=f"prepare/gop{gop}/bytes",
            ours=lambda done=done: (done.bytes, None),
            peer=lambda done=done: (done.source_bytes, None),
            peer_name="the mp4 file",
            same=lambda ours, peer: None,
            measure=told,
            unit="bytes",
            at_least=1 / 1.6,
            why="a JPEG of 128 x 228 pixels takes about 7 kB, a frame of the film 5 to 6",
            rounds=1,
        )
