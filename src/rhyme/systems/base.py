"""The contract of a system: what the one training loop asks, and what it gives.

A system is an ``nn.Module`` that joins views, encoders, memory and objectives. It holds no loop, no
input or output, no device and no rank number. The loop calls, in this order::

    setup(context)                      once, before the first step
      begin_epoch(context)              at the start of each epoch
        training_step(batch, context)   for each repeat of each phase, a fresh batch each time
        after_step(applied)             when the optimiser has (or has not) stepped
    finish(context)                     once, after the last step

A step is ``loss(embed(batch, context), batch, context)``. A system that is written in these two
halves can accumulate gradients (``train.accumulate``): its rows are embedded in parts, and its loss
sees all of them. One that does not divide overrides ``training_step`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rhyme.config import check_choices
from rhyme.encoders.features import InferencePlan
from rhyme.loading.batch import Batch
from rhyme.views.keys import Keys, step_generator

ExportKind = Literal["encoder", "segmenter", "classifier", "generator", "policy", "codec", "graph"]
StateRole = Literal["replicated", "sharded", "per_rank"]
Embeddings = dict[str, Tensor]
"""What :meth:`System.embed` gives: ``[b, ...]`` by name."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a step with its own optimiser step.

    Attributes:
        name: name of the phase, ``context.phase`` during it.
        groups: names of the parameter groups it trains; empty for all. The others are frozen.
        repeats: optimiser steps of this phase in a step of the loop, each with a fresh batch.
    """

    name: str = "main"
    groups: tuple[str, ...] = ()
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that are trained alike.

    Attributes:
        name: name that phases refer to.
        parameters: (name, parameter) pairs, the names being those of the system's state.
        lr_scale: factor on the learning rate.
        weight_decay: overrides the recipe's weight decay.
        schedule: overrides the recipe's schedule, e.g. ``"constant"``.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    schedule: str | None = None


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a training step returns.

    Attributes:
        loss: scalar with gradient, equal on all ranks.
        parts: detached scalars that make up the loss, for the log.
        diagnostics: detached scalars that explain it (cosines, entropies, masked rows). The log
            has their mean over the ranks; take means of rows that may be invalid, or count, over
            all ranks (``distributed.mean``, ``distributed.sum_all``).
        embeddings: detached ``[b, d]`` embeddings by name, for the collapse monitors.
        record: anything the source should ``observe`` (actions, rewards).
    """

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    record: Any = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """A trained part that leaves the run.

    Attributes:
        kind: what it is; an ``encoder`` returns ``Features``.
        module: the module, with all that it needs.
        plan: how it wants its input; None where that is no picture.
        backbone: name and options that build the module anew, for the package.
    """

    kind: ExportKind
    module: nn.Module
    plan: InferencePlan | None = None
    backbone: Any = None


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """Where in the run a step stands, and its randomness.

    Attributes:
        step: steps of the loop done before this one.
        steps: steps of the whole run.
        epoch: passes over the data done before this one.
        phase: name of the current phase.
        repeat: number of this phase's optimiser step within the step.
        seed: run seed.
        parts: parts in which encoders take this rank's rows, where the step is accumulated.
    """

    step: int
    steps: int
    epoch: int = 0
    phase: str = "main"
    repeat: int = 0
    seed: int = 0
    parts: int = 1

    @property
    def progress(self) -> float:
        """Share of the run done, in [0, 1)."""
        return self.step / max(self.steps, 1)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator for this step, phase and name; equal on all ranks."""
        return step_generator(self.seed, self.step, f"{self.phase}/{self.repeat}/{name}")

    def per_sample(self, name: str, ids: Tensor) -> Keys:
        """Keys whose draws belong to this step and to each item, whichever rank holds it."""
        keys = Keys.of(self.seed, self.step, ids.cpu().numpy())
        return keys.within(f"step/{self.phase}/{self.repeat}/{name}")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a system may know and ask outside the step.

    Attributes:
        items: items of the training set.
        groups: groups among them.
        batch_size: items of a global batch.
        steps: steps of the run.
        epoch: current epoch.
        seed: run seed.
        features: ``(plan, module) -> [items, d]`` features of the training set in item order.
        load: reads an encoder package and returns its module.
        set_sampler_weights: weights ``[items]`` for the sampling of the next epochs.
        reset_optimiser: forgets the optimiser's state of the named parameter groups.
    """

    items: int
    groups: int
    batch_size: int
    steps: int
    epoch: int = 0
    seed: int = 0
    features: Callable[[InferencePlan, nn.Module], Tensor] | None = None
    load: Callable[[str], nn.Module] | None = None
    set_sampler_weights: Callable[[Tensor], None] | None = None
    reset_optimiser: Callable[[Iterable[str]], None] | None = None


