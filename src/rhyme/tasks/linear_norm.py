"""Batch norm and a linear layer on stored features, trained by SGD (CoCLR's second form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rhyme.errors import ConfigError, DataError, Diverged
from rhyme.tasks.neighbours import check_classes
from rhyme.tasks.table import Integer
from rhyme.training.config import ScheduleConfig
from rhyme.training.schedules import learning_rate

__all__ = ["NormProbe", "norm_probe"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NormProbe:
    """What the probe found.

    Attributes:
        predictions: ``int64 [t]`` class codes of the test rows.
        lr: the chosen learning rate.
        weight_decay: the chosen weight decay.
        validation: accuracy on the validation rows by (lr, weight decay); empty without a choice.
        diverged: settings whose weights are not finite, which have no accuracy.
    """

    predictions: Integer
    lr: float
    weight_decay: float
    validation: dict[tuple[float, float], float]
    diverged: tuple[tuple[float, float], ...] = ()


def norm_probe(
    train: NDArray[np.floating],
    train_labels: Integer,
    val: NDArray[np.floating],
    val_labels: Integer,
    test: NDArray[np.floating],
    *,
    classes: int,
    lr: Sequence[float] = (1.0,),
    weight_decay: Sequence[float] = (1e-3,),
    epochs: int = 100,
    batch_size: int = 1024,
    milestones: tuple[int, ...] = (60, 80),
    seed: int = 0,
) -> NormProbe:
    """Train with every setting, choose on the validation rows, predict the test rows once.

    Every setting gets the same epochs, order and first weights, N(0, 0.01) with zero offsets, and
    the weights after its last epoch count.

    Args:
        train: ``[n, d]`` features, one row an item.
        train_labels: ``int64 [n]`` codes from 0.
        val: ``[v, d]``.
        val_labels: ``int64 [v]``.
        test: ``[t, d]``.
        classes: number of classes.
        lr: learning rates to choose from, as they are, whatever the batch.
        weight_decay: L2 terms to choose from.
        epochs: passes over the training rows.
        batch_size: rows of a batch; all where there are fewer. A last, smaller batch is left out.
        milestones: epochs at which the rate falls to a tenth.
        seed: of order and first weights.

    Returns:
        Predictions and the choice; among equals the first setting is taken, and one that diverges
        never.

    Raises:
        DataError: fewer than two classes, or nothing to choose on.
        Diverged: the training diverged with every setting.
        ConfigError: a number out of range.
    """
    check_classes(train_labels, len(train), stage="linear_stored")
    if not lr or not weight_decay or min(lr) <= 0 or min(weight_decay) < 0:
        raise ConfigError("rates must be positive", value=(tuple(lr), tuple(weight_decay)))
    if epochs < 1 or batch_size < 2:
        raise ConfigError("epochs from 1 and batches from 2", value=(epochs, batch_size))
    choices = [(a, b) for a in lr for b in weight_decay]
    if len(choices) > 1 and len(val) == 0:
        raise DataError(
            "settings can only be chosen on validation items, and there is none",
            stage="linear_stored",
            remedy="give one value of lr and weight_decay, or a split with validation items",
        )
    x, y = torch.from_numpy(np.asarray(train, np.float32)), torch.from_numpy(train_labels)
    rates = ScheduleConfig(
        name="step" if milestones else "constant", milestones=milestones, per="epoch"
    )
    best, chosen, kept = -1.0, choices[0], None
    scores: dict[tuple[float, float], float] = {}
    diverged: list[tuple[float, float]] = []
    for choice in choices:
        model = _trained(x, y, classes, choice, epochs, batch_size, rates, seed)
        if not all(bool(v.isfinite().all()) for v in model.state_dict().values()):
            diverged.append(choice)
            continue
        score = 0.0
        if len(choices) > 1:
            score = scores[choice] = float((_predict(model, val) == val_labels).mean())
        if score > best:
            best, chosen, kept = score, choice, model
    if kept is None:
        raise Diverged(f"the training diverged at lr {list(lr)}", stage="linear_stored")
    return NormProbe(
        predictions=_predict(kept, test),
        lr=chosen[0],
        weight_decay=chosen[1],
        validation=scores,
        diverged=tuple(diverged),
    )


def _trained(
    x: Tensor,
    y: Tensor,
    classes: int,
    choice: tuple[float, float],
    epochs: int,
    batch_size: int,
    rates: ScheduleConfig,
    seed: int,
) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn anew below
        layer = nn.Linear(x.shape[1], classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    model = nn.Sequential(nn.BatchNorm1d(x.shape[1]), layer)
    rate, decay = choice
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    size = min(batch_size, len(x))
    per_epoch = len(x) // size
    order = torch.empty(0, dtype=torch.int64)
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(x), generator=generator)
        rows = order[step % per_epoch * size :][:size]
        optimizer.param_groups[0]["lr"] = learning_rate(
            rates, rate, step, epochs * per_epoch, per_epoch
        )
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def _predict(model: nn.Module, rows: NDArray[np.floating]) -> Integer:
    return model(torch.from_numpy(np.asarray(rows, np.float32))).argmax(dim=1).numpy()
