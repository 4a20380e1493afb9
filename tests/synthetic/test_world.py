from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import rhyme.synthetic.world as world_module
from rhyme.errors import ConfigError, DataError, FileMissing, RunError, UnknownName
from rhyme.synthetic import (
    APPEARANCES,
    MOTIONS,
    PRIMITIVES,
    SOUNDS,
    WorldConfig,
    WorldOptions,
    caption,
    plan,
    read_labels,
    read_truth,
    render,
    render_arrays,
    synthesise_sound,
    write_world,
)

Decode = Callable[[Path], NDArray[np.uint8]]


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_layout(small_world: Path) -> None:
    assert sorted(p.name for p in small_world.iterdir()) == [
        "labels.csv",
        "truth",
        "videos",
        "world.json",
    ]
    rows = read_labels(small_world)
    assert len(rows) == 15
    files = {p.relative_to(small_world).as_posix() for p in small_world.rglob("*.mp4")}
    assert files == {row.path for row in rows}
    for row in rows:
        assert row.path == f"videos/{row.split}/{row.id}.mp4"
        assert (small_world / row.path).stat().st_size == row.bytes
        assert (small_world / "truth" / f"{row.id}.npz").is_file()
    document = json.loads((small_world / "world.json").read_text())
    assert document["format"] == "rhyme-world"
    assert document["config"]["seed"] == 5
    assert document["splits"] == {"train": 9, "val": 3, "test": 3}
    assert document["classes"]["appearance"] == list(APPEARANCES)


def test_labels_tell_what_was_drawn(small_world: Path, small_config: WorldConfig) -> None:
    for row, entry in zip(read_labels(small_world), plan(small_config), strict=True):
        spec = entry.spec(small_config)
        assert (row.id, row.split, row.group) == (entry.id, entry.split, entry.group_name)
        assert row.appearance == APPEARANCES[spec.appearance]
        assert row.sound == SOUNDS[spec.voice.kind]
        assert row.caption == caption(spec)
        assert row.caption.split()[1:3] == [row.colour, row.pattern]
        assert row.frames == spec.frames
        assert row.duration == spec.frames / 8
        assert row.size == 30
        if row.kind == "clip":
            assert row.motion == MOTIONS[spec.motion]
            assert row.background is None
        else:
            assert row.kind == "untrimmed"
            assert row.motion == ""
            assert row.background == spec.background


def test_truth_equals_what_was_rendered(small_world: Path, small_config: WorldConfig) -> None:
    for entry in plan(small_config):
        spec = entry.spec(small_config)
        r = render(spec, 30)
        truth = read_truth(small_world, entry.id)
        assert truth.masks is not None
        np.testing.assert_array_equal(truth.masks, r.masks)
        np.testing.assert_array_equal(truth.boxes, r.boxes)
        np.testing.assert_array_equal(truth.keypoints, r.keypoints)
        np.testing.assert_array_equal(truth.visible, r.visible)
        np.testing.assert_array_equal(truth.poses, r.poses)
        np.testing.assert_allclose(truth.times, np.arange(spec.frames) / 8)
        assert truth.phases.shape == (spec.frames,)
        order = truth.phases[np.flatnonzero(np.diff(truth.phases, prepend=-1))]
        assert tuple(order) == spec.primitives
        words = [w for w in caption(spec).split() if w in PRIMITIVES]
        assert [PRIMITIVES[p] for p in order] == words
        assert len(truth.onsets) == len(spec.primitives)


