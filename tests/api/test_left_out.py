"""Items that are too short for the clips of a system are counted and told."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rhyme import api
from rhyme.api.recipe import resolve_recipe
from rhyme.api.train import check_size
from rhyme.catalog import scan
from rhyme.errors import DataError
from rhyme.loading import unusable
from rhyme.run import read_jsonl
from rhyme.systems.moco import Moco
from rhyme.systems.vfs import VFS
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec
from support.tiny_runs import OVERRIDES, flags, rhyme, videos


def short_film(path: Path, frames: int) -> None:
    """A film of a few grey frames of 30 pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 30, 30, "yuv420p"
        for k in range(frames):
            picture = np.full((30, 30, 3), 40 * k, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def pictures(folder: Path, count: int) -> None:
    """Still pictures of 30 pixels."""
    folder.mkdir()
    for k in range(count):
        Image.new("RGB", (30, 30), (20 * k, 90, 90)).save(folder / f"{chr(97 + k)}_photo.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve films of 16 frames and two of 3."""
    videos(tmp_path / "films", 12)
    for name in ("short_a.mp4", "short_b.mp4"):
        short_film(tmp_path / "films" / name, 3)
    return tmp_path / "films"


@pytest.fixture
def a_clip_that_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """MoCo, if it had a clip of five frames that leaves out what is shorter."""
    given = Moco.plans

    def plans(self: Moco) -> dict[str, ViewPlan]:
        plan = given(self)["train"]
        clips = {**plan.clips, "clip": Clip(frames=5, short="drop")}
        return {"train": ViewPlan(clips=clips, views=plan.views)}

    monkeypatch.setattr(Moco, "plans", plans)


@pytest.mark.usefixtures("a_clip_that_drops")
def test_a_run_says_how_many_items_it_left_out_and_which(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = {**OVERRIDES["moco"], "train.steps": 2, "data.cache_frames": 16}
    command = ("train", "moco_world_demo", "--data", folder, "--out", out, "--split", "all")
    done = rhyme(*command, *flags(small), "--json")
    assert done.code == 0, done.err
    assert done.document["left_out"] == {"too short for the clips": 2}
    assert "2 items to train on are left out: 2 too short for the clips, 12 are used" in done.err
    (event,) = [row for row in read_jsonl(out / "events.jsonl") if row["event"] == "left_out"]
    assert event["items"] == 2
    assert {row["path"] for row in event["listed"]} == {"short_a.mp4", "short_b.mp4"}
    assert {row["reason"] for row in event["listed"]} == {"too short for the clips (3 frames)"}
    (line,) = api.runs(out)
    assert line.trouble == {"left_out": 1}
    # A run that goes on counts them again, and does not write them down again.
    again = rhyme("train", "--resume", out)
    assert again.code == 0, again.err
    assert "items left out: 2 too short for the clips" in again.out
    events = [row["event"] for row in read_jsonl(out / "events.jsonl")]
    assert events.count("left_out") == 1


@pytest.mark.usefixtures("a_clip_that_drops")
@pytest.mark.parametrize("cached", [None, 16])
def test_data_of_which_too_little_is_long_enough_are_refused_before_a_run_is_made(
    folder: Path, cached: int | None
) -> None:
    recipe = resolve_recipe(
        "moco_world_demo",
        {
            **OVERRIDES["moco"],
            "train.batch_size": 14,
            "data.cache_frames": cached,
            "data.cache_size": cached and 32,
        },
    )
    items = scan(folder)
    items = api.read_data(items, api.DataOptions(split="all"))
    with pytest.raises(DataError, match="12 items to train on do not fill a batch of 14") as error:
        check_size(recipe, items, Moco(recipe.model))
    assert "2 too short for the clips" in str(error.value)


def test_the_frames_of_a_cache_are_those_that_count(folder: Path) -> None:
    plan = ViewPlan(
        clips={"a": Clip(frames=5, short="drop")},
        views={"a": ViewSpec(clip="a", transform=ContrastTransform.moco_v2(size=32))},
    )
    items = scan(folder)
    assert len(unusable(items, plan)) == 2
    assert len(unusable(items, plan, frames=5)) == 2
    assert len(unusable(items, plan, frames=4)) == 14


def test_vfs_refuses_still_pictures_before_a_run_is_made(tmp_path: Path) -> None:
    """Two views of one picture are not two frames: nothing of what it learns would be there."""
    pictures(tmp_path / "photos", 12)
    for recipe in ("vfs", "vfs_world_demo"):
        out = tmp_path / "run"
        done = rhyme("train", recipe, "--data", tmp_path / "photos", "--out", out, "--split", "all")
        assert done.code == 1
        assert "12 items to train on are left out: 12 too short for the clips" in done.err
        assert "moco" in done.err
        assert not out.exists()


@pytest.mark.parametrize("changes", [{}, {"model.stride": 1}, {"model.frames": 4}])
def test_vfs_leaves_out_videos_of_one_frame(tmp_path: Path, changes: dict[str, object]) -> None:
    for frames in (1, 2):
        short_film(tmp_path / f"film_{frames}.mp4", frames)
    system = VFS(resolve_recipe("vfs", changes).model)
    items = scan(tmp_path)
    (row,) = unusable(items, system.plans()["train"])
    assert items.item(row).path == "film_1.mp4"
