"""What a Hugging Face folder says of its pixels, against what its library makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhyme.encoders import InferencePlan
from rhyme.encoders.hugging_face_pixels import folder_plan
from rhyme.errors import ConfigError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
USUAL = {"image_mean": MEAN, "image_std": STD, "do_normalize": True, "do_rescale": True}


def plan_of(folder: Path, told: dict[str, Any], config: dict[str, Any] | None = None):
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return InferencePlan(**folder_plan(folder, json.dumps(config or {"image_size": 224})))


@pytest.mark.parametrize(
    ("told", "sizes"),
    [
        ({"size": 224, "crop_pct": 0.875}, (224, 256)),  # ConvNeXt
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.95}, (224, 235)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, (384, 384)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),  # is not cropped
        ({"size": 224, "image_processor_type": "ConvNextImageProcessor"}, (224, 256)),
        ({"size": 224, "crop_size": 224, "crop_pct": 0.9}, (224, 248)),  # PoolFormer
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, (224, 256)),
        ({"size": {"height": 224, "width": 224}}, (224, 224)),
        ({"size": 224, "crop_pct": 0}, (224, 224)),
        ({}, (224, 224)),
    ],
)
def test_sizes(tmp_path: Path, told: dict[str, Any], sizes: tuple[int, int]) -> None:
    plan = plan_of(tmp_path, told)
    assert (plan.size, plan.resize) == sizes


@pytest.mark.parametrize(
    ("number", "name"), [(1, "bicubic"), (2, "bilinear"), (3, "bicubic"), (None, "bilinear")]
)
def test_interpolation(tmp_path: Path, number: int | None, name: str) -> None:
    assert plan_of(tmp_path, {"resample": number}).interpolation == name


def made(told: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """What the library's processors compute of bytes ``[n, 3]``, one step after the other."""
    x = pixels * told.get("rescale_factor", 1 / 255)
    if told.get("offset") or told.get("rescale_offset"):
        x = x - 1
    if told["do_normalize"]:
        x = (x - np.array(MEAN)) / np.array(STD)
    if told.get("include_top"):
        x = x / np.array(STD)
    return x


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "offset": True},  # ViViT
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
        {"include_top": True},  # EfficientNet
        {"include_top": True, "do_normalize": False},
    ],
)
def test_statistics(tmp_path: Path, more: dict[str, Any]) -> None:
    told = {**USUAL, **more}
    plan = plan_of(tmp_path, told)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3))
    ours = (pixels / 255 - np.array(plan.mean)) / np.array(plan.std)
    np.testing.assert_allclose(ours, made(told, pixels), atol=1e-9)


def test_usual_statistics_are_taken_to_the_last_digit(tmp_path: Path) -> None:
    told = {**USUAL, "rescale_factor": 0.00392156862745098}
    assert (plan_of(tmp_path, told).mean, plan_of(tmp_path, told).std) == (tuple(MEAN), tuple(STD))
    assert plan_of(tmp_path, {}).mean == InferencePlan.mean


@pytest.mark.parametrize(
    ("name", "value"), [("do_flip_channel_order", True), ("do_rescale", False)]
)
def test_pixels_that_no_plan_describes_are_refused_by_name(
    tmp_path: Path, name: str, value: bool
) -> None:
    plan_of(tmp_path, {**USUAL, name: not value})
    with pytest.raises(ConfigError, match="which rhyme does not make") as caught:
        plan_of(tmp_path, {**USUAL, name: value})
    assert caught.value.value == {name: value}
    assert str(caught.value.file).endswith("preprocessor_config.json")


@pytest.mark.parametrize("text", ["{", "[1]", "\ufeff{}"])
def test_a_file_that_cannot_be_read_is_a_typed_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        folder_plan(tmp_path, "{}")
