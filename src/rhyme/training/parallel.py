"""How several ranks share a training step: PyTorch's DDP, or its FSDP2 for large encoders.

Both wrap one thin module whose forward pass is the system's ``training_step``, and both leave in
``parameter.grad`` the gradient of the global batch's loss, so that the stepper is the same for one
rank and for many:

* **DDP** keeps everything on every rank and averages the gradients while the backward pass still
  runs. It is told that parameters may go unused, so heads without a term, frozen groups of a phase
  and parts that only some ranks use need no care. Buffers are left alone: queues and batch-norm
  statistics are equal on all ranks by construction.
* **FSDP2** keeps a slice of every parameter, gradient, momentum copy and optimiser state on each
  rank, and gathers a part of the encoder when its turn comes. Buffers stay whole on every rank. All
  ranks must call the same parts of the system in the same order.

Their communication has a process group of its own, so that it cannot get between the collectives
that a system's loss calls in its own forward and backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.encoders import Backbone
from rhyme.errors import CheckpointError, TrainingError
from rhyme.loading.batch import Batch
from rhyme.systems.base import Embeddings, StateRole, StepContext, StepOutput, System
from rhyme.training.config import ParallelName

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
)


class Parallel:
    """One rank: the system is called as it is. Base of the engines for several.

    Args:
        system: the system on its device.
    """

    def __init__(self, system: System) -> None:
        self.system = system

    def training_step(self, batch: Batch, at: StepContext) -> StepOutput:
        """The system's output; the backward pass of its loss averages the gradients."""
        return self.system.training_step(batch, at)

    def embed(self, batch: Batch, at: StepContext) -> Embeddings:
        """The first half of a step in parts; :meth:`finish` averages the gradients of them all."""
        return self.system.embed(batch, at)

    def loss(self, embeddings: Embeddings, batch: Batch, at: StepContext) -> StepOutput:
        """The second half of a step in parts."""
        return self.system.loss(embeddings, batch, at)

    def finish(self, parameters: Iterable[Tensor]) -> None:
        """After the backward pass: average what the engine leaves to us."""

    @contextmanager
    def whole(self) -> Generator[System]:
        """Within it every parameter is a plain, whole tensor on every rank, as on one rank.

        For hooks, probes and exports, which know nothing of slices. What is changed within stays
        changed. Enter it on all ranks.
        """
        yield self.system


def role(name: str, roles: Mapping[str, StateRole]) -> StateRole:
    """Role of an item of a system's state: that of the longest prefix named, else replicated."""
    named = [prefix for prefix in roles if name.startswith(prefix)]
    return roles[max(named, key=len)] if named else "replicated"


def check_ranks(system: System) -> None:
    """Refuse a system that cannot run on this many ranks.

    Raises:
        TrainingError: it is made for one rank, or names state that each rank keeps for itself.
    """
    own = sorted(name for name, kind in system.state_roles().items() if kind == "per_rank")
    if distributed.world_size() > 1 and (system.single_rank or own):
        raise TrainingError(
            "the system keeps state of its own on each rank and runs on one rank only",
            stage="train",
            value={"system": type(system).__name__, "state": own},
            remedy="start it without torchrun",
        )


def build_parallel(system: System, name: ParallelName) -> Parallel:
    """The engine for a system on this many ranks.

    Call it before the optimisers are built: FSDP puts other parameters into the system's modules.

    Args:
        system: the system on its device, its weights drawn alike on all ranks.
        name: ``"auto"`` is DDP; one rank needs neither.

    Raises:
        TrainingError: the ranks hold different weights or other state that has to be equal.
    """
    if distributed.world_size() == 1:
        return Parallel(system)
    state = cast(Mapping[str, Any], system.state_dict())
    roles = system.state_roles()
    different = distributed.differing(
        {n: t for n, t in state.items() if isinstance(t, Tensor) and role(n, roles) != "sharded"}
    )
    if different:
        raise TrainingError(
            "the ranks start with different weights",
            stage="ranks",
            value=different[:8],
            remedy="draw them from the run seed, alike on every rank",
        )
    return Sharded(system) if name == "fsdp" else Replicated(system)


