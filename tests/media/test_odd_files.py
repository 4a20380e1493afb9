"""Lawful files that are not plain ones: what is told of them, and which pictures come out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rhyme.media import Video, probe

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
