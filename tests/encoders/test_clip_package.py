"""A clip encoder from a folder of videos to features, and back out as a program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rhyme.catalog import scan
from rhyme.encoders import (
    EncoderPackage,
    EncoderWithHeads,
    HeadConfig,
    InferencePlan,
    build_backbone,
    build_head,
    load_package,
    save_package,
    untrained,
)
from rhyme.errors import ConfigError, EvaluationError
from rhyme.export import load_torch_export, to_torch_export
from rhyme.loading import inference_batches
from rhyme.synthetic import WorldConfig, write_world
from rhyme.tasks import dense_encoder, extract_features

PLAN = InferencePlan(size=24, resize=24, frames=8, stride=2, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def package(tmp_path: Path) -> EncoderPackage:
    net = build_backbone("small3d", seed=0, widths=(4, 6, 8, 10))
    encoder = EncoderWithHeads(net, {"m": build_head(HeadConfig(out=5), net.feature_dim)})
    with torch.no_grad():
        encoder(torch.randn(4, 8, 3, 24, 24))  # running statistics of its own
    save_package(tmp_path / "p", encoder, PLAN)
    return load_package(tmp_path / "p")


def test_a_package_keeps_a_clip_encoder_whole(package: EncoderPackage) -> None:
    assert package.plan == PLAN
    assert package.module.reads_clips
    assert package.with_heads().reads_clips
    assert package.config.temporal_strides == (1, 1, 2, 2)
    clips = torch.randn(2, 8, 3, 24, 24)
    torch.manual_seed(1)
    twin, other = untrained(package, 0), untrained(package, 1)
    assert twin(clips).map.shape == package.module(clips).map.shape == (2, 10, 2, 3, 3)
    assert not torch.equal(twin(clips).pooled, other(clips).pooled)
    card = (package.directory / "README.md").read_text()
    assert "clips of 8 frames, every 2 frames" in card
    assert "[b, t, c, h, w]" in card


@pytest.mark.parametrize("wrong", [{"stride": -1}, {"stride": 2, "spacing": 0.1}])
def test_a_plan_with_two_distances_or_none_is_refused(
    tmp_path: Path, package: EncoderPackage, wrong: dict[str, float]
) -> None:
    plan = InferencePlan(size=24, resize=24, frames=8, **wrong)
    with pytest.raises(ConfigError, match="cannot be followed"):
        save_package(tmp_path / "wrong", package.module, plan)


def test_features_of_a_world_are_those_of_its_clips(
    tmp_path: Path, package: EncoderPackage
) -> None:
    write_world(WorldConfig(videos=6, size=24, sound=False, truth="labels"), tmp_path / "w")
    catalog = scan(tmp_path / "w" / "videos", out=tmp_path / "w.catalog")
    table = extract_features(package.module, package.plan, catalog, frames_per_item=2)
    assert table.features.shape == (6, 2, 10)
    (batch,) = inference_batches(catalog, package.plan, frames_per_item=2)
    assert batch.pixels.shape == (12, 8, 3, 24, 24)
    with torch.inference_mode():
        expected = package.module(batch.pixels).pooled.unflatten(0, (6, 2))
    torch.testing.assert_close(torch.from_numpy(table.features), expected)


def test_a_program_reads_clips_of_the_plan(tmp_path: Path, package: EncoderPackage) -> None:
    path = to_torch_export(package, tmp_path / "encoder.pt2", normalise=True)
    exported = load_torch_export(path)
    assert exported.plan == PLAN
    for rows in (1, 3):
        clips = torch.rand(rows, 8, 3, 24, 24)
        pooled, cells = exported.module(clips)
        features = package.module((clips - 0.5) / 0.25)
        torch.testing.assert_close(pooled, features.pooled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cells, features.map, rtol=1e-5, atol=1e-5)


def test_what_looks_at_places_within_frames_refuses_it(package: EncoderPackage) -> None:
    with pytest.raises(EvaluationError, match="encoder of frames"):
        dense_encoder(package.module, 4)