def test_files_are_h264_with_key_frames_and_aac(small_world: Path) -> None:
    for row in read_labels(small_world):
        with av.open(str(small_world / row.path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv444p")
            assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16000, 1)
            assert video.frames == row.frames
            assert video.average_rate == 8
            assert audio.duration == row.frames * 2000
            assert video.duration * video.time_base == row.duration
            assert "encoder" not in container.metadata
            frames = list(container.decode(video))
        truth = read_truth(small_world, row.id)
        np.testing.assert_allclose([f.time for f in frames], truth.times, atol=1e-6)
        assert [i for i, f in enumerate(frames) if f.key_frame] == list(range(0, row.frames, 8))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_decoded_pictures_are_close_to_the_rendered(
    small_world: Path, small_config: WorldConfig, decode: Decode
) -> None:
    for entry in plan(small_config):
        shown = decode(small_world / "videos" / entry.split / f"{entry.id}.mp4")
        assert psnr(shown, render(entry.spec(small_config), 30).frames) >= 33


def test_decoded_sound_is_in_time_with_the_synthesised(
    small_world: Path, small_config: WorldConfig
) -> None:
    for entry in plan(small_config)[:4]:
        path = small_world / "videos" / entry.split / f"{entry.id}.mp4"
        with av.open(str(path)) as container:
            heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        made = synthesise_sound(entry.spec(small_config))
        heard = heard[: len(made)]
        shift = np.fft.irfft(np.fft.rfft(made).conj() * np.fft.rfft(heard)).argmax()
        assert shift == 0
        assert np.corrcoef(made, heard)[0, 1] > 0.95


def test_large_frames_store_colour_at_half_resolution(tmp_path: Path, decode: Decode) -> None:
    config = WorldConfig(
        counts=(1, 0, 0), size=64, fps=12.5, frames=9, gop=4, sound=False, truth="labels"
    )
    write_world(config, tmp_path / "w")
    row = read_labels(tmp_path / "w")[0]
    assert row.sound == ""
    with av.open(str(tmp_path / "w" / row.path)) as container:
        assert not container.streams.audio
        video = container.streams.video[0]
        assert video.pix_fmt == "yuv420p"
        assert float(video.average_rate) == 12.5
        keys = [f.key_frame for f in container.decode(video)]
    assert keys == [True, False, False, False, True, False, False, False, True]
    assert read_truth(tmp_path / "w", row.id).masks is None
    frames = render(plan(config)[0].spec(config), 64).frames
    assert psnr(decode(tmp_path / "w" / row.path), frames) > 28


def test_long_large_videos_are_rendered_in_chunks(
    tmp_path: Path, decode: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_module, "_CHUNK_PIXELS", 5 * 24 * 24)
    config = WorldConfig(counts=(1, 0, 0), size=24, frames=13, sound=False)
    write_world(config, tmp_path / "w")
    r = render(plan(config)[0].spec(config), 24)
    truth = read_truth(tmp_path / "w", "v000000")
    np.testing.assert_array_equal(truth.masks, r.masks)
    np.testing.assert_array_equal(truth.keypoints, r.keypoints)
    assert psnr(decode(tmp_path / "w/videos/train/v000000.mp4"), r.frames) > 33


def test_same_bytes_on_a_second_run_and_with_two_workers(
    tmp_path: Path, small_world: Path, small_config: WorldConfig
) -> None:
    calls: list[tuple[int, int]] = []
    config = dataclasses.replace(small_config, workers=2)
    summary = write_world(
        config, tmp_path / "w", progress=lambda done, total: calls.append((done, total))
    )
    assert digests(tmp_path / "w") == digests(small_world)
    assert calls == [(i, 15) for i in range(1, 16)]
    assert summary.videos == 15
    assert summary.splits == {"train": 9, "val": 3, "test": 3}
    assert summary.frames == sum(row.frames for row in read_labels(small_world))
    write_world(small_config, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(small_world)


def test_another_seed_gives_other_videos(tmp_path: Path, small_world: Path) -> None:
    write_world(WorldConfig(videos=2, seed=6, size=30), tmp_path / "w")
    ours, theirs = digests(tmp_path / "w"), digests(small_world)
    same = [name for name in ours if name.endswith(".mp4") and ours[name] in theirs.values()]
    assert not same


def test_a_complete_world_of_the_same_configuration_is_reused(
    small_world: Path, small_config: WorldConfig
) -> None:
    before = {p: p.stat().st_mtime_ns for p in small_world.rglob("*")}
    summary = write_world(dataclasses.replace(small_config, workers=3), small_world)
    assert summary.reused
    assert summary.videos == 15
    assert {p: p.stat().st_mtime_ns for p in small_world.rglob("*")} == before


def test_anything_else_in_the_folder_is_refused(
    tmp_path: Path, small_world: Path, small_config: WorldConfig
) -> None:
    other = dataclasses.replace(small_config, seed=6, gop=4)
    with pytest.raises(RunError, match=r"gop is 8, asked 4, seed is 5, asked 6") as caught:
        write_world(other, small_world)
    assert caught.value.remedy
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(RunError, match="no generated world"):
        write_world(small_config, tmp_path / "mine")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(RunError, match="no generated world"):
        write_world(small_config, tmp_path / "file")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert (tmp_path / "file").read_text() == "keep"


def test_a_damaged_world_is_not_reused(
    tmp_path: Path, small_world: Path, small_config: WorldConfig
) -> None:
    for n, harm in enumerate(
        (
            lambda root: next(root.rglob("*.mp4")).write_bytes(b"short"),
            lambda root: next(root.rglob("*.npz")).unlink(),
            lambda root: (root / "labels.csv").unlink(),
            lambda root: (root / "labels.csv").write_text("path,id\na,b\n"),
        )
    ):
        copy = tmp_path / str(n)
        shutil.copytree(small_world, copy)
        harm(copy)
        with pytest.raises(RunError, match="damaged"):
            write_world(small_config, copy)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    summary = write_world(WorldConfig(videos=1, size=24), tmp_path / "w")
    assert not summary.reused
    assert len(read_labels(tmp_path / "w")) == 1


def test_a_broken_run_leaves_nothing_behind(tmp_path: Path) -> None:
    class StopHere(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise StopHere

    with pytest.raises(StopHere):
        write_world(WorldConfig(videos=4, size=24), tmp_path / "w", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        write_world(WorldConfig(videos=1, size=24), tmp_path / "w")
    tmp_path.chmod(0o700)


def test_a_file_in_place_of_the_parent_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written") as caught:
        write_world(WorldConfig(videos=1, size=24), tmp_path / "file" / "w")
    assert "free space" in (caught.value.remedy or "")


def test_truth_of_unknown_or_damaged_videos(tmp_path: Path, small_world: Path) -> None:
    with pytest.raises(UnknownName):
        read_truth(small_world, "../../etc/passwd")
    with pytest.raises(FileMissing, match="no truth"):
        read_truth(small_world, "v999999")
    with pytest.raises(FileMissing, match="no generated world"):
        read_labels(tmp_path)
    (tmp_path / "truth").mkdir()
    whole = (small_world / "truth" / "t000000.npz").read_bytes()
    pickled = tmp_path / "truth" / "v000002.npz"
    np.savez(pickled, boxes=np.array([object()]))
    for name, content in (("v000000", whole[: len(whole) // 2]), ("v000001", b"")):
        (tmp_path / "truth" / f"{name}.npz").write_bytes(content)
    for name in ("v000000", "v000001", "v000002"):
        with pytest.raises(DataError, match="damaged"):
            read_truth(tmp_path, name)


def test_arrays_equal_the_rendered_clips() -> None:
    config = WorldConfig(videos=10, seed=5, size=24, videos_per_group=2)
    world = render_arrays(config)
    entries = plan(config)
    assert world.frames.shape == (10, 16, 24, 24, 3)
    assert world.ids == [e.id for e in entries]
    assert world.split.tolist() == [e.split for e in entries]
    assert len(set(world.group.tolist())) == 5
    for i, entry in enumerate(entries):
        spec = entry.spec(config)
        np.testing.assert_array_equal(world.frames[i], render(spec, 24).frames)
        labels = (world.appearance[i], world.motion[i], world.sound[i], world.pattern[i])
        assert labels == (spec.appearance, spec.motion, spec.voice.kind, spec.pattern)
        assert world.captions[i] == caption(spec)
    keyframes = render_arrays(dataclasses.replace(config, workers=2), at=(0, 5, 10, 15))
    np.testing.assert_array_equal(keyframes.frames, world.frames[:, ::5])


def test_untrimmed_videos_do_not_fit_into_arrays() -> None:
    with pytest.raises(ConfigError, match="untrimmed"):
        render_arrays(WorldConfig(videos=2, untrimmed=1))


def test_options_of_the_verb_are_the_fields_of_a_world() -> None:
    """Type checkers read the one, the world is made of the other."""
    hints = get_type_hints(WorldConfig)
    assert {**get_type_hints(WorldOptions), "workers": int} == hints
