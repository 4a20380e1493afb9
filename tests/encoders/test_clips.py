"""What every clip encoder promises, and the small one in particular."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhyme.encoders import (
    BACKBONES,
    Backbone,
    ClipBackbone,
    EncoderWithHeads,
    GroupBatchNorm3d,
    HeadConfig,
    build_backbone,
    build_head,
)
from rhyme.encoders.backbone import backbone_class
from rhyme.errors import ConfigError, DataError, UnknownName
from rhyme.training.environment import lay_out


def test_a_clip_becomes_a_map_with_an_axis_of_time() -> None:
    net = build_backbone("small3d", seed=0).eval()
    features = net(torch.randn(2, 16, 3, 24, 24), ("layer2", "layer4"))
    assert features.map.shape == (2, 128, 4, 3, 3)
    assert torch.equal(features.pooled, features.map.mean((2, 3, 4)))
    assert features.stages["layer2"].shape == (2, 32, 16, 6, 6)
    assert torch.equal(features.stages["layer4"], features.map)
    assert (features.stride, features.temporal_stride) == (8, 4)
    assert net.feature_dim == 128
    assert net.config.widths == (16, 32, 64, 128)


def test_who_reads_clips_says_so() -> None:
    clips = {name for name in BACKBONES if backbone_class(name).reads_clips}
    assert "small3d" in clips
    assert not clips & {"small", "resnet18", "resnet34", "resnet50"}
    for name in ("small", "small3d"):
        net = build_backbone(name, seed=0)
        head = build_head(HeadConfig(), net.feature_dim)
        encoder = EncoderWithHeads(net, {"m": head})
        assert encoder.reads_clips == net.reads_clips == (name == "small3d")
    features, embeddings = encoder.eval()(torch.randn(2, 8, 3, 24, 24))
    assert embeddings["m"].shape == (2, 128)
    assert features.map.ndim == 5


def seen_by(net: Backbone, side: int, frames: int) -> tuple[list[list[int]], list[list[int]]]:
    """For each cell of the map, the columns and the frames that can change it."""
    for name, parameter in net.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
    columns = torch.zeros(side, 1, 3, 8, side)
    columns[torch.arange(side), ..., torch.arange(side)] = 1.0
    times = torch.zeros(frames, frames, 3, 8, 8)
    times[torch.arange(frames), torch.arange(frames)] = 1.0
    with torch.no_grad():
        across = net.eval()(columns).map[:, 0, 0, 0]
        along = net(times).map[:, 0, :, 0, 0]
    return tuple(
        [row[:, cell].nonzero().flatten().tolist() for cell in range(row.shape[1])]
        for row in (across, along)
    )


@pytest.mark.parametrize(
    "options", [{}, {"strides": (1, 2, 1, 3), "temporal_strides": (2, 1, 1, 2)}]
)
def test_cells_lie_where_the_geometry_says(options: dict[str, object]) -> None:
    net = build_backbone("small3d", widths=(2, 2, 2, 2), **options).eval()
    features = net(torch.zeros(1, 1, 3, 8, 8))
    space, time = seen_by(net, 64, 40)
    for cells, size, stride, offset in (
        (space, 64, features.stride, features.offset),
        (time, 40, features.temporal_stride, features.temporal_offset),
    ):
        inner = [(i, c) for i, c in enumerate(cells) if c[0] > 0 and c[-1] < size - 1]
        assert len(inner) >= 3
        for cell, seen in inner:
            assert (seen[0] + seen[-1]) / 2 == offset + stride * cell


def test_the_small_encoder_sees_more_than_half_a_clip_of_sixteen_frames() -> None:
    _, time = seen_by(build_backbone("small3d", widths=(2, 2, 2, 2)), 64, 40)
    assert {len(frames) for frames in time[2:-2]} == {11}


def test_order_matters_to_the_pooled_feature() -> None:
    net = build_backbone("small3d", seed=0).eval()
    clip = torch.randn(1, 16, 3, 24, 24)
    forward, backward = net(clip).pooled, net(clip.flip(1)).pooled
    assert not torch.allclose(forward, backward, rtol=1e-3)


def test_layout_changes_nothing_but_the_last_bits() -> None:
    net = build_backbone("small3d", seed=0, norm_groups=2)
    clip = torch.randn(16, 4, 3, 16, 16)  # torch's own kernels serve fewer than 16 rows
    plain = net(clip)
    assert plain.map.is_contiguous(memory_format=torch.channels_last_3d)
    net.to(memory_format=torch.channels_last_3d)
    again = net(clip)
    torch.testing.assert_close(again.map, plain.map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(n for n in BACKBONES if backbone_class(n).reads_clips))
def test_norm_groups_reach_every_norm(name: str) -> None:
    with torch.device("meta"):
        net = build_backbone(name, norm_groups=4)
    assert isinstance(net, ClipBackbone)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(m, GroupBatchNorm3d) and m.norm_groups == 4 for m in norms)
    assert norms or any(isinstance(m, nn.LayerNorm) for m in net.modules())


def test_frames_and_wrong_axes_are_refused_with_a_remedy() -> None:
    net = build_backbone("small3d", seed=0).eval()
    for shape in ((2, 3, 24, 24), (2, 3, 16, 24, 24)):
        with pytest.raises(DataError, match=r"clips \[b, t, 3, h, w\]") as caught:
            net(torch.zeros(shape))
        assert "view.data" in str(caught.value)
    with pytest.raises(UnknownName, match="layer5"):
        net(torch.zeros(1, 4, 3, 24, 24), ["layer5"])
    grey = build_backbone("small3d", seed=0, in_channels=1).eval()
    assert grey(torch.zeros(1, 4, 1, 24, 24)).pooled.shape == (1, 128)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "small3d", "stem": "cifar"},
        {"name": "small3d", "dilations": (1, 1, 2, 2)},
        {"name": "small3d", "temporal_strides": (1, 1, 2, 0)},
        {"name": "small", "temporal_strides": (1, 1, 2, 2)},
        {"name": "resnet18", "temporal_strides": (1, 1, 2, 2)},
    ],
)
def test_options_that_a_backbone_does_not_have_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build_backbone("resnet18", **options)


def test_widths_that_earlier_packages_state_are_let_pass() -> None:
    net = build_backbone("resnet18", widths=(32, 64, 96, 128))
    assert net.config == build_backbone("resnet18").config


def test_channels_last_turns_the_weights_of_clips() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build_backbone("r3d", seed=0)

    held = lay_out(Held(), channels_last=True)
    weights = [p for p in held.parameters() if p.ndim == 5 and p.shape[2] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights)
    assert held.net.bn1.weight.is_contiguous()
