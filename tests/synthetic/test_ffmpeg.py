"""The world's files as another program reads them: the system's FFmpeg."""

import json
import subprocess
from pathlib import Path

import pytest

from rhyme.synthetic import WorldConfig, read_labels, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ffmpeg") / "world"
    write_world(WorldConfig(videos=6, size=64, seed=5, untrimmed=1), out)
    return out


def probe(ffmpeg: str, file: Path) -> dict:
    command = [ffmpeg.replace("ffmpeg", "ffprobe"), "-v", "error", "-of", "json", "-count_frames"]
    found = subprocess.run(
        [*command, "-show_streams", str(file)], capture_output=True, text=True, check=True
    )
    return {stream["codec_type"]: stream for stream in json.loads(found.stdout)["streams"]}


def test_every_file_is_h264_with_aac_of_the_stated_length(ffmpeg: str, world: Path) -> None:
    rows = read_labels(world)
    assert len(rows) == 7
    for row in rows:
        streams = probe(ffmpeg, world / row.path)
        video, sound = streams["video"], streams["audio"]
        assert (video["codec_name"], sound["codec_name"]) == ("h264", "aac")
        assert (video["width"], video["height"]) == (64, 64)
        assert int(video["nb_read_frames"]) == row.frames
        assert float(sound["duration"]) == pytest.approx(row.frames / 8.0, abs=0.002)


def test_nothing_in_them_is_damaged(ffmpeg: str, world: Path) -> None:
    for row in read_labels(world):
        done = subprocess.run(
            [ffmpeg, "-v", "error", "-i", str(world / row.path), "-f", "null", "-"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
