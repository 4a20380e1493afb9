"""A classifier trained on frames or clips: the encoder with it, or the classifier alone.

By default as for pictures (SimCLR, arXiv 2002.05709, appendices B.5 to B.8): SGD with Nesterov's
momentum, cosine to zero, no warm-up; random crops and flips and nothing else. What protocols for
video do otherwise is set by :class:`Tuning`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rhyme.catalog import Catalog
from rhyme.encoders import GroupBatchNorm, InferencePlan
from rhyme.errors import ConfigError, DataError, Diverged, NotFinite, UnknownName, nearest
from rhyme.heap import keep_freed
from rhyme.loading import CatalogSource, FrameCache, Placement, unusable
from rhyme.tasks.classifier import Aggregate, Classifier
from rhyme.tasks.extract import Progress, extract_features
from rhyme.tasks.neighbours import check_classes
from rhyme.tasks.table import Integer
from rhyme.training.config import ScheduleConfig
from rhyme.training.schedules import learning_rate
from rhyme.views import Clip, ClipSampling, ContrastTransform, ViewPlan, ViewSpec

__all__ = ["Tuning", "fine_tune", "predict_classes", "usable_rows"]

Schedule = Literal["cosine", "step", "plateau"]
Crop = Literal["box", "window"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the labelled items; each takes one random frame or clip of an item.
        steps: steps of the whole training; 0 for ``epochs`` passes.
        batch_size: items of a batch; all of them where there are fewer. Batch norm before the
            linear layer needs 2.
        lr: learning rate for a batch of ``lr_batch``; it follows the batch size in proportion.
        lr_batch: that batch.
        weight_decay: L2 term.
        nesterov: Nesterov's momentum; both have a momentum of 0.9.
        schedule: ``"cosine"`` falls to zero; ``"step"`` takes a tenth at each milestone;
            ``"plateau"`` takes a tenth when the mean training loss of an epoch has not improved for
            ``patience`` epochs.
        milestones: epochs, for ``"step"``.
        patience: epochs, for ``"plateau"``.
        frozen: keep the encoder as it is, its batch norm included, and train the classifier alone.
        frames: frames of a clip; 0 takes the encoder's plan.
        stride: native frames between them; 0 takes the encoder's plan.
        crop: ``"box"`` scales a box of random area and aspect to the encoder's size; ``"window"``
            scales the frame to 128 x 171 (rows x columns) for a size of 112, in proportion for
            others, and cuts a square at a random place.
        scale: bounds of a box's share of the frame's area.
        flip: probability of a horizontal flip; 0 where left and right are what a label tells.
        jitter: probability of colour jitter, one draw a clip: brightness, contrast and saturation
            within 1 ± 0.4, hue within ± 0.1 turns, in random order.
        strength: factor on those four.
        unit: scale each feature to length 1 before the classifier.
        norm: batch norm before the linear layer.
        aggregate: what is averaged over the clips of a video.
    """

    epochs: int = 30
    steps: int = 0
    batch_size: int = 64
    lr: float = 0.05
    lr_batch: int = 256
    weight_decay: float = 0.0
    nesterov: bool = True
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    patience: int = 10
    frozen: bool = False
    frames: int = 0
    stride: int = 0
    crop: Crop = "box"
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: float = 0.0
    strength: float = 1.0
    unit: bool = False
    norm: bool = False
    aggregate: Aggregate = "softmax"

    def __post_init__(self) -> None:
        batch = 2 if self.norm else 1
        least = {"epochs": 1, "batch_size": batch, "lr_batch": 1, "patience": 1}
        for name, low in {**least, "steps": 0, "frames": 0, "stride": 0}.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}", value=getattr(self, name))
        if not self.lr > 0 or self.weight_decay < 0:
            raise ConfigError(
                "lr must be positive and weight_decay not negative",
                value=(self.lr, self.weight_decay),
            )
        for name, kinds in (("schedule", Schedule), ("crop", Crop), ("aggregate", Aggregate)):
            if getattr(self, name) not in get_args(kinds):
                raise UnknownName(
                    f"unknown {name} '{getattr(self, name)}'",
                    remedy=nearest(getattr(self, name), get_args(kinds)),
                )
        _ = self.rates  # milestones without a step schedule, and the reverse, are refused there

    @property
    def rates(self) -> ScheduleConfig:
        """The learning rate as the training loop has it; constant for ``"plateau"``.

        Raises:
            ConfigError: milestones that do not rise, or do not go with the schedule.
        """
        name = "constant" if self.schedule == "plateau" else self.schedule
        per = "epoch" if self.schedule == "step" else "step"
        return ScheduleConfig(name=name, milestones=self.milestones, per=per)

    def plan(self, plan: InferencePlan) -> InferencePlan:
        """An encoder's plan with this clip, of frames that are scaled as those trained on are."""
        aspect = 171 / 128 if self.crop == "window" else None
        plan = replace(plan, frames=self.frames or plan.frames, aspect=aspect)
        if aspect is not None:
            plan = replace(plan, resize=round(plan.size * 128 / 112))
        return replace(plan, stride=self.stride, spacing=0.0) if self.stride else plan

    def views(self, plan: InferencePlan) -> ViewPlan:
        """One random clip of an item, cropped, flipped and coloured as a whole."""
        told = self.plan(plan)
        clip = Clip()
        if told.frames > 1:
            stride, spacing = told.stride or None, told.spacing or None
            clip = Clip(frames=told.frames, stride=stride, spacing=None if stride else spacing)
        window = (told.resize, round(plan.size * 171 / 112))
        crops = ContrastTransform(
            size=plan.size,
            resize=window if self.crop == "window" else None,
            scale=self.scale,
            flip=self.flip,
            jitter=self.jitter,
            strength=self.strength,
            gray=0,
            blur=0,
            mean=plan.mean,
            std=plan.std,
        )
        spec = ViewSpec(clip="a", transform=crops, consistent="clip")
        return ViewPlan(clips={"a": clip}, views={"crop": spec})


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
    frames: int | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Train a classifier on one random frame or clip of each item and epoch.

    Batch norm of an encoder that is trained takes its statistics over the whole batch, whatever
    groups it was pre-trained in.

    Args:
        encoder: an encoder of frames or clips, with ``feature_dim``; it stays as it is.
        plan: size, normalisation and clip that it wants.
        catalog: the labelled items.
        labels: ``int64 [n]`` class of each, from 0.
        classes: number of classes.
        tuning: how.
        seed: of order, crops and the classifier's first weights.
        workers: decoding processes.
        device: where to train.
        cache: decoded frames to use instead of the files; for clips it must hold every frame.
        frames: draw from so many equally spaced frames of an item, as a cache of so many does;
            None draws from all.
        progress: called with (done, total) items, smaller batches counted as whole ones.

    Returns:
        The classifier in evaluation mode, on the device.

    Raises:
        DataError: fewer than two classes among the items that can be read, or none of them can.
        Diverged: a loss, a weight or a statistic is not finite; seen at the end of an epoch.
    """
    keep_freed()
    check_classes(labels, len(catalog), stage="fine-tune")
    device = torch.device(device)
    kept = usable_rows(plan, catalog, tuning, cache=cache, frames=frames)
    batch_size = min(tuning.batch_size, max(1, len(kept)))
    source = CatalogSource(
        catalog,
        tuning.views(plan),
        batch_size=batch_size,
        drop_last=len(kept) % batch_size == 1,  # batch norm cannot read a single row
        seed=seed,
        workers=workers,
        cache=cache,
        frames=frames,
        placement=Placement("cpu" if device.type == "cpu" else "device", device),
    )
    check_classes(labels[kept], len(kept), stage="fine-tune")
    ids = np.asarray(catalog.numbers("id")).view(np.int64)
    codes = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    model = Classifier(
        encoder, classes, seed, unit=tuning.unit, norm=tuning.norm, aggregate=tuning.aggregate
    )
    model = _prepared(model.to(device), tuning.frozen)
    trained = [p for p in model.parameters() if p.requires_grad]
    peak = tuning.lr * batch_size / tuning.lr_batch
    optimizer = torch.optim.SGD(
        trained, lr=peak, momentum=0.9, nesterov=tuning.nesterov, weight_decay=tuning.weight_decay
    )
    plateau = None
    if tuning.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=tuning.patience)
    per_epoch = source.batches_per_epoch
    steps = tuning.steps or tuning.epochs * per_epoch
    batches = source.batches()
    losses: list[Tensor] = []
    try:
        for step in range(steps):
            batch = next(batches)
            target = torch.tensor([codes[i] for i in batch.ids.tolist()], device=device)
            if plateau is None:
                rate = learning_rate(tuning.rates, peak, step, steps, per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
            loss = functional.cross_entropy(
                model.logits(batch.to(device).views["crop"].data), target
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if len(losses) == per_epoch:
                mean = float(torch.stack(losses).mean())
                if not math.isfinite(mean):
                    raise _diverged(tuning)
                if plateau is not None:
                    plateau.step(mean)
                losses.clear()
            if progress is not None:
                progress((step + 1) * batch_size, steps * batch_size)
    finally:
        source.close()
    if not all(bool(v.isfinite().all()) for v in model.state_dict().values()):
        raise _diverged(tuning)
    return model.eval()


def usable_rows(
    plan: InferencePlan,
    catalog: Catalog,
    tuning: Tuning,
    *,
    cache: FrameCache | None = None,
    frames: int | None = None,
) -> Integer:
    """Rows of the items that :func:`fine_tune` trains on; arguments as there.

    Returns:
        ``int64 [m]``, ascending; without items that a cache could not decode, for instance.
    """
    left_out = unusable(catalog, tuning.views(plan), cache, frames=frames)
    return np.setdiff1d(np.arange(len(catalog)), [*left_out]).astype(np.int64)


def _diverged(tuning: Tuning) -> Diverged:
    return Diverged(f"the training diverged at lr {tuning.lr:g}", stage="fine-tune")


def _prepared(model: Classifier, frozen: bool) -> Classifier:
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
    model: Classifier,
    plan: InferencePlan,
    catalog: Catalog,
    *,
    frames_per_item: int = 4,
    sampling: ClipSampling | None = None,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Integer, Integer]:
    """The class of each item: what the classifier says of its clips, uncropped, is averaged.

    Args:
        model: the classifier.
        plan: size, normalisation and clip.
        catalog: the items.
        frames_per_item: equally spaced frames, or clips, of an item.
        sampling: clips by a rule of a published protocol instead.
        workers: decoding processes.
        device: where to run.

    Returns:
        Rows of the catalog that could be read and the class of each, both ``int64 [m]``.

    Raises:
        DataError: no item can be read.
        Diverged: what the classifier says is not finite, which large weights come to as well.
    """
    try:
        table = extract_features(
            model,
            plan,
            catalog,
            frames_per_item=frames_per_item,
            sampling=sampling,
            workers=workers,
            device=device,
        )
    except NotFinite as error:
        raise Diverged("what the classifier says is not finite", stage="fine-tune") from error
    if len(table.index) == 0:
        raise DataError("no item could be read", stage="fine-tune")
    return np.asarray(table.index, np.int64), np.asarray(table.mean().argmax(axis=1), np.int64)
