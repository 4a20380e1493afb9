from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rhyme.encoders import EncoderWithHeads, HeadConfig, InferencePlan, build_backbone, build_head


@pytest.fixture
def plan() -> InferencePlan:
    return InferencePlan(size=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.fixture
def make_encoder() -> Callable[..., EncoderWithHeads]:
    """Builds a small encoder with a head whose running statistics are no longer the initial."""

    def make(seed: int = 0) -> EncoderWithHeads:
        trunk = build_backbone("small", seed=seed, widths=(4, 6, 8, 10))
        head = build_head(HeadConfig(out=5, hidden_norm=True), trunk.feature_dim)
        encoder = EncoderWithHeads(trunk, {"m": head})
        with torch.no_grad():
            encoder(torch.randn(4, 3, 16, 16))
        assert any(isinstance(part, nn.BatchNorm1d) for part in encoder.modules())
        return encoder

    return make
