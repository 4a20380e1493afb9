"""Clips of a long file: ``Video.frames_at`` against PyAV by hand, TorchCodec, decord2 and OpenCV.

Compared: clips of 8 frames of a 360p film of 80 s, H.264 with a key frame every 250 and every 12
frames, made on the spot. All sides open the file, read the clips and close it, on one decoder
thread, and leave uint8 RGB with a pixel's values side by side. The peers:

- *PyAV, a seek a clip*: to the key frame before the clip's first frame, then decode until it is
  complete, with the same kind of kept converter as ours;
- *PyAV, a seek a frame*: the same for every frame alone (one clip, or it would take minutes);
- *TorchCodec*, exact seeking, all frames in one call; *decord2*, the same; *OpenCV*, a seek a clip,
  ``grab`` for every frame, ``retrieve`` for the wanted ones. One that is not installed is left out.

``apart``: eight clips, each in a stretch of 250 frames of its own, so that no two share a group of
pictures. ``shared``: eight clips that begin within two groups of pictures. ``plain``: ``apart`` of
a film without B-frames, in which every picture is needed by others, as phones record them. Our
frame-time tables are kept by the process: the file is known, as it is from the second epoch on.
``first`` is the first reading of a file, its packets scanned anew each time. ``open`` opens a known
film of five minutes for sampling against TorchCodec's exact opening.

Checked: PyAV's frames are equal bit for bit; the others' are the same frames, at most 2 levels off
in the mean of each (neighbouring frames are more than 4 apart).

Expected: never below 0.95 of any of them, 1.3 times a seek a clip where clips share groups of
pictures, several times faster than a seek a frame, and opened 6 times faster.
"""

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from benchmarks.ratio import Case, WrongResult
from rhyme.media import Video

FPS, WIDTH, HEIGHT = 25, 640, 360
PIECE = 10  # seconds that are encoded; films repeat them
LONG, SHORT = 250, 12  # frames from one key frame to the next
CLIPS, FRAMES, STRIDE = 8, 8, 2
CHECKS = (
    "ours also opens the file through the allow-list and follows each packet to flag damage; where "
    "nearly every frame is wanted there is nothing to pass over"
)
Clips = list[list[int]]
Peer = Callable[[Path, Clips], torch.Tensor]


