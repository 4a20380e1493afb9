from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from rhyme.config import from_dict, to_dict
from rhyme.encoders import (
    BACKBONES,
    Backbone,
    BackboneConfig,
    Features,
    GroupBatchNorm2d,
    build_backbone,
    cell_geometry,
)
from rhyme.encoders.backbone import backbone_class
from rhyme.errors import ConfigError, DataError, UnknownName

TRACKING = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_torchvision_state_dict_gives_torchvisions_features(name: str) -> None:
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    theirs.fc = nn.Identity()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
    ours = build_backbone(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    pixels = torch.randn(2, 3, 72, 64)
    torch.testing.assert_close(ours(pixels).pooled, theirs(pixels), rtol=1e-5, atol=1e-5)
    ours.train(), theirs.train()
    torch.testing.assert_close(ours(pixels).pooled, theirs(pixels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.bn1.running_var, theirs.bn1.running_var)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilation_gives_the_same_features_on_a_finer_grid(name: str) -> None:
    coarse = build_backbone(name, seed=0).eval()
    fine = build_backbone(name, seed=1, **TRACKING).eval()
    fine.load_state_dict(coarse.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 100, 76)
    a, b = coarse(pixels), fine(pixels)
    assert (a.stride, b.stride) == (32, 8)
    assert b.map.shape[-2:] == (13, 10)
    torch.testing.assert_close(b.map[..., ::4, ::4], a.map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "cells"), [(120, 15), (239, 30), (255, 32)])
def test_tracking_sizes(side: int, cells: int) -> None:
    with torch.device("meta"):
        net = build_backbone("resnet18", **TRACKING).eval()
    features = net(torch.zeros(1, 3, side, side, device="meta"))
    assert features.map.shape == (1, 512, cells, cells)
    assert features.stride == 8


def test_stages_have_their_names_channels_and_strides() -> None:
    net = build_backbone("resnet50").eval()
    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    features: Features = net(torch.zeros(1, 3, 64, 96), names)
    assert tuple(features.stages) == names == tuple(net.geometry)
    channels = (64, 256, 512, 1024, 2048)
    for name, count in zip(names, channels, strict=True):
        stride = int(net.geometry[name][0])
        assert features.stages[name].shape == (1, count, 64 // stride, 96 // stride)
    assert torch.equal(features.stages["layer4"], features.map)
    assert torch.equal(features.map.mean((2, 3)), features.pooled)
    assert net.feature_dim == 2048
    assert net(torch.zeros(1, 3, 64, 64)).stages == {}


@pytest.mark.parametrize(
    ("options", "stride"),
    [
        ({}, 32),
        ({"stem": "cifar"}, 8),
        ({"strides": (1, 2, 2, 1)}, 16),
        ({"strides": (2, 2, 2, 2)}, 64),
        ({"name": "small"}, 8),
        ({"name": "small", "strides": (1, 1, 2, 2)}, 4),
    ],
)
def test_total_stride(options: dict[str, object], stride: int) -> None:
    net = build_backbone("resnet18", **options).eval()
    features = net(torch.zeros(1, 3, 64, 128))
    assert features.stride == stride
    assert features.map.shape[-2:] == (64 // stride, 128 // stride)


def seen_by(net: Backbone, stage: str, width: int) -> list[list[int]]:
    """For each cell of a row of ``stage``, the columns of pixels that can change it."""
    for name, parameter in net.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
    pixels = torch.zeros(width, 3, 8, width)
    pixels[torch.arange(width), :, :, torch.arange(width)] = 1.0
    with torch.no_grad():
        row = next(x for name, x in net.eval().walk(pixels) if name == stage)[:, 0, 0]
    return [row[:, cell].nonzero().flatten().tolist() for cell in range(row.shape[1])]


@pytest.mark.parametrize(
    ("name", "stage", "options"),
    [
        ("small", "layer1", {}),
        ("small", "layer4", {}),
        ("small", "layer4", {"strides": (2, 1, 3, 1)}),
        ("resnet18", "stem", {}),
        ("resnet18", "layer2", {"dilations": (1, 2, 1, 1)}),
        ("resnet18", "layer2", {"stem": "cifar"}),
    ],
)
def test_cells_are_centred_where_the_geometry_says(
    name: str, stage: str, options: dict[str, object]
) -> None:
    width = 200 if stage == "layer2" and "stem" not in options else 64
    net = build_backbone(name, **options)
    stride, offset = net.geometry[stage]
    inner = 0
    for cell, columns in enumerate(seen_by(net, stage, width)):
        if columns[0] > 0 and columns[-1] < width - 1:
            inner += 1
            assert (columns[0] + columns[-1]) / 2 == offset + stride * cell
    assert inner >= 3


def test_cell_geometry_of_even_kernels() -> None:
    # Two 2x2 poolings: cell 0 covers pixels 0 to 3.
    assert cell_geometry([(2, 2, 0, 1), (2, 2, 0, 1)]) == (4, 1.5)
    # Without padding a 3x3 convolution of dilation 2 starts at pixel 2.
    assert cell_geometry([(3, 1, 0, 2)]) == (1, 2)


def test_seeded_construction_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b = build_backbone("small", seed=7), build_backbone("small", seed=7)
    c = build_backbone("small", seed=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.layer1.conv.weight, b.layer1.conv.weight)
    assert not torch.equal(a.layer1.conv.weight, c.layer1.conv.weight)
    build_backbone("small")
    assert not torch.equal(torch.get_rng_state(), before)


def test_zero_init_residual_makes_blocks_pass_their_input_on() -> None:
    net = build_backbone("resnet18", zero_init_residual=True, strides=(1, 1, 1, 1))
    x = torch.rand(2, 64, 8, 8)
    assert torch.equal(net.layer1(x.clone()), x)
    plain = build_backbone("resnet18")
    assert not torch.equal(plain.layer1(x.clone()), x)


@pytest.mark.parametrize("name", ["resnet18", "small"])
def test_channels_last_stays(name: str) -> None:
    net = build_backbone(name, norm_groups=2).to(memory_format=torch.channels_last)
    pixels = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert net(pixels).map.is_contiguous(memory_format=torch.channels_last)


def test_norm_groups_reach_every_norm() -> None:
    for name in BACKBONES:
        if backbone_class(name).reads_clips:
            continue  # test_clips.py
        net = build_backbone(name, norm_groups=4)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(isinstance(m, GroupBatchNorm2d) and m.norm_groups == 4 for m in norms)


def test_in_channels() -> None:
    net = build_backbone("small", in_channels=2).eval()
    assert net(torch.zeros(1, 2, 16, 16)).pooled.shape == (1, 128)
    with pytest.raises(DataError, match=r"\[b, 2, h, w\]"):
        net(torch.zeros(1, 3, 16, 16))
    with pytest.raises(DataError) as caught:
        net(torch.zeros(1, 4, 2, 16, 16))
    assert "view.frames" in str(caught.value)


def test_widths_of_the_small_encoder() -> None:
    net = build_backbone("small", widths=(4, 8, 12, 16)).eval()
    features = net(torch.zeros(1, 3, 32, 32), ["layer2"])
    assert features.stages["layer2"].shape == (1, 8, 16, 16)
    assert net.feature_dim == features.pooled.shape[1] == 16


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="resnet19") as caught:
        build_backbone("resnet19")
    assert "resnet18" in str(caught.value)
    with pytest.raises(UnknownName, match="stride"):
        build_backbone("resnet18", stride=(1, 1, 1, 1))
    with pytest.raises(UnknownName) as caught:
        build_backbone("small")(torch.zeros(1, 3, 8, 8), ["layr4"])
    assert "layer4" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": (1, 2, 2, 0)},
        {"dilations": (1, 1, 1, 1000)},
        {"widths": (10**9, 1, 1, 1), "name": "small"},
        {"in_channels": 0},
        {"norm_groups": 0},
        {"stem": "patch"},
        {"strides": (1, 2)},
        {"widths": (8, 8, 8, 8)},
        {"name": "small", "stem": "cifar"},
        {"name": "small", "dilations": (1, 1, 2, 2)},
        {"name": "small", "zero_init_residual": True},
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build_backbone("resnet18", **options)


def test_configurations_survive_a_round_trip() -> None:
    config = BackboneConfig(name="resnet18", stem="cifar", norm_groups=8, **TRACKING)
    assert from_dict(BackboneConfig, to_dict(config)) == config
    assert build_backbone(config).config == config
