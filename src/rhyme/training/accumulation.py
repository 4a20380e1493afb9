"""Gradient accumulation that is exact: cached gradients (GradCache, arXiv 2101.06983).

Adding up the gradients of micro-batches is wrong for any loss that compares rows of a batch, and
for a masked mean, whose denominator is the whole batch's. Cached gradients are right for all:

1. embed the parts of the batch one after another, without graph;
2. take the loss of all embeddings, and its gradient *at the embeddings*;
3. embed each part again, with graph, and push its rows of that gradient through.

By the chain rule this is the gradient of the whole step; parameters that the loss uses itself get
theirs in 2. The graph of one part is held at a time. The price is one more forward pass.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from rhyme import distributed
from rhyme.encoders import GroupBatchNorm, in_parts
from rhyme.errors import ConfigError, TrainingError
from rhyme.loading.batch import Batch
from rhyme.systems.base import Embeddings, StepContext, StepOutput, System
from rhyme.training.parallel import Parallel
from rhyme.training.precision import Precision
from rhyme.views.keys import fork_seed


def check_divides(system: System, parts: int, batch_size: int, ranks: int) -> None:
    """Refuse what cannot be accumulated exactly.

    Args:
        system: the system.
        parts: parts of each rank's rows.
        batch_size: items of a global batch.
        ranks: how many share it.

    Raises:
        ConfigError: the system has no two halves, or rows or batch-norm groups do not divide.
    """
    if parts == 1:
        return
    if not system.divides:
        raise ConfigError(
            f"{type(system).__name__} cannot accumulate: its step is not made of embed and loss",
            stage="train",
            value={"accumulate": parts},
            remedy="set train.accumulate to 1, or write its step as embed and loss",
        )
    pieces = parts * ranks
    if batch_size % pieces:
        raise ConfigError(
            f"a batch of {batch_size} does not divide into {pieces} parts",
            stage="train",
            value={"accumulate": parts, "ranks": ranks},
            remedy=f"set train.batch_size to a multiple of {pieces}",
        )
    norms = [m for m in system.modules() if isinstance(m, GroupBatchNorm)]
    unfit = sorted({m.norm_groups for m in norms if m.norm_groups % pieces})
    if unfit:
        raise ConfigError(
            f"{pieces} parts of a batch would divide its batch-norm groups, whose rows "
            "depend on each other",
            stage="train",
            value={"norm_groups": unfit[0], "accumulate": parts, "ranks": ranks},
            remedy=f"set norm_groups to a multiple of {pieces}, or do not accumulate",
        )


def seed_dropout(at: StepContext, *part: int) -> None:
    """Seed torch's generators, which dropout draws from, for a step or for a part of it.

    Ranks draw apart from each other: what is drawn belongs to the rows that a rank holds.
    """
    place = ("rank", distributed.rank()) if distributed.rank() else ()
    torch.manual_seed(fork_seed(at.seed, "dropout", at.step, at.phase, at.repeat, *part, *place))


def cached_gradients(
    parallel: Parallel, batch: Batch, at: StepContext, precision: Precision
) -> StepOutput:
    """The step of :meth:`System.training_step` and its gradient, in ``at.parts`` parts.

    Args:
        parallel: calls a system that divides.
        batch: this rank's rows.
        at: position in the run, with the number of parts.
        precision: of the passes.

    Returns:
        The output of ``system.loss``; gradients are added to the parameters.
    """
    system = parallel.system
    rows, left = divmod(len(batch), at.parts)
    if left:
        raise ConfigError(
            f"{len(batch)} rows do not divide into {at.parts} parts", stage="train, accumulate"
        )
    pieces = [batch[i * rows : (i + 1) * rows] for i in range(at.parts)]

    def embed(i: int) -> Embeddings:
        seed_dropout(at, i)  # the same draws in both passes
        with precision.autocast():
            found = parallel.embed(pieces[i], replace(at, parts=1))
        for name, value in found.items():
            if len(value) != rows:
                raise TrainingError(
                    f"embed must give one row an item: '{name}' has {len(value)} for {rows} items",
                    stage="train",
                    value=type(system).__name__,
                )
        return found

    with torch.no_grad():
        parts = in_parts(system, at.parts, embed)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    del parts
    for value in whole.values():
        value.requires_grad_(value.is_floating_point())
    seed_dropout(at)
    with precision.autocast():
        output = parallel.loss(whole, batch, at)
    precision.backward(output.loss)

    def again(i: int) -> None:
        made = embed(i)
        cached = {
            n: v.grad[i * rows : (i + 1) * rows] for n, v in whole.items() if v.grad is not None
        }
        names = [n for n in cached if made[n].requires_grad]
        torch.autograd.backward([made[n] for n in names], [cached[n] for n in names])

    in_parts(system, at.parts, again, remember=False)
    return output
