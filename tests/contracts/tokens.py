"""Sequences of arrays beside tokens of any length, matched like pictures with captions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from contracts.support import noise
from rhyme import distributed
from rhyme.loading import ArraySource
from rhyme.systems.base import Export, ParameterGroup, StepOutput, System
from rhyme.training import OptimizerConfig, TrainConfig

CONFIG = TrainConfig(steps=6, batch_size=4, optimizer=OptimizerConfig(name="adamw", lr=0.01))


def captioned(seed):
    arrays = {"array": noise(10, 12, 7, 4), "words": (noise(11, 12, 5).sigmoid() * 20).long()}
    valid = {"words": torch.arange(5) < 1 + torch.arange(12)[:, None] % 5}
    return ArraySource(arrays, CONFIG.batch_size, seed, valid=valid)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)

    def forward(self, words, valid):
        return F.normalize((self.table(words) * valid[..., None]).sum(1), dim=1)


class Match(System):
    def __init__(self):
        super().__init__()
        self.arrays, self.words = nn.GRU(4, 8, batch_first=True), Words()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def parameter_groups(self):
        named = dict(self.named_parameters())
        scale = (("scale", named.pop("scale")),)
        slow = ParameterGroup(name="scale", parameters=scale, schedule="constant")
        return (ParameterGroup(name="all", parameters=tuple(named.items())), slow)

    def training_step(self, batch, context):
        words = batch.views["words"]
        told = self.words(words.data, words.valid)
        seen = F.normalize(self.arrays(batch.views["array"].data)[1][0], dim=1)
        keys = distributed.gather(told, grad=True)
        own = torch.arange(len(keys))[distributed.rank_slice(len(keys))]
        values = F.cross_entropy(self.scale.exp() * seen @ keys.T, own, reduction="none")
        return StepOutput(loss=distributed.mean(values), embeddings={"words": told.detach()})

    def exports(self):
        return {"words": Export(kind="encoder", module=self.words)}


SYSTEM, SOURCE, EXPORT, MODULE = Match, captioned, "words", Words
EXAMPLE = (torch.arange(6).reshape(2, 3), torch.ones(2, 3))
