"""Zipped pairs: pictures and maps of labels from two sets, joined by item."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from contracts.support import noise
from rhyme import distributed
from rhyme.encoders import GroupBatchNorm2d
from rhyme.loading import ArraySource, ZipSource
from rhyme.systems.base import Export, StepOutput, System
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig

CONFIG = TrainConfig(
    steps=6,
    batch_size=4,
    optimizer=OptimizerConfig(name="lars", lr=0.5, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=2, warmup_lr=0.1),
)


def pairs(seed):
    pictures = noise(8, 12, 1, 3, 8, 8)
    parts = {
        "picture": ({"x": pictures}, {"x": "pixels"}),
        "map": ({"y": (pictures[:, 0].mean(1) > 0).long()}, None),
    }
    # One seed and one set of ids: both sets come in one order, and a pair stays a pair.
    return ZipSource(
        {name: ArraySource(a, CONFIG.batch_size, seed, kinds=k) for name, (a, k) in parts.items()}
    )


class Segmenter(System):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), GroupBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )

    def training_step(self, batch, context):
        scores = self.net(batch.views["picture.x"].frames)
        labels = batch.views["map.y"].data
        loss = distributed.mean(F.cross_entropy(scores, labels, reduction="none"))
        right = (scores.argmax(1) == labels).float().mean()
        return StepOutput(loss=loss, diagnostics={"accuracy": right})

    def exports(self):
        return {"segmenter": Export(kind="segmenter", module=self.net)}


SYSTEM, SOURCE, EXPORT = Segmenter, pairs, "segmenter"
MODULE, EXAMPLE = (lambda: Segmenter().net), (noise(9, 2, 3, 8, 8),)
