"""Finer grids of the same weights."""

import pytest
import torch

from rhyme.encoders import BackboneConfig, build_backbone
from rhyme.errors import ConfigError, UnknownName
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
        dense_encoder(backbone, 2)
    assert "at least 4" in str(caught.value.remedy)
    with pytest.raises(UnknownName, match="layer9"):
        dense_encoder(backbone, 8, "layer9")
    with pytest.raises(ConfigError, match="backbone"):
        dense_encoder(torch.nn.Linear(2, 2))
