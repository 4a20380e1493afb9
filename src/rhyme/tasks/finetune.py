"""A classifier trained on pictures: the encoder with it, or the classifier alone.

SGD with Nesterov's momentum, cosine to zero, no warm-up; random crops and flips and nothing else
(SimCLR, arXiv 2002.05709, appendices B.5 to B.8).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.catalog import Catalog
from rhyme.encoders import Features, GroupBatchNorm, InferencePlan
from rhyme.errors import ConfigError, DataError, EvaluationError
from rhyme.loading import CatalogSource, FrameCache, Placement
from rhyme.tasks.extract import Progress, extract_features
from rhyme.tasks.neighbours import check_classes
from rhyme.tasks.table import Integer
from rhyme.training.config import ScheduleConfig
from rhyme.training.schedules import learning_rate
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec

__all__ = ["ImageClassifier", "Tuning", "fine_tune", "predict_classes"]

_COSINE = ScheduleConfig(name="cosine")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the labelled items.
        batch_size: items of a batch; all of them where there are fewer.
        lr: learning rate for a batch of 256; it follows the batch size in proportion.
        weight_decay: L2 term.
        frozen: keep the encoder as it is, its batch norm included, and train the classifier alone.
        scale: bounds of a crop's share of the frame's area.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.05
    weight_decay: float = 0.0
    frozen: bool = False
    scale: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}", value=getattr(self, name))
        if not self.lr > 0 or self.weight_decay < 0:
            raise ConfigError(
                "lr must be positive and weight_decay not negative",
                value=(self.lr, self.weight_decay),
            )


class ImageClassifier(nn.Module):
    """An encoder of frames with a linear classifier on its pooled feature.

    Args:
        encoder: the encoder; it is copied.
        classes: number of classes.
        seed: of the classifier's first weights, N(0, 0.01) with zero offsets.
    """

    def __init__(self, encoder: nn.Module, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.head = nn.Linear(int(cast(int, encoder.feature_dim)), classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)

    def logits(self, pixels: Tensor) -> Tensor:
        """``[b, classes]`` for normalised pixels ``[b, c, h, w]``."""
        return self.head(self.encoder(pixels).pooled)

    def forward(self, pixels: Tensor) -> Features:
        """Probabilities ``[b, classes]`` as the pooled feature, so that frames can be averaged."""
        return Features(pooled=self.logits(pixels).softmax(dim=1))


def fine_tune(
    encoder: nn.Module,
    plan: InferencePlan,
    catalog: Catalog,
    labels: Integer,
    classes: int,
    tuning: Tuning,
    *,
    seed: int = 0,
    workers: int = 0,
    device: str | torch.device = "cpu",
    cache: FrameCache | None = None,
    progress: Progress | None = None,
) -> ImageClassifier:
    """Train a classifier on one random frame of each item and epoch.

    Batch norm of an encoder that is trained takes its statistics over the whole batch, whatever
    groups it was pre-trained in.

    Args:
        encoder: an encoder of frames with ``feature_dim``; it stays as it is.
        plan: size and normalisation that it wants.
        catalog: the labelled items.
        labels: ``int64 [n]`` class of each, from 0.
        classes: number of classes.
        tuning: how.
        seed: of order, crops and the classifier's first weights.
        workers: decoding processes.
        device: where to train.
        cache: decoded frames to use instead of the files.
        progress: called with (done, total) items.

    Returns:
        The classifier in evaluation mode, on the device.

    Raises:
        DataError: fewer than two classes, or none of the items can be read.
        EvaluationError: the encoder reads whole clips, or the training diverged.
    """
    if getattr(encoder, "reads_clips", False):
        raise EvaluationError("the encoder reads whole clips, not frames", stage="fine-tune")
    check_classes(labels, len(catalog), stage="fine-tune")
    device = torch.device(device)
    crops = ContrastTransform(
        size=plan.size, scale=tuning.scale, jitter=0, gray=0, blur=0, mean=plan.mean, std=plan.std
    )  # fmt: skip
    views = ViewPlan(clips={"a": Clip()}, views={"crop": ViewSpec(clip="a", transform=crops)})
    source = CatalogSource(
        catalog,
        views,
        batch_size=min(tuning.batch_size, len(catalog)),
        seed=seed,
        workers=workers,
        cache=cache,
        placement=Placement("cpu" if device.type == "cpu" else "device", device),
    )
    ids = np.asarray(catalog.numbers("id")).view(np.int64)
    codes = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    model = _prepared(ImageClassifier(encoder, classes, seed).to(device), tuning.frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    peak = tuning.lr * source.batch_size / 256
    optimizer = torch.optim.SGD(
        trained, lr=peak, momentum=0.9, nesterov=True, weight_decay=tuning.weight_decay
    )
    per_epoch = source.batches_per_epoch
    steps = tuning.epochs * per_epoch
    batches = source.batches()
    try:
        for step in range(steps):
            batch = next(batches)
            target = torch.tensor([codes[i] for i in batch.ids.tolist()], device=device)
            rate = learning_rate(_COSINE, peak, step, steps, per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels = batch.to(device).views["crop"].frames
            loss = functional.cross_entropy(model.logits(pixels), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress((step + 1) * source.batch_size, steps * source.batch_size)
    finally:
        source.close()
    if not all(bool(p.isfinite().all()) for p in trained):
        raise EvaluationError(
            "the fine-tuning diverged", stage="fine-tune", value=peak, remedy="lower its lr"
        )
    return model.eval()


def _prepared(model: ImageClassifier, frozen: bool) -> ImageClassifier:
    """Freeze the encoder, or make its batch norm see the whole batch."""
    model.encoder.requires_grad_(not frozen)
    model.train()
    if frozen:
        model.encoder.eval()
    else:
        for part in model.encoder.modules():
            if isinstance(part, GroupBatchNorm):
                part.norm_groups = 1
    return model


def predict_classes(
    model: ImageClassifier,
    plan: InferencePlan,
    catalog: Catalog,
    *,
    frames_per_item: int = 4,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Integer, Integer]:
    """The class of each item: probabilities of its frames, whole and central, are averaged.

    Args:
        model: the classifier.
        plan: size and normalisation.
        catalog: the items.
        frames_per_item: equally spaced frames an item.
        workers: decoding processes.
        device: where to run.

    Returns:
        Rows of the catalog that could be read and the class of each, both ``int64 [m]``.

    Raises:
        DataError: no item can be read.
    """
    table = extract_features(
        model, plan, catalog, frames_per_item=frames_per_item, workers=workers, device=device
    )
    if len(table.index) == 0:
        raise DataError("no item could be read", stage="fine-tune")
    return np.asarray(table.index, np.int64), np.asarray(table.mean().argmax(axis=1), np.int64)
