"""Zipped pairs: pictures and maps of labels from two sets, joined by item."""

from __future__ import annotations

from contract_support import RowSource, noise
from torch import nn
from torch.nn import functional as F

from rhyme.systems.base import Export, StepOutput, System
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views.view import View

CONFIG = TrainConfig(
    steps=6,
    batch_size=4,
    optimizer=OptimizerConfig(name="lars", lr=0.5, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=2, warmup_lr=0.1),
)


class Pairs(RowSource):
    def __init__(self, seed):
        super().__init__(12, CONFIG.batch_size, seed)
        self.pictures = noise(8, 12, 1, 3, 8, 8)
        self.maps = (self.pictures[:, 0].mean(1) > 0).long()

    def fill(self, ids):
        return {
            "views": {"picture": View(data=self.pictures[ids])},
            "targets": {"map": self.maps[ids]},
        }


class Segmenter(System):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )

    def training_step(self, batch, context):
        scores = self.net(batch.views["picture"].frames)
        loss = F.cross_entropy(scores, batch.targets["map"])
        right = (scores.argmax(1) == batch.targets["map"]).float().mean()
        return StepOutput(loss=loss, diagnostics={"accuracy": right})

    def exports(self):
        return {"segmenter": Export(kind="segmenter", module=self.net)}


SYSTEM, SOURCE, EXPORT = Segmenter, Pairs, "segmenter"
MODULE, EXAMPLE = (lambda: Segmenter().net), (noise(9, 2, 3, 8, 8),)