def film(path: Path, seconds: int, gop: int, *, plain: bool = False) -> Path:
    """A textured picture that drifts, under noise, so that frames differ and code badly."""
    random = np.random.default_rng(0)
    wide = np.kron(random.integers(0, 255, (HEIGHT // 20, WIDTH // 10, 3)), np.ones((20, 20, 1)))
    wide = wide[:HEIGHT].astype(np.int16)
    noise = random.integers(-12, 13, (16, HEIGHT, WIDTH, 1), dtype=np.int16)
    options = {"preset": "superfast", "crf": "23", "g": str(gop), "keyint_min": str(gop)}
    options["sc_threshold"] = "0"
    if plain:
        options["bf"] = "0"
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


def repeated(source: Path, path: Path, times: int) -> Path:
    """The packets of a film again and again, which is quicker than encoding a long one."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        packets = [p for p in given.demux(video=0) if p.size]
        stream = container.add_stream_from_template(given.streams.video[0])
        length = sum(int(p.duration or 0) for p in packets)
        for _ in range(times):
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
                packet.pts = int(packet.pts or 0) + length
                packet.dts = int(packet.dts or 0) + length
    return path


def apart(frames: int) -> Clips:
    """Frame numbers of clips, one in each long group of pictures."""
    random = np.random.default_rng(1)
    span = (FRAMES - 1) * STRIDE
    part = LONG
    starts = [k * part + int(random.integers(0, part - span)) for k in range(frames // LONG)]
    return [[s + STRIDE * j for j in range(FRAMES)] for s in starts]


def shared(frames: int, gop: int) -> Clips:
    """Frame numbers of clips that begin within two groups of pictures."""
    random = np.random.default_rng(2)
    first = frames // 3 // gop * gop
    last = min(first + 2 * gop, frames - (FRAMES - 1) * STRIDE)
    starts = np.sort(random.integers(first, last, CLIPS))
    return [[int(s) + STRIDE * j for j in range(FRAMES)] for s in starts]


def ours(path: Path, clips: Clips) -> torch.Tensor:
    """All clips in one request."""
    times = [(k + 0.5) / FPS for clip in clips for k in clip]
    with Video(path) as video:
        return video.frames_at(times)


def by_hand(path: Path, clips: Clips) -> torch.Tensor:
    """A seek for each list of frames, then decoding until its last one has come."""
    convert = VideoReformatter()
    wanted_frames = sum(len(clip) for clip in clips)
    out = torch.empty((wanted_frames, HEIGHT, WIDTH, 3), dtype=torch.uint8)
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
                    target[place] = rgb
                    place += 1
                if not left:
                    break
    return out.permute(0, 3, 1, 2)


def by_torchcodec(path: Path, clips: Clips) -> torch.Tensor:
    """All frames in one call."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
    return decoder.get_frames_at([k for clip in clips for k in clip]).data


def by_decord(path: Path, clips: Clips) -> torch.Tensor:
    """All frames in one call."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    batch = reader.get_batch([k for clip in clips for k in clip])
    return torch.from_numpy(batch.asnumpy()).permute(0, 3, 1, 2)


def by_opencv(path: Path, clips: Clips) -> torch.Tensor:
    """A seek a clip; only wanted frames are converted."""
    import cv2

    cv2.setNumThreads(1)
    count = sum(len(clip) for clip in clips)
    out = torch.empty((count, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    target, place = out.numpy(), 0
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for clip in clips:
        capture.set(cv2.CAP_PROP_POS_FRAMES, clip[0])
        for k in range(clip[0], clip[-1] + 1):
            capture.grab()
            if k in clip:
                _, picture = capture.retrieve()
                cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=target[place])
                place += 1
    capture.release()
    return out.permute(0, 3, 1, 2)


PEERS: dict[str, tuple[str, Peer]] = {
    "torchcodec": ("TorchCodec, exact", by_torchcodec),
    "decord": ("decord2", by_decord),
    "cv2": ("OpenCV, a seek a clip", by_opencv),
}


def installed() -> dict[str, tuple[str, Peer]]:
    """The peers that can be imported; the others are named on the way."""
    found: dict[str, tuple[str, Peer]] = {}
    for module, peer in PEERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"left out, not installed: {peer[0]}", file=sys.stderr)
        else:
            found[module] = peer
    return found


def equal(first: torch.Tensor, second: torch.Tensor) -> None:
    if not torch.equal(first, second):
        raise WrongResult("frames differ")


def same_frames(first: torch.Tensor, second: torch.Tensor) -> None:
    apart = (first.float() - second.float()).abs().flatten(1).mean(1)
    if apart.max() > 2:
        raise WrongResult(f"frames differ by {float(apart.max()):.2f} levels in the mean")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    times = 1 if quick else 8
    frames = times * PIECE * FPS
    clock = itertools.count(1)
    peers = installed()

    def case(name: str, path: Path, clips: Clips, module: str = "", **more: Any) -> Case:
        title, peer = ("PyAV, a seek a clip", by_hand) if not module else peers[module]
        given: dict[str, Any] = {
            "name": f"decode/{name}" + (f"/{module}" if module else ""),
            "ours": lambda: ours(path, clips),
            "peer": lambda: peer(path, clips),
            "peer_name": title,
            "same": same_frames if module else equal,
            "at_least": 0.95,
            "why": "at least the same pictures are decoded by the other side",
            "cause": CHECKS,
            "rounds": 5,
        }
        return Case(**{**given, **more})

    for gop in (LONG, SHORT):
        path = repeated(film(room / "one.mp4", PIECE, gop), room / f"gop{gop}.mp4", times)
        piece = film(room / "one.mp4", PIECE, gop, plain=True)
        plain = repeated(piece, room / f"plain{gop}.mp4", times)
        far, near = apart(frames), shared(frames, gop)

        def first(path: Path = path, clips: Clips = far) -> torch.Tensor:
            stamp = 1_000_000_000 + next(clock)  # a new time of change: a file not seen before
            os.utime(path, (stamp, stamp))
            return ours(path, clips)

        yield case(f"gop{gop}/apart", path, far)
        why = "a group of pictures is decoded once for all its clips"
        yield case(f"gop{gop}/shared", path, near, at_least=1.3, why=why)
        yield case(f"gop{gop}/plain", plain, far)
        why = "a scan of the packets is small beside the decoding"
        yield case(f"gop{gop}/first", path, far, ours=first, why=why)
        for module in peers:
            yield case(f"gop{gop}/apart", path, far, module)
            yield case(f"gop{gop}/shared", path, near, module)
            yield case(f"gop{gop}/plain", plain, far, module)
        few = far[:1]
        yield case(
            f"gop{gop}/frames",
            path,
            few,
            peer=lambda path=path, few=few: by_hand(path, [[k] for clip in few for k in clip]),
            peer_name="PyAV, a seek a frame",
            at_least=3.0 if gop == LONG else 1.3,
            why="a seek a frame decodes the same pictures again and again",
        )
    if "torchcodec" in peers:
        yield opening(room, 1 if quick else 30)


def opening(room: Path, times: int) -> Case:
    """A known film made ready for sampling: frame times at hand, no picture decoded."""
    from torchcodec.decoders import VideoDecoder

    path = repeated(film(room / "one.mp4", PIECE, SHORT), room / "long.mp4", times)

    def ready() -> np.ndarray:
        with Video(path) as video:
            return video.times

    def exact() -> np.ndarray:
        decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
        return np.arange(decoder.metadata.num_frames or 0) / FPS

    def same_times(first: np.ndarray, second: np.ndarray) -> None:
        if len(first) != len(second) or np.abs(first - second).max() > 1e-3:
            raise WrongResult("frame times differ")

    return Case(
        name="decode/open",
        ours=ready,
        peer=exact,
        peer_name="TorchCodec, exact",
        same=same_times,
        at_least=6.0,
        why="the table is known, and nothing is decoded to probe the file",
        cause="",
        rounds=9,
    )
