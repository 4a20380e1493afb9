from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from rhyme.catalog import Catalog, scan
from rhyme.views import (
    Clip,
    ContrastTransform,
    EvalTransform,
    ShiftCropTransform,
    ViewPlan,
    ViewSpec,
)

FPS = 8
PLAIN = EvalTransform(size=24, resize=24, mean=(0.0,) * 3, std=(1.0,) * 3)


def write_clip(path: Path, item: int, frames: int, width: int = 40, height: int = 32) -> None:
    """A film whose left half tells the frame number, and whose right half tells the item."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "8", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for k in range(frames):
            picture = np.empty((height, width, 3), dtype=np.uint8)
            picture[:, : width // 2] = 16 + 12 * k
            picture[:, width // 2 :] = 16 + 12 * item
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def told(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and items that pictures ``[..., 3, h, w]`` on the scale of [0, 1] tell."""
    side = pixels.shape[-1]
    left = pixels[..., 1, side // 4 : -side // 4, 1 : side // 4].mean(dim=(-1, -2)) * 255
    right = pixels[..., 1, side // 4 : -side // 4, -side // 4 : -1].mean(dim=(-1, -2)) * 255
    return tuple(np.rint((x.numpy() - 16) / 12).astype(int) for x in (left, right))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for item in range(12):
        write_clip(root / f"v{item:02}.mp4", item, 16)
    return root


@pytest.fixture(scope="session")
def catalog(folder, tmp_path_factory) -> Catalog:
    return scan(folder, out=tmp_path_factory.mktemp("catalog") / "films.arrow")


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """Nine films that a test may damage."""
    for item in range(9):
        write_clip(tmp_path / "films" / f"v{item:02}.mp4", item, 8)
    return tmp_path / "films"


@pytest.fixture
def plan() -> ViewPlan:
    augment = ContrastTransform.moco_v2(size=16)
    return ViewPlan(
        clips={"a": Clip(), "b": Clip(exclude="a")},
        views={
            "query": ViewSpec(clip="a", transform=augment),
            "key": ViewSpec(clip="a", transform=augment),
            "candidate": ViewSpec(clip="b", transform=ShiftCropTransform(size=16, resize=20)),
            "plain": ViewSpec(clip="a", transform=PLAIN),
            "other": ViewSpec(clip="b", transform=PLAIN),
        },
    )


def flat(batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by name."""
    out = {"ids": batch.ids, "index": batch.index, "group": batch.group, **batch.targets}
    for name, view in batch.views.items():
        for part in ("data", "times", "map", "valid"):
            if getattr(view, part) is not None:
                out[f"{name}.{part}"] = getattr(view, part)
    return out


@pytest.fixture
def same():
    def check(first, second) -> None:
        assert first.epoch == second.epoch
        a, b = flat(first), flat(second)
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name

    return check


@pytest.fixture
def read_labels():
    return told


@pytest.fixture
def film():
    return write_clip