class _Step(nn.Module):
    """What a step calls as a forward pass, which is what PyTorch's engines wrap."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, part: Callable[[], Any]) -> Any:
        return part()


class _Wrapped(Parallel):
    """What both engines share: the call through the wrapped module."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self.step = _Step(system)
        self.engine: nn.Module = self.step

    def training_step(self, batch: Batch, at: StepContext) -> StepOutput:
        """The system's output, its loss being the engine's."""
        return self._through(lambda: self.system.training_step(batch, at))

    def _through(self, make: Callable[[], StepOutput]) -> StepOutput:
        made: list[StepOutput] = []

        def loss() -> Tensor:
            made.append(make())
            return made[0].loss

        # The engine's own tensor carries the hooks of the backward pass.
        hooked = cast(Tensor, self.engine(loss))
        return replace(made[0], loss=hooked)


class Replicated(_Wrapped):
    """DDP: everything on every rank, gradients averaged during the backward pass."""

    def __init__(self, system: System) -> None:
        super().__init__(system)
        self._apart = False
        # DDP would tell every user of a first step that uses all parameters; so one never is.
        device = next(iter(system.parameters())).device
        self.step.register_parameter("never", nn.Parameter(torch.zeros(1, device=device)))
        ddp = nn.parallel.DistributedDataParallel
        # torch 2.15 has a new name for the option.
        known = inspect.signature(ddp).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        self.engine = ddp(
            self.step,
            process_group=distributed.engine_group(),
            find_unused_parameters=True,
            init_sync=False,  # they were compared; state that is sharded must stay as it is
            **cast(Any, {option: False}),
        )

    def embed(self, batch: Batch, at: StepContext) -> Embeddings:
        """Past DDP, which would average after every part: once in the end is enough."""
        self._apart = True
        return super().embed(batch, at)

    def finish(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients of a step in parts."""
        if self._apart:
            distributed.average_gradients(parameters)
        self._apart = False


class Sharded(_Wrapped):
    """FSDP2: a slice of every parameter on each rank.

    The parts of each backbone are gathered one after another, everything else for the whole step.
    Parameters without dimension cannot be cut; they stay whole and are averaged after the backward
    pass.
    """

    def __init__(self, system: System) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(system)
        kind = next(iter(system.parameters())).device.type
        self.mesh = DeviceMesh.from_group(distributed.engine_group(), kind)
        self.uncut = {p for p in system.parameters() if p.ndim == 0}
        for parameter in system.parameters():  # FSDP takes no channels-last weights
            parameter.data = parameter.data.contiguous()
        self._classes: dict[nn.Module, type[nn.Module]] = {}
        self._hooks: dict[nn.Module, dict[str, set[int]]] = {}
        parts = [
            part
            for module in system.modules()
            if isinstance(module, Backbone)
            for part in module.children()
            if next(part.parameters(), None) is not None
        ]
        for module in (*parts, self.step):
            self._classes[module] = type(module)
            self._hooks[module] = {name: set(getattr(module, name)) for name in _HOOKS}
            fully_shard(module, mesh=self.mesh, ignored_params=self.uncut)

    def embed(self, batch: Batch, at: StepContext) -> Embeddings:
        """A part of the rows as a forward pass of the engine, which gathers what it needs."""
        return cast(Embeddings, self.engine(lambda: self.system.embed(batch, at)))

    def loss(self, embeddings: Embeddings, batch: Batch, at: StepContext) -> StepOutput:
        """The loss as a forward pass of the engine."""
        return self._through(lambda: self.system.loss(embeddings, batch, at))

    def finish(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients of parameters without dimension."""
        distributed.average_gradients([p for p in parameters if p in self.uncut])

    @contextmanager
    def whole(self) -> Generator[System]:
        """The system as it was before it was cut; see :meth:`Parallel.whole`."""
        places: list[tuple[nn.Module, str, nn.Parameter]] = []
        full: dict[nn.Parameter, nn.Parameter] = {}
        for module in self.step.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if is_slice(parameter):
                    places.append((module, name, parameter))
                    full[parameter] = nn.Parameter(whole(parameter), parameter.requires_grad)
        with self._without_hooks():
            for module, name, parameter in places:
                setattr(module, name, full[parameter])  # not register: an RNN notes what is set
            try:
                yield self.system
            finally:
                for module, name, parameter in places:
                    now = slice_like(getattr(module, name).detach(), parameter)
                    to_slice(parameter).copy_(to_slice(now))
                    setattr(module, name, parameter)

    @contextmanager
    def _without_hooks(self) -> Generator[None]:
        """FSDP's modules as plain modules of their own classes."""
        kept: list[tuple[nn.Module, type[nn.Module], dict[str, dict[int, Any]]]] = []
        for module, kind in self._classes.items():
            tables = {name: dict(getattr(module, name)) for name in _HOOKS}
            kept.append((module, type(module), tables))
            module.__class__ = kind
            for name, keys in self._hooks[module].items():
                table = cast(dict[int, Any], getattr(module, name))
                for key in set(table) - keys:
                    del table[key]
        try:
            yield
        finally:
            for module, kind, tables in kept:
                module.__class__ = kind
                for name, table in tables.items():
                    getattr(module, name).update(table)


# ---- slices: tensors of which each rank holds some rows


def is_slice(tensor: Tensor) -> bool:
    """Whether this rank holds only some rows of the tensor (a ``DTensor``)."""
    return hasattr(tensor, "full_tensor")


def to_slice(tensor: Tensor) -> Tensor:
    """This rank's rows, sharing memory; a plain tensor is all there is."""
    tensor = tensor.detach()
    return cast(Any, tensor).to_local() if is_slice(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows, on every rank; a plain tensor as it is. Enter it on all ranks."""
    tensor = tensor.detach()
    return cast(Any, tensor).full_tensor() if is_slice(tensor) else tensor


def slice_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as ``like`` is, without communication."""
    if not is_slice(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    cut = cast(Any, like)
    value = tensor.to(like.device)
    return distribute_tensor(value, cut.device_mesh, cut.placements, src_data_rank=None)


def as_slice(rows: Tensor, name: str) -> Tensor:
    """State that is sharded by item index as a slice; on one rank as it is.

    Args:
        rows: this rank's rows, cut by :func:`rhyme.distributed.item_slice`.
        name: of the state item.

    Raises:
        CheckpointError: the rows are cut in another way.
    """
    if distributed.world_size() == 1:
        return rows
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    lengths = distributed.exchange(len(rows))
    mine = distributed.item_slice(sum(lengths))
    if any(distributed.exchange(mine.stop - mine.start != len(rows))):
        raise CheckpointError(
            f"state '{name}' is sharded, but not in runs of the item index",
            stage="save checkpoint",
            value=lengths,
            remedy="cut it with distributed.item_slice",
        )
    mesh = DeviceMesh.from_group(distributed.engine_group(), rows.device.type)
    shape = torch.Size((sum(lengths), *rows.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(rows.contiguous(), mesh, [Shard(0)], shape=shape, stride=stride)


# ---- gradients


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of the gradient, over all ranks' rows of sliced parameters; alike on all ranks.

    Args:
        parameters: those without gradient count as zero.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    cut = [to_slice(g) for g in gradients if is_slice(g)]
    norm = nn.utils.get_total_norm([g for g in gradients if not is_slice(g)])
    if not cut:
        return norm
    square = distributed.sum_all(nn.utils.get_total_norm(cut).square())
    return (square + norm.to(square).square()).sqrt()


def clip_gradients(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients whose :func:`gradient_norm` exceeds ``limit`` down to it."""
    table = list(parameters)
    for cut in (False, True):
        nn.utils.clip_grads_with_norm_([p for p in table if is_slice(p) is cut], limit, norm)
