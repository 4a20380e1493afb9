"""The shallow clip encoders are the published ones, weight for weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhyme.encoders import ClipBackbone, build_backbone
from rhyme.errors import ConfigError, DataError

COUNTS = {"r21d": 14_365_303, "r3d": 14_361_792, "c3d": 27_661_440}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_shapes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        net = build_backbone(name).eval()
        features = net(torch.zeros(1, 16, 3, 112, 112))
    assert sum(p.numel() for p in net.parameters()) == COUNTS[name]
    assert features.map.shape == (1, 512, 2, 7, 7)
    assert features.pooled.shape == (1, net.feature_dim) == (1, 512)
    assert (features.stride, features.temporal_stride) == (16, 8)


def test_widths_between_the_factors() -> None:
    with torch.device("meta"):
        net = build_backbone("r21d")
    assert net.conv1.spatial_conv.out_channels == 83
    blocks = [net.get_submodule(f"conv{i}.block1") for i in range(2, 6)]
    between = [tuple(c.spatial_conv.out_channels for c in (b.conv1, b.conv2)) for b in blocks]
    assert between == [(144, 144), (230, 288), (460, 576), (921, 1152)]
    assert not blocks[0].reshapes
    # Norm and ReLU stand between the factors of the shortcut too.
    assert blocks[1].downsampleconv.bn.num_features == 64 * 128 // (64 + 128)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv3d)]
    assert all(m.bias is None for m in convolutions)


def test_names_of_published_state_dicts() -> None:
    with torch.device("meta"):
        names = {n: set(build_backbone(n).state_dict()) for n in COUNTS}
    assert {"conv1.spatial_conv.weight", "conv3.block1.downsamplebn.weight"} <= names["r21d"]
    assert "conv5.block1.conv2.temporal_spatial_conv.weight" in names["r3d"]
    assert {"conv3b.bias", "bn5a.running_var"} <= names["c3d"]


def slow_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A block of R(2+1)D in evaluation mode, from its state alone."""
    state = block.state_dict()

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, scale, offset = (
            state[f"{name}.{n}"].view(1, -1, 1, 1, 1)
            for n in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * scale + offset

    def factored(y: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        space, time = (state[f"{name}.{n}_conv.weight"] for n in ("spatial", "temporal"))
        pad = space.shape[-1] // 2
        y = nn.functional.conv3d(y, space, stride=(1, stride, stride), padding=(0, pad, pad))
        y = norm(y, f"{name}.bn").relu()
        return nn.functional.conv3d(y, time, stride=(stride, 1, 1), padding=(pad, 0, 0))

    y = norm(factored(x, "conv1", 2), "bn1").relu()
    y = norm(factored(y, "conv2", 1), "bn2")
    return (y + norm(factored(x, "downsampleconv", 2), "downsamplebn")).relu()


def test_a_block_is_what_the_paper_writes() -> None:
    torch.manual_seed(0)
    net = build_backbone("r21d").double()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    block = net.eval().get_submodule("conv3.block1")
    x = torch.randn(1, 64, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x.clone()), slow_block(block, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUNTS)
def test_stages(name: str) -> None:
    with torch.device("meta"):
        net = build_backbone(name).eval()
        found = net(torch.zeros(2, 16, 3, 64, 64), tuple(net.geometry)).stages
    assert isinstance(net, ClipBackbone)
    assert list(found) == list(net.geometry) == list(net.temporal_geometry)
    for stage, cells in found.items():
        stride, time = net.geometry[stage][0], net.temporal_geometry[stage][0]
        assert cells.shape[2:] == (16 // time, 64 // stride, 64 // stride)


def test_strides_of_the_residual_ones_can_be_changed() -> None:
    with torch.device("meta"):
        net = build_backbone("r21d", strides=(1, 1, 2, 2), temporal_strides=(1, 1, 1, 2)).eval()
        features = net(torch.zeros(1, 16, 3, 32, 32))
    assert features.map.shape == (1, 512, 8, 4, 4)
    assert (features.stride, features.temporal_stride) == (8, 2)
    with pytest.raises(ConfigError, match="strides"):
        build_backbone("c3d", strides=(1, 1, 2, 2))


def test_too_small_a_clip_is_told_before_it_fails() -> None:
    with torch.device("meta"):
        net = build_backbone("c3d").eval()
    with pytest.raises(DataError, match="at least 8 frames and 16 pixels"):
        net(torch.zeros(1, 4, 3, 16, 16))


@pytest.mark.parametrize("name", ["r21d", pytest.param("c3d", marks=pytest.mark.slow)])
def test_gradients_reach_every_weight(name: str) -> None:
    net = build_backbone(name, seed=0)
    net(torch.randn(2, 8, 3, 16, 16)).pooled.square().sum().backward()
    lost = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lost
