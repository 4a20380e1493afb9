"""Frames by time: the right ones, bit for bit, each group of pictures decoded at most once."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream

from rhyme.errors import LimitExceeded, MediaError
from rhyme.media import FrameReader, FrameTable, Limits, Video, probe
from rhyme.media import decoder as decoder_module
from rhyme.media import video as video_module
from rhyme.media.container import Opened
from rhyme.media.decoder import FrameDecoder, Session

Film = Callable[..., Path]
Decode = Callable[[Path], torch.Tensor]

REFRESH = {"width": 320, "gop": 24, "options": {"intra-refresh": "1"}}
"""Columns of blocks are refreshed one after another; a key packet is the first of twenty."""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("sound.mp4", {"sound": np.sin}),
        ("fast.mov", {"faststart": True}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("open.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:scenecut=0"}}),
        ("refresh.mp4", REFRESH),
        ("refresh.ts", REFRESH),
        ("a.mkv", {"sound": np.sin}),
        ("a.ts", {"sound": np.sin}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("reordered.avi", {}),
        ("a.gif", {"codec": "gif", "pixels": "rgb8", "n": 12}),
        ("mjpeg.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("odd.mp4", {"width": 63, "height": 47, "pixels": "yuv444p"}),
        ("ten.mp4", {"pixels": "yuv420p10le"}),
        ("gray.mkv", {"codec": "ffv1", "pixels": "gray"}),
        ("wide.mov", {"codec": "prores_ks", "pixels": "yuv422p10le"}),
        ("later.mp4", {"stamps": [i + 30 for i in range(50)]}),
        ("uneven.mp4", {"stamps": [i + i * i // 10 for i in range(50)]}),
        ("one.mp4", {"n": 1}),
    ],
)
def test_any_times_in_any_order_equal_sequential_decoding(
    film: Film, plain_decode: Decode, name: str, options: dict[str, object]
) -> None:
    path = film(name, **options)
    truth = plain_decode(path)
    with Video(path) as video:
        n = len(truth)
        assert len(video.times) == n
        assert video.info.frames == n
        assert video.times[0] == 0
        assert np.all(np.diff(video.times) > 0)
        random = np.random.default_rng(0)
        for _ in range(6):
            k = random.integers(0, n, 9)
            pictures, times = video.read(video.times[k] + 0.002)
            assert torch.equal(pictures, truth[k])
            np.testing.assert_array_equal(times, video.times[k])
        assert video.corrupt == 0
    # Opened again, the file is known: nothing is probed, and nothing changes.
    with Video(path) as video:
        k = random.integers(0, n, 9)
        assert torch.equal(video.frames_at(video.times[k] + 0.002), truth[k])
        assert torch.equal(video.frames_at(video.times), truth)


LEANING = [
    ("b.mp4", {"options": {"bf": "3", "b-pyramid": "none", "refs": "1"}}),
    ("pyramid.mkv", {"options": {"bf": "4", "b-pyramid": "normal", "refs": "4"}}),
    ("interlaced.mp4", {"options": {"bf": "3", "x264-params": "tff=1"}}),
    ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=4"}}),
    ("mpeg4.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
    ("mpeg2.ts", {"codec": "mpeg2video", "options": {"bf": "2"}}),
    ("uneven.mp4", {"options": {"bf": "3"}, "stamps": [i + i * i // 10 for i in range(50)]}),
]


@pytest.mark.parametrize(("name", "options"), LEANING)
def test_pictures_that_nobody_needs_are_not_decoded(
    film: Film, plain_decode: Decode, name: str, options: dict[str, object]
) -> None:
    noise = np.random.default_rng(0).integers(0, 60, (50, 48, 64, 3), dtype=np.uint8)
    path = film(name, gop=25, picture_of=lambda i, n, w, h: noise[i] + i, **options)
    truth = plain_decode(path)
    random = np.random.default_rng(1)
    with Video(path) as video:
        n = len(video.times)
        assert n == len(truth)
        for _ in range(12):
            k = np.sort(random.choice(n, random.integers(1, 6), replace=False))
            assert torch.equal(video.frames_at(video.times[k]), truth[k])
            # Going on one by one from there, and a step back.
            for i in (int(k[-1]) + 1, int(k[-1]) + 2, int(k[0]) + 1):
                i = min(i, n - 1)
                assert torch.equal(video.frames_at([video.times[i]]), truth[i : i + 1])
        before = video.decoded_frames
        video.frames_at(video.times[[0, 24]])
        assert video.decoded_frames - before < 22
        assert video.corrupt == 0


def test_a_missing_picture_is_stood_in_for_by_the_one_before_it(
    film: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    path = film(n=60, gop=20, options={"bf": "3"}, picture_of=lambda i, *_: noise[i])
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as source:
        packets = [p for p in source.demux(video=0) if p.size]
    # Every seventh packet loses its slice header, and with it its picture.
    for packet in packets[5::7]:
        data[packet.pos + 4 : packet.pos + 12] = bytes(8)
    path.write_bytes(data)
    asked = [[3.0, 9.0, 14.0, 15.0], [25.0, 31.0, 33.0], list(range(0, 60, 3)), [57.0]]
    found: list[list[torch.Tensor]] = []
    for spared in (True, False):
        if not spared:
            monkeypatch.setattr(decoder_module, "_has_spares", lambda stream: False)
        with Video(path) as video:
            found.append([video.frames_at(np.array(k) / 25) for k in asked])
            assert video.corrupt > 0
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_a_missing_key_picture_is_stood_in_for_like_any_other(film: Film) -> None:
    """Decoding from it gives no picture before the next one; those are shown much later."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    plain = {"bf": "0", "sc_threshold": "0"}
    path = film(n=60, gop=12, options=plain, picture_of=lambda i, *_: noise[i])
    with av.open(str(path)) as source:
        keys = [p for p in source.demux(video=0) if p.size and p.is_keyframe]
    assert len(keys) == 5
    data = bytearray(path.read_bytes())
    for packet in keys[2:4]:
        assert packet.pos is not None
        data[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    path.write_bytes(data)
    with Video(path) as video:
        ordered = torch.cat([video.frames_at([time]) for time in video.times])
        times, damaged = video.times, video.damaged
    assert torch.equal(ordered[24], ordered[23])
    for k in (36, 24, 25, 47, 30, 48):
        with Video(path) as video:
            assert torch.equal(video.frames_at([times[k]])[0], ordered[k])
            assert video.damaged == damaged & {k}


def test_that_a_refresh_takes_long_is_found_out_once(film: Film, plain_decode: Decode) -> None:
    path = film(n=96, **REFRESH)
    truth = plain_decode(path)
    with Video(path) as video:
        key = int(video.table.entry[-1])
    decoded: list[int] = []
    for k in (key + 2, key + 2, key + 4):
        with Video(path) as video:
            assert torch.equal(video.frames_at([video.times[k]])[0], truth[k])
            assert video.corrupt == 0
            decoded.append(video.decoded_frames)
    assert decoded[0] > decoded[1]
    assert max(decoded[1:]) <= 24 + 5


def test_a_request_given_up_midway_spoils_nothing(film: Film, plain_decode: Decode) -> None:
    path = film(n=50, gop=50, options={"bf": "3"})
    truth = plain_decode(path)
    with Video(path) as video:
        decoder = FrameDecoder(Session(path, video.limits), video.table)
        next(decoder.frames([4, 40]))
        for k in (5, 6, 7, 3):
            for _, frame, _ in decoder.frames([k]):
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                assert torch.equal(picture, truth[k])


def test_a_known_file_is_opened_without_decoding(
    film: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(sound=np.sin, rotation=90.0)
    with Video(path) as video:
        info, sound = video.info, video.audio(0.0, 0.5, 8000)
        header = video.header()
    with Video(path) as video:
        assert video.frames_at([1.0]).shape == (1, 3, 64, 48)
        assert video._session is not None
        assert not video._session.probed
        assert video.info == info
        again = video.audio(0.0, 0.5, 8000)
        assert sound is not None
        assert again is not None
        assert torch.equal(again, sound)
        assert not video._session.probed
    with Video(path) as video:
        assert (header.frames, header.rotation) == (info.frames, info.rotation)
        assert torch.equal(video.frames_at([1.0]), video.frames_at([1.0]))


def test_every_group_of_pictures_is_decoded_at_most_once(film: Film, plain_decode: Decode) -> None:
    path = film(n=240, gop=12)
    truth = plain_decode(path)
    with Video(path) as video:
        times = video.times
        before = video.decoded_frames
        # Sixteen clips of four frames, shuffled, with repeats, spread over the whole file.
        starts = np.random.default_rng(1).integers(0, 236, 16)
        k = np.concatenate([starts + i for i in (3, 1, 0, 2, 0)])
        assert torch.equal(video.frames_at(times[k]), truth[k])
        groups = len(np.unique(k // 12))
        assert video.decoded_frames - before <= 12 * groups


def test_far_frames_are_reached_by_seeking(film: Film) -> None:
    with Video(film(n=240, gop=12)) as video:
        video.frames_at([9.5])
        assert video.decoded_frames <= 12


def test_reading_on_continues_without_decoding_again(film: Film) -> None:
    with Video(film(n=100, gop=100)) as video:
        for time in video.times:
            video.frames_at([time])
        assert video.decoded_frames == 100


def test_the_frame_shown_at_a_time(film: Film) -> None:
    with Video(film(n=10, fps=25)) as video:
        asked = [-5.0, 0.0, 0.0399, 0.04 - 1e-8, 0.059, 0.08, 0.37, 99.0]
        _, times = video.read(asked)
        np.testing.assert_allclose(times, [0, 0, 0, 0.04, 0.04, 0.08, 0.36, 0.36], atol=1e-9)


def test_uneven_frames_go_by_time_not_by_number(film: Film) -> None:
    stamps = [0, 1, 2, 10, 11, 40]
    with Video(film(n=6, stamps=stamps)) as video:
        np.testing.assert_allclose(video.times, np.array(stamps) / 25, atol=1e-4)
        _, times = video.read([0.3, 1.5])
        np.testing.assert_allclose(times, [0.08, 0.44], atol=1e-4)
        assert video.info.variable


def test_late_start_counts_from_the_first_frame(film: Film) -> None:
    info = probe(film(stamps=[i + 30 for i in range(50)]), "packets")
    assert info.start == pytest.approx(1.2, abs=1e-3)
    assert info.duration == pytest.approx(2.0, abs=1e-3)


def test_very_fast_and_very_slow_files(film: Film) -> None:
    assert probe(film("fast.mp4", fps=1000), "packets").fps == pytest.approx(1000, rel=1e-3)
    slow = probe(film("slow.mkv", n=5, stamps=[0, 250, 500, 750, 1000]), "packets")
    assert slow.fps == pytest.approx(0.1, rel=1e-3)
    assert slow.duration >= 40


@pytest.mark.parametrize("degrees", [90.0, 180.0, 270.0])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation_and_mirroring_are_applied(
    film: Film, plain_decode: Decode, degrees: float, flip: bool
) -> None:
    path = film(n=3, rotation=degrees, flip=flip)
    stored = plain_decode(path)
    # Counter-clockwise in FFmpeg's convention; the mirror comes after the turn.
    turned = torch.rot90(stored, int(degrees) // 90, (2, 3))
    turned = turned.flip(3) if flip else turned
    with Video(path) as video:
        assert torch.equal(video.frames_at(video.times), turned)
        size = (video.info.height, video.info.width)
        assert size == tuple(turned.shape[2:])
        header = probe(path)
        assert (header.height, header.width, header.rotation) == (*size, video.info.rotation)
        if not flip:
            assert video.info.rotation == 360 - degrees


def test_header_probe_agrees_with_packets_on_a_sound_file(film: Film) -> None:
    path = film(sound=np.sin)
    header, packets = probe(path), probe(path, "packets")
    for name in ("frames", "width", "height", "codec", "audio", "rotation", "partial", "container"):
        assert getattr(header, name) == getattr(packets, name)
    assert header.duration == pytest.approx(packets.duration, abs=0.05)
    assert header.depth == "header"


def test_pickles_as_its_path_and_refuses_another_process(film: Film) -> None:
    video = Video(film(n=5))
    truth = video.frames_at([0.1])
    copy = pickle.loads(pickle.dumps(video))
    assert torch.equal(copy.frames_at([0.1]), truth)
    copy.close()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            video.frames_at([0.1])
            os.write(writing, b"read")
        except MediaError as error:
            os.write(writing, error.cause.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"another" in os.read(reading, 200)
    assert torch.equal(video.frames_at([0.1]), truth)
    video.close()
    os.close(reading)
    os.close(writing)


def test_opening_again_needs_no_second_scan(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(n=30)
    scans: list[object] = []
    real = video_module.scan_packets

    def watched(opened: Opened, stream: VideoStream, limits: Limits) -> FrameTable:
        scans.append(opened.path)
        return real(opened, stream, limits)

    monkeypatch.setattr(video_module, "scan_packets", watched)
    for _ in range(3):
        with Video(path) as video:
            video.frames_at([0.5])
    assert len(scans) == 1
    path.write_bytes(film("other.mp4", n=20).read_bytes())
    with Video(path) as video:
        assert len(video.times) == 20
    assert len(scans) == 2


def test_closing_and_using_again(film: Film) -> None:
    video = Video(film(n=5))
    first = video.frames_at([0.1])
    video.close()
    assert torch.equal(video.frames_at([0.1]), first)
    assert isinstance(video, FrameReader)
    video.close()


def test_limits_are_checked_before_anything_is_decoded(film: Film) -> None:
    path = film(width=128, height=64)
    for limits in (
        Limits(max_width=100),
        Limits(max_pixels=8000),
        Limits(max_frames=20),
        Limits(max_duration=1.0),
        Limits(max_bytes=100),
        Limits(max_streams=0),
    ):
        with pytest.raises(LimitExceeded), Video(path, limits=limits) as video:
            video.frames_at([0.0])
        assert video.decoded_frames == 0
    with (
        pytest.raises(LimitExceeded),
        Video(path, limits=Limits(max_request_bytes=128 * 64 * 3)) as video,
    ):
        video.frames_at([0.0, 0.1])


def test_wrong_times_are_refused(film: Film) -> None:
    with Video(film(n=3)) as video:
        with pytest.raises(MediaError):
            video.frames_at([float("nan")])
        assert video.frames_at([]).shape == (0, 3, 48, 64)


def test_real_clips(data: Path, plain_decode: Decode) -> None:
    clips = sorted((data / "action").glob("*/*.mp4"))[:4]
    clips += sorted((data / "action").glob("*/*/*.mp4"))[::60]
    assert len(clips) > 6
    for path in clips:
        with Video(path) as video:
            k = np.random.default_rng(2).integers(0, len(video.times), 5)
            pictures = video.frames_at(video.times[k])
            if len(video.times) < 200:
                assert torch.equal(pictures, plain_decode(path)[k])
            assert pictures.shape[2:] == (video.info.height, video.info.width)
