"""A pair of adversaries: two steps of a critic to one of a generator, each with its own batch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from contracts.support import noise
from rhyme import distributed
from rhyme.loading import ArraySource
from rhyme.systems.base import Export, ParameterGroup, Phase, StepOutput, System
from rhyme.training import OptimizerConfig, TrainConfig

CONFIG = TrainConfig(
    steps=6, batch_size=4, clip_norm=1.0, optimizer=OptimizerConfig(name="sgd", lr=0.05)
)


def points(seed):
    return ArraySource({"real": noise(3, 20, 2) + 2.0}, CONFIG.batch_size, seed)


class Adversaries(System):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    def parameter_groups(self):
        names = {"generator": self.generator, "critic": self.critic}
        return tuple(
            ParameterGroup(name=n, parameters=tuple(m.named_parameters(n)))
            for n, m in names.items()
        )

    def phases(self):
        return (
            Phase(name="judge", groups=("critic",), repeats=2),
            Phase(name="forge", groups=("generator",)),
        )

    def training_step(self, batch, context):
        draws = context.per_sample("noise", batch.ids).normal("z", 3)
        forged = self.generator(torch.from_numpy(draws).float())
        if context.phase == "forge":
            return StepOutput(loss=distributed.mean(F.softplus(-self.critic(forged))))
        real, false = self.critic(batch.views["real"].data), self.critic(forged)
        return StepOutput(loss=distributed.mean(F.softplus(-real) + F.softplus(false)))

    def exports(self):
        return {"generator": Export(kind="generator", module=self.generator)}


SYSTEM, SOURCE, EXPORT = Adversaries, points, "generator"
MODULE, EXAMPLE = (lambda: Adversaries().generator), (noise(4, 5, 3),)
