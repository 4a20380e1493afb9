"""torchvision's clip encoders: their state dicts load, and their features come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from rhyme.encoders import (
    GroupBatchNorm3d,
    InferencePlan,
    build_backbone,
    load_package,
    load_state_file,
    save_package,
)
from rhyme.encoders.video import SelfGating
from rhyme.errors import ConfigError, DataError, PackageError

video = torchvision.models.video


def pair(name: str) -> tuple[nn.Module, Any]:
    """Ours with the weights of theirs, and theirs; running statistics are not the initial."""
    torch.manual_seed(0)
    theirs = getattr(video, name)(weights=None).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    for other in ("fc", "head", "classifier"):
        if hasattr(theirs, other):
            setattr(theirs, other, nn.Identity())
    ours = build_backbone(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["mc3_18", "r2plus1d_18", pytest.param("r3d_18", marks=pytest.mark.slow)]
)
def test_residual_networks(name: str) -> None:
    ours, theirs = pair(name)
    clip = torch.randn(2, 4, 3, 24, 32)
    features = ours(clip, ("layer2",))
    same(features.pooled, theirs(clip.transpose(1, 2)))
    steps, stride = (4, 1) if name == "mc3_18" else (1, 8)
    assert features.map.shape == (2, 512, steps, 2, 2)
    assert features.temporal_stride == stride
    assert features.stages["layer2"].shape[1] == 128
    ours.train(), theirs.train()
    # the stem alone: few values a channel behind it make rounding large
    same(ours.stem(clip.transpose(1, 2)), theirs.stem(clip.transpose(1, 2)))
    same(ours.stem[1].running_var, theirs.stem[1].running_var)
    assert isinstance(ours.stem[1], GroupBatchNorm3d)


def test_s3d_and_its_gates() -> None:
    ours, theirs = pair("s3d")
    clip = torch.randn(2, 8, 3, 33, 40)
    features = ours(clip, ("stem", "layer3"))
    same(features.map, theirs.features(clip.transpose(1, 2)))
    same(features.pooled, features.map.mean((2, 3, 4)))
    assert features.pooled.shape == (2, 1024)
    assert features.stages["layer3"].shape[:2] == (2, 832)
    gated = build_backbone("s3dg").eval()
    gates = [m for m in gated.modules() if isinstance(m, SelfGating)]
    assert len(gates) == 4 * 9
    missing, unexpected = gated.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(".gating.fc." in name for name in missing)
    for gate in gates:  # sigmoid(200) = 1: every channel passes
        nn.init.zeros_(gate.fc.weight), nn.init.constant_(gate.fc.bias, 200.0)
    same(gated(clip).map, features.map)
    for gate in gates:
        nn.init.constant_(gate.fc.bias, -200.0)
    assert not gated(clip).map.any()


def test_a_gate_weighs_channels_by_the_whole_clip() -> None:
    gate = SelfGating(3).double()
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    out = gate(x)
    for b in range(2):
        for c in range(3):
            means = torch.stack([x[b, k].sum() / 120 for k in range(3)])
            logit = (gate.fc.weight[c] * means).sum() + gate.fc.bias[c]
            expected = x[b, c] / (1 + torch.exp(-logit))
            torch.testing.assert_close(out[b, c], expected, rtol=1e-12, atol=1e-12)


def test_swin() -> None:
    ours, theirs = pair("swin3d_t")
    clip = torch.randn(1, 4, 3, 40, 33)
    features = ours(clip, ("layer1", "layer4"))
    same(features.pooled, theirs(clip.transpose(1, 2)))
    assert features.map.shape == (1, 768, 2, 2, 2)
    assert torch.equal(features.stages["layer4"], features.map)
    assert features.stages["layer1"].shape == (1, 96, 2, 10, 9)
    assert (features.stride, features.offset) == (32, 15.5)
    assert (features.temporal_stride, features.temporal_offset) == (2, 0.5)


def resized(theirs: Any, frames: int, side: int) -> Any:
    """Their MViT v2 for another size of clip: its relative positions are interpolated."""
    theirs.pos_encoding.temporal_size = frames // 2
    theirs.pos_encoding.spatial_size = (side // 4, side // 4)
    return theirs


def test_mvit_v2_at_any_size() -> None:
    ours, theirs = pair("mvit_v2_s")
    clip = torch.randn(1, 4, 3, 64, 64)
    features = ours(clip, ("layer2",))
    same(features.pooled, resized(theirs, 4, 64)(clip.transpose(1, 2)))
    assert features.map.shape == (1, 768, 2, 2, 2)
    assert features.stages["layer2"].shape == (1, 192, 2, 8, 8)
    assert (features.stride, features.temporal_stride) == (32, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
def test_mvit_at_its_own_size(name: str) -> None:
    ours, theirs = pair(name)
    clip = torch.randn(1, 16, 3, 224, 224)
    with torch.inference_mode():
        same(ours(clip).pooled, theirs(clip.transpose(1, 2)))


def test_mvit_v1_interpolates_its_positions() -> None:
    net = build_backbone("mvit_v1_b", seed=0).eval()
    places = net.pos_encoding
    with torch.no_grad():  # positions that rise evenly, so that interpolation is known
        rows = torch.arange(56.0).view(56, 1, 1).expand(56, 56, 96)
        places.spatial_pos.copy_(rows.reshape(-1, 96))
        places.temporal_pos.copy_(1000 * torch.arange(8.0)[:, None].expand(8, 96))
    found = net._placed(torch.zeros(1, 4 * 28 * 28, 96), (4, 28, 28))[0, 1:, 0]
    times, rows = torch.arange(4.0) * 2 + 0.5, torch.arange(28.0) * 2 + 0.5
    expected = 1000 * times[:, None, None] + rows[None, :, None] + torch.zeros(28)
    torch.testing.assert_close(found.view(4, 28, 28), expected)
    assert net(torch.randn(1, 4, 3, 32, 32)).map.shape == (1, 768, 2, 1, 1)


@pytest.mark.parametrize("name", ["swin3d_s", "swin3d_b", "mvit_v1_b"])
def test_the_large_ones_have_torchvisions_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = getattr(video, name)(), build_backbone(name)
    wanted = {n: v.shape for n, v in theirs.state_dict().items() if not n.startswith("head.")}
    assert {n: v.shape for n, v in ours.state_dict().items()} == wanted


def test_a_file_of_torchvision_loads_and_says_what_it_left(tmp_path: Path) -> None:
    theirs = video.mc3_18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "mc3.pth")
    ours = build_backbone("mc3_18")
    report = load_state_file(ours, tmp_path / "mc3.pth")
    assert report.ignored == ("fc.bias", "fc.weight")
    assert torch.equal(ours.layer3[1].conv2[0].weight, theirs.layer3[1].conv2[0].weight)
    with pytest.raises(PackageError, match="the weights are those of 'mc3_18'"):
        load_state_file(build_backbone("r2plus1d_18"), tmp_path / "mc3.pth")


@pytest.mark.parametrize("name", ["swin3d_t", pytest.param("mvit_v2_s", marks=pytest.mark.slow)])
def test_packages_hold_them(tmp_path: Path, name: str) -> None:
    net = build_backbone(name, seed=0).eval()
    save_package(tmp_path / "p", net, InferencePlan(size=32, resize=32, frames=8, stride=2))
    package = load_package(tmp_path / "p")
    clip = torch.randn(1, 8, 3, 32, 32)
    assert torch.equal(package.module(clip).pooled, net(clip).pooled)


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "swin3d_t"])
def test_channels_and_options(name: str) -> None:
    with torch.device("meta"):
        net = build_backbone(name, in_channels=2).eval()
        assert net(torch.zeros(1, 8, 2, 32, 32)).pooled.shape == (1, net.feature_dim)
        for option in ({"strides": (1, 1, 1, 1)}, {"stem": "cifar"}, {"widths": (1, 2, 3, 4)}):
            with pytest.raises(ConfigError):
                build_backbone(name, **option)
    if name == "s3d":
        with pytest.raises(DataError, match="at least 5 frames and 17 pixels"):
            net(torch.zeros(1, 4, 2, 32, 32, device="meta"))


def test_training_draws_nothing_in_a_transformer() -> None:
    net = build_backbone("swin3d_t", seed=0).train()
    clip, state = torch.randn(1, 2, 3, 32, 32), torch.get_rng_state()
    assert torch.equal(net(clip).pooled, net(clip).pooled)
    assert torch.equal(torch.get_rng_state(), state)
