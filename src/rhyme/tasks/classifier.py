"""A linear classifier on an encoder, of frames or of clips."""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.encoders import Features
from rhyme.tasks.extract import encode

__all__ = ["Aggregate", "Classifier"]

Aggregate = Literal["softmax", "logits"]
"""What is averaged over the clips of a video: probabilities (DualVar, CoCLR) or logits (CSTP)."""


class Classifier(nn.Module):
    """An encoder with a linear classifier on its pooled feature.

    It reads clips ``[b, t, c, h, w]`` whatever the encoder reads: of an encoder of frames, a clip's
    feature is the mean over its frames.

    Args:
        encoder: the encoder, with ``feature_dim``; it is copied.
        classes: number of classes.
        seed: of the classifier's first weights, N(0, 0.01) with zero offsets.
        unit: scale each feature to length 1 first.
        norm: batch norm of the feature (after ``unit``) before the linear layer.
        aggregate: what the forward pass gives, to be averaged over the clips of a video.
    """

    reads_clips = True

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        seed: int = 0,
        *,
        unit: bool = False,
        norm: bool = False,
        aggregate: Aggregate = "softmax",
    ) -> None:
        super().__init__()
        dim = int(cast(int, encoder.feature_dim))
        self.encoder = copy.deepcopy(encoder)
        self.norm = nn.BatchNorm1d(dim) if norm else nn.Identity()
        self.head = nn.Linear(dim, classes)
        self.unit, self.aggregate = unit, aggregate
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)

    def logits(self, clips: Tensor) -> Tensor:
        """``[b, classes]`` for normalised clips ``[b, t, c, h, w]``."""
        feature = encode(self.encoder, clips)
        if self.unit:
            feature = functional.normalize(feature, dim=1)
        return self.head(self.norm(feature))

    def forward(self, clips: Tensor) -> Features:
        """Probabilities, or logits, ``[b, classes]`` as the pooled feature, to be averaged."""
        logits = self.logits(clips)
        return Features(pooled=logits.softmax(dim=1) if self.aggregate == "softmax" else logits)
