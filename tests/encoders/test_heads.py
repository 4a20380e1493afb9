from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from rhyme.config import from_dict, to_dict
from rhyme.encoders import (
    HEAD_PRESETS,
    EncoderWithHeads,
    GroupBatchNorm1d,
    HeadConfig,
    build_backbone,
    build_head,
    unit,
)
from rhyme.errors import ConfigError, DataError, UnknownName

# Layer by layer: L linear with bias, l without, B norm, S norm with scale only, R ReLU.
LETTERS = {
    "identity": "",
    "moco_v1": "L",
    "moco_v2": "LRL",
    "cyclecontrast": "LRL",
    "demo": "lBRL",
    "simclr": "lBRlS",
    "simclr_v2": "lBRlBRlS",
    "vfs_projector": "lBRlBRlB",
    "vfs_predictor": "lBRL",
}


def letter(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "l" if layer.bias is None else "L"
    if isinstance(layer, GroupBatchNorm1d):
        return "n" if not layer.affine else "S" if layer.bias is None else "B"
    return {nn.ReLU: "R", nn.GELU: "G"}[type(layer)]


def test_presets_are_the_published_heads() -> None:
    assert set(HEAD_PRESETS) == set(LETTERS)
    for name, config in HEAD_PRESETS.items():
        head = build_head(config, 32, norm_groups=2)
        assert "".join(letter(layer) for layer in head.layers) == LETTERS[name], name
        out = head(torch.randn(4, 32))
        assert out.shape == (4, head.out_dim)
        assert head.out_dim == (config.out or 32)
        unit = torch.allclose(out.norm(dim=1), torch.ones(4), atol=1e-5)
        assert unit == (not name.startswith("vfs")), name


def test_moco_head_against_its_formula() -> None:
    head = build_head(HEAD_PRESETS["moco_v2"], 16).double()
    x = torch.randn(3, 16, dtype=torch.float64)
    first, _, second = head.layers
    z = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(head(x), z / z.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head(x, normalise=False), z)
    assert first.weight.shape == (16, 16)
    assert second.weight.shape == (128, 16)


def test_a_head_of_no_layers_passes_the_feature_on() -> None:
    x = torch.randn(3, 8)
    head = build_head(HeadConfig(layers=0, out=0, normalise=False), 8)
    assert head(x) is x
    torch.testing.assert_close(head(x, normalise=True), x / x.norm(dim=1, keepdim=True))
    with pytest.raises(ConfigError, match="0 layers") as caught:
        build_head(HeadConfig(layers=0, out=4), 8)
    assert "for no head set head.out to 8" in str(caught.value.remedy)
    assert build_head(HeadConfig(layers=0, out=8), 8).out_dim == 8


def test_options() -> None:
    config = HeadConfig(
        layers=3,
        hidden=7,
        out=5,
        bias=False,
        activation="gelu",
        last_norm=True,
        last_affine="none",
    )
    head = build_head(config, 9, norm_groups=3)
    assert "".join(letter(layer) for layer in head.layers) == "lGlGln"
    assert [tuple(p.shape) for p in head.parameters()] == [(7, 9), (7, 7), (5, 7)]
    assert head.layers[-1].norm_groups == 3
    assert from_dict(HeadConfig, to_dict(config)) == config


def test_half_precision_embeddings_come_back_in_float32() -> None:
    head = build_head(HEAD_PRESETS["moco_v1"], 8).bfloat16()
    x = torch.randn(4, 8).bfloat16()
    assert head(x).dtype == torch.float32
    torch.testing.assert_close(head(x).norm(dim=1), torch.ones(4))
    assert head(x, normalise=False).dtype == torch.bfloat16


def test_blocks_have_length_one_each() -> None:
    config = HeadConfig(layers=2, out=12, blocks=3)
    head = build_head(config, 8)
    z = head(torch.randn(4, 8))
    torch.testing.assert_close(z.unflatten(1, (3, 4)).norm(dim=-1), torch.ones(4, 3))
    raw = head(torch.ones(1, 8), normalise=False).unflatten(1, (3, 4))
    assert torch.equal(head(torch.ones(1, 8)).unflatten(1, (3, 4)), unit(raw))
    assert from_dict(HeadConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="blocks"):
        build_head(HeadConfig(layers=0, out=0, blocks=3), 8)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": -1},
        {"layers": 99},
        {"out": -1},
        {"hidden": 0},
        {"layers": 0, "last_norm": True},
        {"blocks": 0},
        {"out": 128, "blocks": 3},
    ],
)
def test_impossible_heads_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        HeadConfig(**options)


def test_a_wrong_feature_is_refused() -> None:
    with pytest.raises(DataError, match=r"\[b, 8\]"):
        build_head(HeadConfig(), 8)(torch.randn(2, 9))


def make_pair() -> EncoderWithHeads:
    trunk = build_backbone("small", seed=0)
    heads = {n: build_head(HeadConfig(out=6 + i), trunk.feature_dim) for i, n in enumerate("mc")}
    return EncoderWithHeads(trunk, heads)


def test_encoder_with_heads() -> None:
    encoder = make_pair()
    pixels = torch.randn(2, 3, 16, 16)
    features, embeddings = encoder(pixels, stages=["layer1"])
    assert {name: z.shape for name, z in embeddings.items()} == {"m": (2, 6), "c": (2, 7)}
    assert set(features.stages) == {"layer1"}
    torch.testing.assert_close(embeddings["c"], encoder.head("c")(features.pooled))
    _, only = encoder(pixels, heads=["c"])
    assert list(only) == ["c"]
    _, none = encoder(pixels, heads=[])
    assert none == {}
    assert encoder.feature_dim == 128
    assert encoder.config.name == "small"
    with pytest.raises(UnknownName, match="no head 'k'"):
        encoder(pixels, heads=["k"])


def test_gradients_stay_with_the_head_that_was_used() -> None:
    encoder = make_pair()
    _, embeddings = encoder(torch.randn(2, 3, 16, 16))
    embeddings["m"][:, 0].sum().backward()
    assert all(p.grad is not None for p in encoder.head("m").parameters())
    assert all(p.grad is None for p in encoder.head("c").parameters())
    assert encoder.backbone.layer1.conv.weight.grad is not None


def test_a_copy_is_a_copy_of_everything() -> None:
    encoder = make_pair().eval()
    twin = copy.deepcopy(encoder)
    pixels = torch.randn(2, 3, 16, 16)
    before = encoder(pixels)[1]["m"]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert torch.equal(twin(pixels)[1]["m"], before)


def test_the_way_to_no_head_is_told() -> None:
    with pytest.raises(ConfigError, match="no last norm") as caught:
        replace(HEAD_PRESETS["simclr"], layers=0)
    assert "head.last_norm to false and head.out to 0" in (caught.value.remedy or "")
    head = build_head(replace(HEAD_PRESETS["simclr"], layers=0, out=0, last_norm=False), 8)
    rows = torch.rand(3, 8)
    assert torch.allclose(head(rows), rows / rows.norm(dim=1, keepdim=True))
