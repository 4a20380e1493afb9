"""Where a run computes: in this process, on ranks that are started here, or on a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from rhyme.errors import ConfigError
from rhyme.group import in_a_group, started_as_rank, tasks_of_step
from rhyme.recipes import Recipe
from rhyme.systems import System
from rhyme.training import resolve_device
from rhyme.training.accumulation import check_divides

Launcher = Literal["auto", "local", "torchrun", "slurm"]


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How the ranks of a run are started.

    Attributes:
        launch: ``local``: this machine starts them; ``torchrun``: it has started this process as
            one of them; ``slurm``: a job of a SLURM cluster. ``auto``: ``local`` where ``ranks`` is
            given, ``torchrun`` where it has set RANK and WORLD_SIZE, otherwise this process alone.
        ranks: processes that ``local`` starts, one GPU each; by default one a GPU.
        restarts: how often ``local`` starts all ranks again, from the last checkpoint, after one
            of them has died.
    """

    launch: Launcher = "auto"
    ranks: int | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        for name, least in (("ranks", 1), ("restarts", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"--{name} must be a whole number from {least}", value=value, stage="launch"
                )

    def resolved(self) -> Literal["alone", "local", "torchrun", "slurm"]:
        """The launcher with ``auto`` decided.

        Raises:
            ConfigError: torchrun was named and has not started this process, ``ranks`` was
                given to another launcher than ``local``, or srun has started several of this.
        """
        if self.ranks is not None and self.launch not in ("auto", "local"):
            raise ConfigError(
                f"--ranks belongs to --launch local, not to {self.launch}",
                value=self.ranks,
                stage="launch",
                remedy="torchrun takes --nproc-per-node; SLURM takes --slurm.nodes and "
                "--slurm.ranks",
            )
        if self.launch == "torchrun" and not started_as_rank():
            raise ConfigError(
                "--launch torchrun, but RANK and WORLD_SIZE are not set",
                stage="launch",
                remedy="start it as: torchrun --nproc-per-node 2 -m rhyme train ...; "
                "or let this machine start the ranks: --launch local --ranks 2",
            )
        if self.launch != "auto":
            where = self.launch
        elif self.ranks is not None:
            where = "local"
        else:
            where = "torchrun" if started_as_rank() else "alone"
        if where in ("local", "slurm") and in_a_group():
            raise ConfigError(
                f"--launch {where} within a process that torchrun has started",
                stage="launch",
                remedy="leave torchrun out, or --launch and --ranks",
            )
        tasks = tasks_of_step()
        if tasks > 1 and not started_as_rank():
            raise ConfigError(
                f"srun has started {tasks} of this command, and they do not know of each other",
                stage="launch",
                value={"SLURM_PROCID": os.environ["SLURM_PROCID"], "RANK": None},
                remedy=f"without srun: rhyme train ... --launch slurm --slurm.ranks {tasks}; or "
                "one torchrun a node: srun --ntasks-per-node 1 torchrun ...; where every task is "
                "to train a run of its own: env -u SLURM_PROCID rhyme train ...",
            )
        return where


def ranks_here(options: LaunchOptions, device: str) -> int:
    """The number of ranks that this machine is to start.

    Raises:
        ConfigError: not said and there is no GPU, or more than there are GPUs.
    """
    kind = resolve_device(device).type
    if kind == "cpu":
        if options.ranks is None:
            raise ConfigError(
                "how many ranks? There is no GPU to count",
                stage="launch",
                remedy="e.g. --launch local --ranks 2",
            )
        return options.ranks
    there = torch.cuda.device_count()
    ranks = options.ranks or there
    if ranks > there or (":" in device and ranks > 1):
        raise ConfigError(
            f"{ranks} ranks need a GPU each",
            stage="launch",
            value={"device": device, "gpus": there},
            remedy=f"--ranks {there}, or --device cpu",
        )
    return ranks


def check_shared(device: str) -> None:
    """Refuse one GPU for several ranks.

    Raises:
        ConfigError: the device is a certain GPU, and there are other ranks.
    """
    if in_a_group() and ":" in device:
        raise ConfigError(
            "each rank takes a GPU of its own",
            stage="launch",
            value=device,
            remedy="--device cuda gives rank n of a machine its GPU n",
        )


def check_ranks(recipe: Recipe, system: System, ranks: int) -> None:
    """Refuse a recipe that does not divide among ranks and parts, before a run folder is made.

    Raises:
        ConfigError: the batch or its batch-norm groups are no multiple of the ranks, the step does
            not divide into ``train.accumulate`` parts, or the system runs on one rank only.
    """
    batch = recipe.train.batch_size
    if batch % ranks:
        raise ConfigError(
            "the global batch must be a multiple of the number of ranks",
            stage="launch",
            value={"batch_size": batch, "ranks": ranks},
            remedy=f"--train.batch_size {max(batch // ranks, 1) * ranks}",
        )
    groups = {int(getattr(module, "norm_groups", 1)) for module in system.modules()}
    unfit = [g for g in groups if g > 1 and g % ranks]
    if unfit:
        raise ConfigError(
            "the batch-norm groups must be a multiple of the number of ranks",
            stage="launch",
            value={"norm_groups": unfit[0], "ranks": ranks},
            remedy=f"set norm_groups to 1 or a multiple of {ranks}",
        )
    check_divides(system, recipe.train.accumulate, batch, ranks)
    if ranks > 1 and (system.single_rank or "per_rank" in system.state_roles().values()):
        raise ConfigError(
            f"'{recipe.system}' keeps state of its own on each rank and runs on one rank only",
            stage="launch",
            value={"ranks": ranks},
            remedy="leave --launch and --ranks out",
        )
