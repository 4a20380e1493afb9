"""Sound on the clock of the pictures."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from rhyme.errors import LimitExceeded, MediaError, NoVideoStream
from rhyme.media import Limits, Sound, Video, open_reader, probe

Film = Callable[..., Path]


def chirp(t: np.ndarray) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * (200 * t + 300 * t**2))


def lag(found: np.ndarray, truth: np.ndarray) -> int:
    """Samples by which the found sound comes late, by correlation."""
    spans = range(-40, 41)
    core = slice(60, -60)
    scores = [np.corrcoef(np.roll(found, -s)[core], truth[core])[0, 1] for s in spans]
    best = int(np.argmax(scores))
    assert scores[best] > 0.97
    return spans[best]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mkv", {}),
        ("a.ts", {}),
        ("pcm.mov", {"sound_codec": "pcm_s16le"}),
        ("low.mp4", {"rate": 8000}),
    ],
)
@pytest.mark.parametrize("rate", [22050, 16000, 8000])
def test_sound_is_where_the_pictures_are(
    film: Film, name: str, options: dict[str, object], rate: int
) -> None:
    path = film(name, sound=chirp, **options)
    with Video(path) as video:
        for start, stop in ((0.0, 1.0), (0.613, 1.4), (1.1, 1.9)):
            found = video.audio(start, stop, rate)
            assert found is not None
            count = round((stop - start) * rate)
            assert found.shape == (1, count)
            truth = chirp(start + np.arange(count) / rate)
            assert abs(lag(found[0].numpy(), truth)) <= 1


def test_opus_in_matroska_is_right_to_a_millisecond(film: Film) -> None:
    """Its stamps are whole milliseconds, and all of its blocks are rounded alike."""
    path = film("a.webm", codec="libvpx", sound=chirp, sound_codec="libopus", rate=48000)
    with Video(path) as video:
        for start in (0.0, 0.613):
            found = video.audio(start, start + 1.0, 48000)
            assert found is not None
            truth = chirp(start + np.arange(48000) / 48000)
            assert abs(lag(found[0].numpy(), truth)) < 40  # as far as it looks


def test_outside_of_the_sound_is_silence(film: Film) -> None:
    with Video(film(sound=chirp, seconds=1.0)) as video:
        late = video.audio(1.5, 3.0, 16000)
        early = video.audio(-2.0, -1.0, 16000)
        assert late is not None
        assert early is not None
        assert late.shape == (1, 24000)
        assert float(late.abs().max()) == 0
        assert float(early.abs().max()) == 0


def test_windows_join_without_a_seam(film: Film) -> None:
    with Video(film(sound=chirp)) as video:
        whole = video.audio(0.2, 1.2, 22050)
        left, right = video.audio(0.2, 0.7, 22050), video.audio(0.7, 1.2, 22050)
        assert whole is not None
        assert left is not None
        assert right is not None
        joined = np.concatenate([left.numpy(), right.numpy()], axis=1)
        np.testing.assert_allclose(joined, whole.numpy(), atol=2e-3)


def test_no_track_is_none(film: Film) -> None:
    with Video(film(n=5)) as video:
        assert video.audio(0, 1, 16000) is None
        assert video.info.audio is None


@pytest.fixture
def with_sound(ffmpeg: str, film: Film, tmp_path: Path) -> Callable[..., Path]:
    """A film of two seconds with a sound that an expression gives."""

    def make(name: str, wave: str, *before: str, form: str = "s=48000:d=2", codec: str) -> Path:
        out, source = tmp_path / name, film("plain.mp4")
        words = [ffmpeg, "-v", "error", "-i", source, *before, "-f", "lavfi"]
        words += ["-i", f"aevalsrc={wave}:{form}", "-c:v", "copy", "-c:a", codec, out]
        subprocess.run([str(w) for w in words], check=True, timeout=60)
        return out

    return make


def test_every_channel_is_kept(with_sound: Callable[..., Path]) -> None:
    waves = "0.5*sin(2*PI*440*t)|0|0|0|0.25*sin(2*PI*660*t)|0"
    path = with_sound("six.mp4", waves, form="c=5.1:s=48000:d=2", codec="aac")
    with Video(path) as video:
        assert video.info.audio is not None
        assert video.info.audio.channels == 6
        found = video.audio(0.5, 1.0, 16000)
    assert found is not None
    assert found.shape == (6, 8000)
    loud = found.abs().amax(1).numpy()
    np.testing.assert_allclose(loud, [0.5, 0, 0, 0, 0.25, 0], atol=0.02)


@pytest.mark.parametrize("late", ["sound", "pictures"])
def test_sound_and_pictures_that_begin_apart(
    with_sound: Callable[..., Path], ffmpeg: str, tmp_path: Path, late: str
) -> None:
    wave = "0.5*sin(2*PI*440*t+1)"
    path = with_sound("a.mkv", wave, "-itsoffset", "0.5", form="s=48000:d=1", codec="pcm_s16le")
    first, last = 0.5, 1.5
    if late == "pictures":
        plain, path = path, tmp_path / "b.mkv"
        words = [ffmpeg, "-v", "error", "-itsoffset", "0.8", "-i", plain, "-i", plain]
        words += ["-map", "0:v", "-map", "1:a", "-c", "copy", path]
        subprocess.run([str(w) for w in words], check=True, timeout=60)
        first, last = -0.3, 0.7
    with Video(path) as video:
        found = video.audio(-1.0, 2.0, 48000)
    assert found is not None
    heard = np.flatnonzero(found[0].abs().numpy() > 0.02) / 48000 - 1.0
    assert heard[0] == pytest.approx(first, abs=2e-3)  # Matroska rounds to milliseconds
    assert heard[-1] == pytest.approx(last, abs=2e-3)


@pytest.mark.parametrize("wave", ["0/0", "1/0", "0"])
def test_sound_that_is_no_number_is_silence(with_sound: Callable[..., Path], wave: str) -> None:
    path = with_sound("nan.mov", wave, form="s=8000:d=2", codec="pcm_f32le")
    with av.open(str(path)) as source:
        raw = next(source.decode(audio=0)).to_ndarray()
    assert np.isfinite(raw).all() == (wave == "0")
    with Video(path) as video:
        found = video.audio(0.0, 1.0, 8000)
    assert found is not None
    assert found.shape == (1, 8000)
    assert float(found.abs().max()) == 0


def test_wrong_windows_are_refused(film: Film) -> None:
    with Video(film(sound=chirp), limits=Limits(max_request_bytes=1 << 20)) as video:
        for start, stop, rate in ((1.0, 0.0, 8000), (0.0, float("inf"), 8000), (0.0, 1.0, 0)):
            with pytest.raises(MediaError):
                video.audio(start, stop, rate)
        with pytest.raises(LimitExceeded):
            video.audio(0, 3600, 48000)


def test_sound_files(tmp_path: Path, wave_file: Callable[..., Path]) -> None:
    wave = chirp(np.arange(8000) / 8000)
    path = wave_file(tmp_path / "a.wav", wave, 8000)
    info = probe(path)
    assert (info.kind, info.frames, info.width) == ("audio", 0, 0)
    assert info.duration == pytest.approx(1.0)
    reader = open_reader("audio", path)
    assert isinstance(reader, Sound)
    found = reader.audio(0.25, 0.75, 8000)
    assert found is not None
    np.testing.assert_allclose(found[0].numpy(), wave[2000:6000], atol=1e-4)
    assert len(reader.times) == 0
    with pytest.raises(NoVideoStream):
        reader.read([0.0])
    reader.close()


def test_real_clips_with_sound(data: Path) -> None:
    path = sorted((data / "audiovisual" / "grid_samples").rglob("*.mp4"))[0]
    with Video(path) as video:
        assert video.info.audio is not None
        found = video.audio(0.5, 2.5, 16000)
        assert found is not None
        assert found.shape[1] == 32000
        assert float(found.abs().max()) > 0.01