class System(nn.Module):
    """Base of all systems.

    Subclasses give ``Config``, ``plans``, ``exports``, and ``embed`` with ``loss``, or
    ``training_step`` where a step does not divide.

    ``state_dict`` must hold everything that later steps depend on (queues and momentum copies are
    modules with buffers). State is *replicated* unless ``state_roles`` says otherwise.

    Attributes:
        mask_same_group: whether an item's own group is left out of its negatives, which ``setup``
            may decide and a run tells; None where there are no negatives.
    """

    Config: ClassVar[type[Any]]
    single_rank: ClassVar[bool] = False
    mask_same_group: bool | None = None

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        if config is not None and type(config) is getattr(type(self), "Config", None):
            check_choices(config)  # one that was built in Python has not been checked yet
        self.config: Any = config

    def plans(self) -> dict[str, Any]:
        """View plans by name; ``"train"`` feeds the training steps."""
        return {}

    def setup(self, context: RunContext) -> None:
        """Adapt to the data before the first step (masks, sizes)."""

    def begin_epoch(self, context: RunContext) -> None:
        """Prepare an epoch (cluster assignments, sampler weights)."""

    def finish(self, context: RunContext) -> None:
        """Close the training, before the export."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases of a step, in order."""
        return (Phase(),)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """What the loss needs of the trained encoders: one row an item, with gradient.

        Row *i* may depend on item *i* alone (and on its batch-norm group): the batch may be a part
        of this rank's rows, and every part is embedded twice. Draws are ``context.per_sample``'s or
        dropout's, and nothing is remembered here but batch-norm statistics.

        Args:
            batch: this rank's rows of the global batch, or a part of them.
            context: position in the run and randomness.

        Returns:
            ``[b, ...]`` by name.
        """
        raise TypeError(f"{type(self).__name__} defines no embed")

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """The loss of all of this rank's rows, from what :meth:`embed` made of them.

        Keys and other targets without gradient are made here.

        Args:
            embeddings: ``[b, ...]`` by name.
            batch: this rank's rows of the global batch.
            context: position in the run and randomness.
        """
        raise TypeError(f"{type(self).__name__} defines no loss")

    def training_step(self, batch: Batch, context: StepContext) -> StepOutput:
        """The loss of a batch.

        Args:
            batch: this rank's rows of the global batch, on the system's device.
            context: position in the run and randomness.
        """
        return self.loss(self.embed(batch, context), batch, context)

    @property
    def divides(self) -> bool:
        """Whether a step is ``loss`` of ``embed``, so that its rows can be embedded in parts."""
        kind = type(self)
        return kind.training_step is System.training_step and kind.embed is not System.embed

    def after_step(self, applied: bool) -> None:
        """Update the memory; ``applied`` is False when the step was skipped as not finite."""

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """All trainable parameters in one group called ``"all"`` by default."""
        named = tuple((name, p) for name, p in self.named_parameters() if p.requires_grad)
        return (ParameterGroup(name="all", parameters=named),)

    def exports(self) -> dict[str, Export]:
        """Trained parts by name."""
        return {}

    @property
    def cycle_head(self) -> str | None:
        """Name of the head in which the system's cycles run, for the cycle protocol."""
        return None

    def state_roles(self) -> dict[str, StateRole]:
        """Roles of state items by prefix of their name; what is not named is replicated."""
        return {}
