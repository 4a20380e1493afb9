"""Encoders of Hugging Face folders, with networks of the library's shape in its place."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhyme.encoders import build_backbone
from rhyme.encoders.backbone_config import DescribedConfig
from rhyme.errors import ConfigError, DataError


class Net(nn.Module):
    """What they share: patches of 8 pixels as 6 numbers each."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, 6, 8, 8)

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.patches(pixels).flatten(2).mT


class Plain(Net):
    """A class token before all patches."""

    def forward(self, pixel_values: Tensor) -> Any:
        tokens = self.tokens(pixel_values)
        return SimpleNamespace(last_hidden_state=torch.cat([tokens[:, :1] * 2, tokens], dim=1))


class Mobile(Net):
    """A map, whose configuration tells no length, or another one than that of its output."""

    def forward(self, pixel_values: Tensor) -> Any:
        made = self.patches(pixel_values)
        return SimpleNamespace(last_hidden_state=made, pooler_output=made.mean((-2, -1)))


class Masked(Net):
    """Patches in an order that is drawn, most of them left out."""

    def forward(self, pixel_values: Tensor, noise: Tensor | None = None) -> Any:
        tokens = self.tokens(pixel_values)
        noise = torch.rand(tokens.shape[:2]).to(tokens.device) if noise is None else noise
        kept = int(tokens.shape[1] * (1 - self.config.mask_ratio))
        order = noise.argsort(dim=1)[:, :kept, None].expand(-1, -1, tokens.shape[2])
        shown = tokens.gather(1, order)
        return SimpleNamespace(last_hidden_state=torch.cat([tokens[:, :1] * 2, shown], dim=1))


class Merging(Net):
    """Fewer tokens than patches."""

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.tokens(pixel_values)[:, ::2])


class Text(Net):
    """No pixels at all."""

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=input_ids)


class Detector(Net):
    """No last hidden state."""

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(boxes=self.tokens(pixel_values))


class Numbers(Net):
    """A pass that looks at values, which empty tensors do not have."""

    def forward(self, pixel_values: Tensor) -> Any:
        made = self.patches(pixel_values)
        assert bool(made.isfinite().all())
        return SimpleNamespace(last_hidden_state=made)


KINDS = {
    "vit": Plain, "mobilenet_v2": Mobile, "mobilevit": Mobile, "vit_mae": Masked,
    "merging": Merging, "bert": Text, "detr": Detector, "numbers": Numbers,
}  # fmt: skip


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = ModuleType("transformers")
    fake.AutoConfig = SimpleNamespace(
        for_model=lambda kind, **told: SimpleNamespace(model_type=kind, **told)
    )
    fake.AutoModel = SimpleNamespace(from_config=lambda own: KINDS[own.model_type](own))
    monkeypatch.setitem(sys.modules, "transformers", fake)


def build(kind: str, **told: Any) -> Any:
    described = json.dumps({"model_type": kind, "image_size": 32, **told})
    return build_backbone(DescribedConfig(name=f"hf:{kind}", architecture=described), seed=0)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("vit", {"patch_size": 8, "hidden_size": 6}),
        ("mobilenet_v2", {}),
        ("mobilevit", {"hidden_sizes": [2, 4], "neck_hidden_sizes": [3, 6]}),
        ("numbers", {}),
    ],
)
def test_the_length_of_a_feature_is_that_of_what_the_network_makes(
    kind: str, told: dict[str, Any]
) -> None:
    encoder = build(kind, **told)
    assert encoder.feature_dim == 6
    assert encoder(torch.randn(2, 3, 40, 40)).pooled.shape == (2, 6)
    assert next(encoder.parameters()).device.type == "cpu"


def test_a_masked_autoencoder_sees_all_of_a_picture_in_its_order() -> None:
    encoder = build("vit_mae", patch_size=8, hidden_size=6, mask_ratio=0.75)
    pixels = torch.randn(2, 3, 40, 48)
    state = torch.get_rng_state()
    found = encoder(pixels)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert found.map.shape == (2, 6, 5, 6)
    torch.testing.assert_close(found.map, encoder.net.patches(pixels))
    torch.testing.assert_close(found.pooled, found.map[:, :, 0, 0] * 2)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("merging", "8 tokens for 4 x 4 patches"),
        ("bert", "pixel_values"),
        ("detr", "last_hidden_state"),
    ],
)
def test_what_makes_no_feature_of_a_picture_is_refused_with_its_type(kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"type '{kind}' makes no feature") as caught:
        build(kind, patch_size=8, hidden_size=6)
    assert said in caught.value.cause
    assert "such as ViT" in str(caught.value.remedy)


def test_a_picture_that_loses_tokens_is_refused() -> None:
    encoder = build("vit", patch_size=8, hidden_size=6)
    encoder.net.forward = Merging.forward.__get__(encoder.net)
    with pytest.raises(DataError, match="8 tokens for 4 x 4 patches"):
        encoder(torch.randn(1, 3, 32, 32))
