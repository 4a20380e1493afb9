"""Finer grids of the same weights."""

import pytest
import torch

from rhyme.encoders import BackboneConfig, build_backbone
from rhyme.errors import ConfigError, DataError, UnknownName
from rhyme.tasks import dense_encoder


@pytest.mark.parametrize(
    ("name", "stride", "stage", "strides"),
    [
        ("resnet18", 8, "layer3", (1, 2, 1, 1)),
        ("resnet18", 16, "layer3", (1, 2, 2, 2)),
        ("small", 8, "layer4", (1, 2, 2, 2)),
        ("small", 4, "layer4", (1, 2, 2, 1)),
    ],
)
def test_late_layers_lose_their_stride_first(name, stride, stage, strides) -> None:
    backbone = build_backbone(BackboneConfig(name=name), seed=1).eval()
    dense = dense_encoder(backbone, stride)
    assert (dense.stage, dense.stride) == (stage, stride)
    assert dense.module.config.strides == strides
    assert all(
        torch.equal(value, dense.module.state_dict()[key])
        for key, value in backbone.state_dict().items()
    )
    pixels = torch.randn(2, 3, 40, 56)
    found = dense(pixels)
    assert found.shape[2:] == (-(-40 // stride), -(-56 // stride))
    assert torch.allclose(found.norm(dim=1), torch.ones(()), atol=1e-5)


def test_a_grid_that_is_fine_enough_is_the_encoder_itself() -> None:
    backbone = build_backbone("small", seed=1).eval()
    assert dense_encoder(backbone, 8).module is backbone
    coarse = backbone(torch.ones(1, 3, 24, 24)).map
    fine = dense_encoder(backbone, 4)(torch.ones(1, 3, 24, 24))
    assert fine.shape[2] == 2 * coarse.shape[2]


def test_what_no_backbone_can_do_is_refused() -> None:
    backbone = build_backbone("resnet18", seed=0)
    with pytest.raises(ConfigError, match="cells every 2 pixels") as caught:
        dense_encoder(backbone, 2, "layer4", options="--cells.")
    assert caught.value.remedy == "choose --cells.stride 4 or more"
    with pytest.raises(UnknownName, match="layer9"):
        dense_encoder(backbone, 8, "layer9")
    with pytest.raises(ConfigError, match="backbone"):
        dense_encoder(torch.nn.Linear(2, 2))


def test_without_a_stage_the_deepest_that_is_fine_enough_is_read_else_the_finest() -> None:
    mobile = build_backbone("torchvision:mobilenet_v3_small", seed=0).eval()
    dense = dense_encoder(mobile, 8)
    assert (dense.stage, dense.stride) == ("stage3", 8)
    assert dense.module is mobile
    assert dense_encoder(mobile, 16).stage == "stage4"
    assert dense_encoder(mobile, 1).stage == "stage1"
    with pytest.raises(ConfigError, match="'stage5' cannot have cells every 8") as caught:
        dense_encoder(mobile, 8, "stage5", options="--cells.")
    told = str(caught.value.remedy)
    assert told.startswith("choose --cells.stride 32 or more, or --cells.stage stage1, ")
    assert "--cells.stage stage3" in told
    assert "stage4" not in told
    own = dense_encoder(build_backbone("resnet18", seed=0).eval(), 2)
    assert (own.stage, own.stride) == ("layer3", 4)


def test_a_network_of_one_size_reads_smaller_frames_with_a_margin() -> None:
    net = build_backbone("small", seed=0).eval()
    net.side = 64
    dense = dense_encoder(net, 8)
    assert dense.module is net
    frames = torch.randn(1, 3, 32, 64)
    found = dense(frames)
    assert found.shape[2:] == (4, 8)
    filled = torch.cat([frames, torch.zeros(1, 3, 32, 64)], dim=2)
    with torch.no_grad():
        whole = net(filled).map
    assert torch.allclose(found, torch.nn.functional.normalize(whole[..., :4, :], dim=1), atol=1e-5)
    with pytest.raises(DataError, match="at most 64 x 64") as caught:
        dense(torch.zeros(1, 3, 48, 96))
    assert "height 32" in str(caught.value.remedy)
