"""Lawful files that are not plain ones: what is told of them, and which pictures come out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rhyme.errors import LimitExceeded
from rhyme.media import Video, backends, probe
from rhyme.media import video as video_module
from rhyme.media.choice import Decoder

Film = Callable[..., Path]
Make = Callable[..., Path]


@pytest.fixture
def make(ffmpeg: str, tmp_path: Path) -> Make:
    """``make(name, *options)`` runs ffmpeg with these options and returns the new file."""

    def run(name: str, *options: str | Path) -> Path:
        out = tmp_path / name
        words = [ffmpeg, "-v", "error", "-y", *map(str, options), str(out)]
        subprocess.run(words, check=True, timeout=60)
        return out

    return run


def first_frame(path: Path) -> torch.Tensor:
    with Video(path) as video:
        return video.frames_at([0.0])[0]


def test_pixels_that_are_not_square_are_told_and_stay_as_they_are(film: Film, make: Make) -> None:
    wide = make("wide.mp4", "-i", film(), "-vf", "setsar=4/3", "-c:v", "libx264")
    assert probe(wide).pixel_aspect == pytest.approx(4 / 3)
    assert first_frame(wide).shape == (3, 48, 64)
    assert probe(film("plain.mp4")).pixel_aspect == 1


def test_interlaced_pictures_are_told(film: Film, make: Make) -> None:
    coded = ("-c:v", "libx264", "-flags", "+ilme+ildct", "-x264opts", "tff=1")
    assert probe(make("woven.mp4", "-i", film(), *coded)).interlaced
    assert not probe(film("plain.mp4")).interlaced


def test_a_cover_is_not_the_film(film: Film, make: Make) -> None:
    """It is larger, and stands first."""
    cover = make("cover.png", "-f", "lavfi", "-i", "color=red:size=320x240", "-frames:v", "1")
    both = make(
        "both.mp4", "-i", cover, "-i", film(), "-map", "0", "-map", "1", "-c", "copy",
        "-disposition:v:0", "attached_pic",
    )  # fmt: skip
    facts = probe(both)
    assert (facts.width, facts.height, facts.frames) == (64, 48, 50)


def test_of_two_films_the_default_one_is_read(film: Film, make: Make) -> None:
    large = make("large.mp4", "-i", film(), "-vf", "scale=128:96", "-c:v", "libx264")
    mapped = ("-i", large, "-i", film(), "-map", "0", "-map", "1", "-c", "copy")
    second = make("two.mkv", *mapped, "-disposition:v:0", "0", "-disposition:v:1", "default")
    assert probe(second).width == 64
    neither = make("none.mkv", *mapped, "-disposition:v:0", "0", "-disposition:v:1", "0")
    assert probe(neither).width == 128, "the larger one"


def test_a_size_that_changes_on_the_way_is_scaled_to_the_first(film: Film, make: Make) -> None:
    parts = [
        make(f"{side}.ts", "-i", film(), "-vf", f"scale={side}:48", "-c:v", "libx264")
        for side in (64, 96)
    ]
    joined = parts[0].with_name("joined.ts")
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with Video(joined) as video:
        frames = video.frames_at([0.0, 3.0])
    assert frames.shape == (2, 3, 48, 64)
    wanted = first_frame(parts[0])
    assert (frames[0].float() - wanted.float()).abs().mean() < 2


def test_stamps_that_go_backwards_are_repaired_by_order(film: Film, make: Make) -> None:
    plain = film(options={"bf": "0"})
    jump = r"setts=ts=if(gte(N\,30)\,TS-12288\,TS)"  # of 50 frames the last 20 begin anew
    odd = make("odd.mkv", "-i", plain, "-c", "copy", "-bsf:v", jump)
    facts = probe(odd, depth="packets")
    assert facts.repaired
    assert facts.frames == 50
    assert not probe(plain, depth="packets").repaired


def test_stamps_that_are_missing_are_repaired_by_order(film: Film) -> None:
    """AVI has none."""
    path = film("a.avi", options={"bf": "2"})
    facts = probe(path, depth="packets")
    assert facts.repaired
    with Video(path) as video:
        np.testing.assert_allclose(video.times, np.arange(50) / 25, atol=1e-9)


CUTS = {
    "by an edit": ("-ss", "0.5"),
    "by stamps below zero": ("-bsf:v", "setts=ts=TS-6400", "-avoid_negative_ts", "disabled"),
}


@pytest.mark.parametrize("how", sorted(CUTS))
def test_what_lies_before_the_beginning_is_not_shown(film: Film, make: Make, how: str) -> None:
    """Pictures before a cut are there, because later ones need them, and are hidden."""
    seek = CUTS[how][:2] if how == "by an edit" else ()
    after = () if seek else CUTS[how]
    cut = make("cut.mp4", *seek, "-i", film(n=100, gop=50), "-c", "copy", *after)
    shown = make("shown.rgb", "-i", cut, "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "0")
    truth = np.fromfile(shown, np.uint8).reshape(-1, 48, 64, 3)
    assert 80 < len(truth) < 90
    assert probe(cut, depth="packets").frames == len(truth)
    with Video(cut) as video:
        assert len(video.times) == len(truth)
        assert video.times[0] == 0
        for k in (0, 1, len(truth) - 1):
            found = video.frames_at([video.times[k]])[0].permute(1, 2, 0).numpy()
            assert np.abs(found.astype(int) - truth[k]).mean() < 2
        assert video.corrupt == 0


def test_the_header_of_a_trimmed_film_counts_what_is_shown(film: Film, make: Make) -> None:
    """Here all stored pictures together last hardly longer than those that an edit leaves."""
    whole = film(n=500, gop=100, options={"preset": "ultrafast"})
    cut = make("cut.mp4", "-ss", "0.48", "-i", whole, "-c", "copy")
    header, packets = probe(cut), probe(cut, depth="packets")
    assert header.depth == "header"
    assert header.frames == packets.frames == 488
    assert header.duration == pytest.approx(packets.duration, abs=1e-2)
    assert probe(whole).frames == 500


MATRICES = {"bt709": "bt709", "smpte170m": "bt601", "bt2020nc": "bt2020"}


@pytest.mark.parametrize("reach", ["tv", "pc"])
@pytest.mark.parametrize("space", sorted(MATRICES))
def test_colours_come_out_as_they_went_in(make: Make, space: str, reach: str) -> None:
    """Of any matrix, in limited and in full range, with both libraries."""
    path = make(
        "colour.mp4", "-f", "lavfi", "-i", "color=0xC83C1E:size=64x48:rate=25:duration=0.2",
        "-vf", f"scale=out_color_matrix={MATRICES[space]}:out_range={reach},format=yuv444p",
        "-c:v", "libx264", "-qp", "0", "-colorspace", space, "-color_range", reach,
    )  # fmt: skip
    usable = {b.name for b in backends() if b.usable}
    libraries: tuple[Decoder, ...] = ("pyav", "torchcodec")
    for library in (name for name in libraries if name in usable):
        with Video(path, decoder=library) as video:
            found = video.frames_at([0.0])[0, :, 24, 32].int()
        assert (found - torch.tensor([0xC8, 0x3C, 0x1E])).abs().max() <= 2, library


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        *[("ffv1", form) for form in ("yuva420p", "gray10le", "gray16le", "yuv444p16le")],
        *[("png", form) for form in ("pal8", "rgba", "ya8", "rgb48be")],
        *[("ffv1", "yuv420p12le"), ("libvpx-vp9", "yuva420p")],
    ],
)
def test_every_form_of_pixels_becomes_rgb(make: Make, codec: str, pixels: str) -> None:
    colour = ("-f", "lavfi", "-i", "color=red:size=64x48:rate=25:duration=0.2")
    path = make("form.mkv", *colour, "-pix_fmt", pixels, "-c:v", codec)
    found = first_frame(path)[:, 24, 32].int()
    grey = pixels.startswith(("gray", "ya8"))
    wanted = torch.tensor([76, 76, 76] if grey else [254, 0, 0])
    assert (found - wanted).abs().max() <= 3


def red(width: int, height: int) -> tuple[str, ...]:
    """Options for a film of one red picture."""
    source = ("-f", "lavfi", "-i", "color=red:size=64x64:rate=25:duration=0.04")
    return (*source, "-vf", f"scale={width}:{height}", "-c:v", "mjpeg", "-pix_fmt", "yuvj444p")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (16384, 16), (7680, 4320)])
def test_smallest_and_largest_pictures(make: Make, width: int, height: int) -> None:
    path = make("size.mkv", *red(width, height))
    facts = probe(path)
    assert (facts.width, facts.height) == (width, height)
    frame = first_frame(path)
    assert frame.shape == (3, height, width)
    assert (frame[:, -1, -1].int() - torch.tensor([254, 0, 0])).abs().max() <= 3


def test_wider_pictures_are_refused(make: Make) -> None:
    with pytest.raises(LimitExceeded, match="16400x16 pass the limit"):
        probe(make("wide.mkv", *red(16400, 16)))


@pytest.mark.parametrize("name", ["day.mp4", "day.mkv"])
def test_a_film_of_a_day_is_looked_at_without_reading_it(
    film: Film, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(name, n=2000, stamps=[i * 43 * 25 for i in range(2000)], options={"bf": "0"})

    def never(*given: object) -> None:
        raise AssertionError("the packets were read")

    monkeypatch.setattr(video_module, "scan_packets", never)
    assert probe(path).duration == pytest.approx(2000 * 43, rel=1e-3)


def test_subtitles_of_any_size_and_bytes_are_left_alone(
    film: Film, make: Make, tmp_path: Path
) -> None:
    plain, words = film(), tmp_path / "words.srt"
    words.write_text(
        "1\n00:00:00,000 --> 00:00:01,000\ncaf\u00e9\n\n"
        f"2\n00:00:01,000 --> 00:00:02,000\n{'x' * 1_000_000}\n"
    )
    both = make("both.mkv", "-i", plain, "-i", words, "-c", "copy", "-metadata", "title=caf\u00e9")
    data = both.read_bytes()
    assert data.count(b"x" * 1000) > 900
    assert data.count("caf\u00e9".encode()) == 2
    both.write_bytes(data.replace("caf\u00e9".encode(), b"caf\xff\xfe"))
    with Video(both) as video, Video(plain) as bare:
        assert torch.equal(video.frames_at(video.times), bare.frames_at(bare.times))
