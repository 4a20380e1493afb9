"""Clips of a long file: ``Video.frames_at`` against PyAV used by hand.

Compared: clips of 8 frames of a 360p film of 60 s, H.264 with a key frame every 250 and every 12
frames, made on the spot. Both sides open the file, read the clips and close it, on one decoder
thread, and turn pictures into RGB with the same kind of kept converter, so that the difference lies
in where each seeks and what it decodes. The peers:

- *a seek a clip*: to the key frame before the clip's first frame, then decode until it is complete;
- *a seek a frame*: the same for every frame alone (one clip, or it would take minutes).

``apart``: six clips, each in a stretch of 250 frames of its own, so that no two share a group of
pictures. ``shared``: eight clips that begin within two groups of pictures. Our frame-time tables
are kept by the process: the file is known, as it is from the second epoch on. ``first`` is the
first reading of a file, its packets scanned anew each time.

Checked: all frames are equal, bit for bit.

Expected: at least as fast as a seek a clip (never below 0.95), 1.3 times where clips share groups
of pictures, and several times faster than a seek a frame.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from benchmarks.ratio import Case, WrongResult
from rhyme.media import Video

FPS, WIDTH, HEIGHT = 25, 640, 360
LONG, SHORT = 250, 12  # frames from one key frame to the next
CLIPS, FRAMES, STRIDE = 8, 8, 2
CHECKS = (
    "both decode the same number of pictures; ours also opens the file through the allow-list and "
    "follows each packet to flag damage, about 4 % of processor time with short groups"
)


def film(path: Path, seconds: int, gop: int) -> Path:
    """A textured picture that drifts, under noise, so that frames differ and code badly."""
    random = np.random.default_rng(0)
    wide = np.kron(random.integers(0, 255, (HEIGHT // 20, WIDTH // 10, 3)), np.ones((20, 20, 1)))
    wide = wide[:HEIGHT].astype(np.int16)
    noise = random.integers(-12, 13, (16, HEIGHT, WIDTH, 1), dtype=np.int16)
    options = {"preset": "superfast", "crf": "23", "g": str(gop), "keyint_min": str(gop)}
    options["sc_threshold"] = "0"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(seconds * FPS):
            shift = k % WIDTH
            picture = wide[:, shift : shift + WIDTH] + noise[k % 16]
            picture = np.ascontiguousarray(picture.clip(0, 255), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def apart(frames: int) -> list[list[int]]:
    """Frame numbers of clips, one in each long group of pictures."""
    random = np.random.default_rng(1)
    span = (FRAMES - 1) * STRIDE
    part = LONG
    starts = [k * part + int(random.integers(0, part - span)) for k in range(frames // LONG)]
    return [[s + STRIDE * j for j in range(FRAMES)] for s in starts]


def shared(frames: int, gop: int) -> list[list[int]]:
    """Frame numbers of clips that begin within two groups of pictures."""
    random = np.random.default_rng(2)
    first = frames // 3 // gop * gop
    last = min(first + 2 * gop, frames - (FRAMES - 1) * STRIDE)
    starts = np.sort(random.integers(first, last, CLIPS))
    return [[int(s) + STRIDE * j for j in range(FRAMES)] for s in starts]


def ours(path: Path, clips: list[list[int]]) -> torch.Tensor:
    """All clips in one request."""
    times = [(k + 0.5) / FPS for clip in clips for k in clip]
    with Video(path) as video:
        return video.frames_at(times)


def by_hand(path: Path, clips: list[list[int]]) -> torch.Tensor:
    """A seek for each list of frames, then decoding until its last one has come."""
    convert = VideoReformatter()
    wanted_frames = sum(len(clip) for clip in clips)
    out = torch.empty((wanted_frames, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    target, place = out.numpy(), 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ticks = round(1 / (FPS * float(stream.time_base)))
        start = stream.start_time or 0
        for clip in clips:
            container.seek(start + clip[0] * ticks, stream=stream, backward=True)
            left = set(clip)
            for frame in container.decode(stream):
                number = (frame.pts - start) // ticks
                if number in left:
                    left.remove(number)
                    rgb = convert.reformat(frame, WIDTH, HEIGHT, "rgb24", threads=1).to_ndarray()
                    target[place] = rgb.transpose(2, 0, 1)
                    place += 1
                if not left:
                    break
    return out


def equal(first: torch.Tensor, second: torch.Tensor) -> None:
    if not torch.equal(first, second):
        raise WrongResult("frames differ")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    length = 20 if quick else 60
    frames = length * FPS
    clock = itertools.count(1)
    for gop in (LONG, SHORT):
        path = film(room / f"gop{gop}.mp4", length, gop)
        far, near = apart(frames), shared(frames, gop)

        def first(path: Path = path, clips: list[list[int]] = far) -> torch.Tensor:
            stamp = 1_000_000_000 + next(clock)  # a new time of change: a file not seen before
            os.utime(path, (stamp, stamp))
            return ours(path, clips)

        for kind, clips, side, floor, why in (
            ("apart", far, None, 0.95, "both decode the same pictures"),
            ("first", far, first, 0.95, "a scan of the packets is small beside the decoding"),
            ("shared", near, None, 1.3, "a group of pictures is decoded once for all its clips"),
        ):
            yield Case(
                name=f"decode/gop{gop}/{kind}",
                ours=side or (lambda path=path, clips=clips: ours(path, clips)),
                peer=lambda path=path, clips=clips: by_hand(path, clips),
                peer_name="PyAV, a seek a clip",
                same=equal,
                at_least=floor,
                why=why,
                cause=CHECKS,
                rounds=5,
            )
        few = far[:1]
        yield Case(
            name=f"decode/gop{gop}/frames",
            ours=lambda path=path, few=few: ours(path, few),
            peer=lambda path=path, few=few: by_hand(path, [[k] for clip in few for k in clip]),
            peer_name="PyAV, a seek a frame",
            same=equal,
            at_least=3.0 if gop == LONG else 1.3,
            why="a seek a frame decodes the same pictures again and again",
        )
