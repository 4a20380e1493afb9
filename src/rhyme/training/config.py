"""Options of the training loop: how long, with which optimiser and schedule, and what to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rhyme.errors import ConfigError

OptimizerName = Literal["sgd", "adamw", "lars"]
ScheduleName = Literal["cosine", "step", "constant"]
ParallelName = Literal["auto", "ddp", "fsdp"]


def _check(good: bool, cause: str, value: Any, remedy: str) -> None:
    """Raise :class:`ConfigError` unless ``good``."""
    if not good:
        raise ConfigError(cause, stage="train config", value=value, remedy=remedy)


def _number(value: Any) -> bool:
    """Whether a value is a finite number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser trains the parameters.

    Attributes:
        name: ``"sgd"``, ``"adamw"`` or ``"lars"`` (arXiv 1708.03888, in SimCLR's form).
        lr: base learning rate, the peak of the schedule.
        lr_scaling: how the peak follows the batch size B: ``"none"`` takes ``lr`` as it is,
            ``"linear"`` is lr·B/256, ``"sqrt"`` lr·√B (SimCLR: 0.3 and 0.075).
        momentum: μ of SGD and LARS, in [0, 1).
        nesterov: Nesterov's form of the momentum, SGD only.
        weight_decay: L2 term of SGD and LARS, decoupled decay of AdamW.
        betas: decay rates of AdamW's two moments.
        eps: AdamW's ε.
        eta: η of LARS' trust ratio.
        decay_norm_and_bias: whether parameters of fewer than two dimensions (biases, normalisation)
            are treated like the others. None is True for SGD (as in MoCo's recipe) and False for
            AdamW and LARS; under LARS decay and trust ratio go together.
        plain_groups: parameter groups that take neither decay nor trust ratio, such as a classifier
            that is trained beside the encoder.
    """

    name: OptimizerName = "sgd"
    lr: float = 0.03
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eta: float = 1e-3
    decay_norm_and_bias: bool | None = None
    plain_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = ("sgd", "adamw", "lars")
        _check(self.name in known, "unknown optimizer", self.name, f"choose one of {known}")
        _check(_number(self.lr) and self.lr > 0, "lr must be positive", self.lr, "try 0.03")
        known = ("none", "linear", "sqrt")
        _check(
            self.lr_scaling in known,
            "unknown lr_scaling",
            self.lr_scaling,
            f"choose one of {known}",
        )
        _check(
            _number(self.momentum) and 0 <= self.momentum < 1,
            "momentum must lie in [0, 1)",
            self.momentum,
            "try 0.9",
        )
        _check(
            not self.nesterov or (self.name == "sgd" and self.momentum > 0),
            "nesterov needs SGD with momentum",
            self.name,
            "set nesterov to false",
        )
        _check(
            _number(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay must not be negative",
            self.weight_decay,
            "try 1e-4",
        )
        _check(
            len(self.betas) == 2 and all(_number(b) and 0 <= b < 1 for b in self.betas),
            "both betas must lie in [0, 1)",
            self.betas,
            "try 0.9 and 0.999",
        )
        _check(_number(self.eps) and self.eps > 0, "eps must be positive", self.eps, "try 1e-8")
        _check(_number(self.eta) and self.eta > 0, "eta must be positive", self.eta, "try 0.001")

    @property
    def decays_all(self) -> bool:
        """:attr:`decay_norm_and_bias` with None resolved."""
        return self.name == "sgd" if self.decay_norm_and_bias is None else self.decay_norm_and_bias


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves over the run.

    Attributes:
        name: ``"cosine"``, ``"step"`` or ``"constant"``.
        warmup_steps: steps of linear warm-up; give this or one of the next two.
        warmup_epochs: the same in epochs.
        warmup_share: the same as a share of the whole run, below 1.
        warmup_lr: learning rate at which the warm-up starts.
        milestones: for ``"step"``: where the rate is multiplied by ``gamma``, in units of ``per``.
        gamma: that factor.
        per: ``"step"`` moves the rate at every step, ``"epoch"`` only at the start of an epoch.
        final_lr: where the cosine ends.
    """

    name: ScheduleName = "cosine"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    warmup_share: float = 0.0
    warmup_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    per: Literal["step", "epoch"] = "step"
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        known = ("cosine", "step", "constant")
        _check(self.name in known, "unknown schedule", self.name, f"choose one of {known}")
        _check(
            self.per in ("step", "epoch"),
            "unknown schedule unit",
            self.per,
            "choose per=step or per=epoch",
        )
        _check(
            _whole(self.warmup_steps, 0),
            "warmup_steps must be a whole number from 0",
            self.warmup_steps,
            "try 0",
        )
        _check(
            _number(self.warmup_epochs) and self.warmup_epochs >= 0,
            "warmup_epochs must not be negative",
            self.warmup_epochs,
            "try 10",
        )
        _check(
            _number(self.warmup_share) and 0 <= self.warmup_share < 1,
            "warmup_share must lie in [0, 1)",
            self.warmup_share,
            "try 0.1",
        )
        given = (self.warmup_steps, self.warmup_epochs, self.warmup_share)
        _check(
            sum(value > 0 for value in given) <= 1,
            "the warm-up is given twice",
            given,
            "give one of warmup_steps, warmup_epochs and warmup_share",
        )
        ordered = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        _check(
            ordered and all(_whole(m, 1) for m in self.milestones),
            "milestones must be positive and rise",
            self.milestones,
            "e.g. 120 160",
        )
        _check(
            (self.name == "step") == bool(self.milestones),
            "milestones belong to the step schedule",
            self.milestones,
            "give name=step and milestones together",
        )
        for name in ("warmup_lr", "final_lr", "gamma"):
            value = getattr(self, name)
            _check(
                _number(value) and value >= 0, f"{name} must not be negative", value, "try 0 or 0.1"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of a training run.

    Attributes:
        steps: steps of the loop.
        epochs: passes over the data. Where both are given, the earlier end counts.
        batch_size: items of a global batch.
        optimizer: see :class:`OptimizerConfig`.
        schedule: see :class:`ScheduleConfig`.
        accumulate: parts in which a step embeds this rank's rows, to need less memory; the step
            stays the same. Systems that cannot be divided refuse more than 1.
        clip_norm: largest L2 norm of a phase's gradient; None for no clipping.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``: what operands of convolutions and matrix
            products are lowered to in a step; everything that is kept stays in float32.
        compile: ``torch.compile`` of the backbones in a step: ``"off"``, ``"on"``, or ``"auto"``,
            which measures in the run's first steps whether it pays.
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        channels_last: keep 4-D and 5-D weights channels-last, which is faster for convolutions on
            most machines; it changes the order of sums, and so the last bits.
        deterministic: ask torch for deterministic operations, and warn where it has none.
        parallel: how several ranks share a step: ``"ddp"`` keeps everything on every rank,
            ``"fsdp"`` a slice of each parameter, for encoders that do not fit; ``"auto"`` is
            ``"ddp"``.
        seed: run seed.
        workers: processes that make batches.
        log_every: steps between rows of ``metrics.jsonl``.
        loggers: programs that get the same rows: ``"tensorboard"``, ``"wandb"``, ``"trackio"``.
        checkpoint_every: steps between checkpoints; None saves only at the end or on a signal.
        keep: newest checkpoints that are kept.
        keep_every: of every so many steps the checkpoint is kept for good, and made if
            ``checkpoint_every`` does not make it.
        async_save: write checkpoints in the background. What is saved is the state at the call; it
            takes the memory of one copy of the state on the host.
        save_errors: when the disk refuses a checkpoint, a package, a row of metrics or an event on
            the way, ``"stop"`` the run, or ``"warn"`` and go on; the last checkpoint always has to
            succeed.
        export_every: steps between exports of the encoder; None exports only at the end.
        nan: on a loss or gradient that is not finite, ``"stop"``, ``"skip"`` the step, or skip it
            and after ``nan_limit`` of them ``"rollback"`` to a checkpoint and read on behind them.
        nan_limit: skipped steps in a row after which ``"skip"`` stops and ``"rollback"`` goes back.
        rollbacks: most times that a run goes back; then it stops.
        probe_every: steps between probes; None probes only after the last step.
        collapse: the alarm's limit for ``std · √d`` of the embeddings, about 1 when healthy, for
            what their effective rank exceeds 1 by, and, three times, for the median sine between
            them, where a few rows keep the spread up.
        collapse_logs: looks in a row below that limit that raise the alarm. Every log row is a
            look; rows further apart are supplemented, so that it takes at most 200 steps.
        collapse_stop: save and stop when the alarm rings.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: Literal["off", "on", "auto"] = "off"
    device: str = "auto"
    channels_last: bool = False
    deterministic: bool = False
    parallel: ParallelName = "auto"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    loggers: tuple[str, ...] = ()
    checkpoint_every: int | None = 500
    keep: int = 2
    keep_every: int | None = None
    async_save: bool = True
    save_errors: Literal["stop", "warn"] = "stop"
    export_every: int | None = None
    nan: Literal["stop", "skip", "rollback"] = "stop"
    nan_limit: int = 3
    rollbacks: int = 2
    probe_every: int | None = None
    collapse: float = 0.1
    collapse_logs: int = 5
    collapse_stop: bool = False

    def __post_init__(self) -> None:
        _check(
            self.steps is not None or self.epochs is not None,
            "the length of the run is missing: give steps or epochs",
            None,
            "e.g. --train.steps 1000",
        )
        _check(
            self.steps is None or _whole(self.steps, 1),
            "steps must be a whole number from 1",
            self.steps,
            "e.g. 1000",
        )
        _check(
            self.epochs is None or (_number(self.epochs) and self.epochs > 0),
            "epochs must be positive",
            self.epochs,
            "e.g. 10",
        )
        for name in (
            "batch_size",
            "accumulate",
            "log_every",
            "keep",
            "nan_limit",
            "rollbacks",
            "collapse_logs",
        ):
            value = getattr(self, name)
            _check(_whole(value, 1), f"{name} must be a whole number from 1", value, "e.g. 1")
        for name in ("checkpoint_every", "keep_every", "export_every", "probe_every"):
            value = getattr(self, name)
            _check(
                value is None or _whole(value, 1),
                f"{name} must be a whole number from 1, or null",
                value,
                "e.g. 100",
            )
        _check(_whole(self.workers, 0), "workers must not be negative", self.workers, "e.g. 0")
        _check(_whole(self.seed, 0), "seed must be a whole number from 0", self.seed, "e.g. 0")
        _check(
            self.clip_norm is None or (_number(self.clip_norm) and self.clip_norm > 0),
            "clip_norm must be positive, or null",
            self.clip_norm,
            "e.g. 1.0",
        )
        _check(
            _number(self.collapse) and self.collapse >= 0,
            "collapse must not be negative",
            self.collapse,
            "0 turns the alarm off",
        )
        for name, known in (
            ("nan", ("stop", "skip", "rollback")),
            ("precision", ("fp32", "bf16", "fp16")),
            ("compile", ("off", "on", "auto")),
        ):
            value = getattr(self, name)
            _check(value in known, f"unknown {name}", value, f"choose one of {known}")
        _check(
            self.nan != "rollback" or self.checkpoint_every is not None,
            "nan=rollback needs checkpoints to go back to",
            self.checkpoint_every,
            "give checkpoint_every",
        )
        known = ("auto", "ddp", "fsdp")
        _check(self.parallel in known, "unknown parallel", self.parallel, f"choose one of {known}")
        _check(
            self.save_errors in ("stop", "warn"),
            "unknown policy for save_errors",
            self.save_errors,
            "choose stop or warn",
        )
        kind, _, number = self.device.partition(":")
        _check(
            kind in ("auto", "cpu", "cuda")
            and (not number or (kind == "cuda" and number.isdigit())),
            "unknown device",
            self.device,
            "choose auto, cpu, cuda or cuda:0",
        )

    @property
    def peak_lr(self) -> float:
        """The peak of the learning rate, which may follow the batch size."""
        lr, batch = self.optimizer.lr, self.batch_size
        scale = {"none": 1.0, "linear": batch / 256, "sqrt": math.sqrt(batch)}
        return lr * scale[self.optimizer.lr_scaling]

    @property
    def look_every(self) -> int:
        """Steps between two looks for a collapse."""
        return min(self.log_every, max(200 // self.collapse_logs, 1))

    @property
    def operational(self) -> tuple[str, ...]:
        """Options that may change between two parts of a run: they do not touch its numbers."""
        # What a run goes back to is a matter of its checkpoints.
        checkpoints = () if self.nan == "rollback" else ("checkpoint_every",)
        return (
            *checkpoints,
            "device",
            "parallel",
            "workers",
            "log_every",
            "loggers",
            "keep",
            "keep_every",
            "async_save",
            "save_errors",
            "export_every",
            "probe_every",
            "collapse",
            "collapse_logs",
            "collapse_stop",
        )
