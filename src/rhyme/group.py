"""What the environment says of the group of ranks that a launcher has started this process in."""

from __future__ import annotations

import os

from rhyme.errors import ConfigError


def started_as_rank() -> bool:
    """Whether this process is one rank of a group, perhaps the only one."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def tasks_of_step() -> int:
    """How many tasks srun has started beside this one, itself included; 1 without srun."""
    if "SLURM_STEP_ID" not in os.environ or "SLURM_PROCID" not in os.environ:
        return 1
    told = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", ""))
    return int(told) if told.isdigit() else 1


def in_a_group() -> bool:
    """Whether there are other ranks beside this process."""
    return started_as_rank() and os.environ["WORLD_SIZE"] not in ("", "1")


def local_ranks() -> int:
    """How many ranks run on this machine, this process included; 1 if it is none."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "") if started_as_rank() else ""
    return max(int(told), 1) if told.isdigit() else 1


def follower() -> bool:
    """Whether another process than this one leads, and talks to the user."""
    return in_a_group() and os.environ["RANK"] != "0"


def restarted() -> bool:
    """Whether torchrun has started this rank again, after one of them died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def launch_id() -> str | None:
    """What tells this start of ranks, restarts included, from any other; None without torchrun."""
    if not started_as_rank():
        return None
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return name if name != "none" else f"process {os.getppid()}"


def check_alone(verb: str) -> None:
    """Refuse to be one of several ranks; what the leader says is enough for the user.

    Raises:
        ConfigError: torchrun or another launcher started this process among others.
    """
    if in_a_group():
        error = ConfigError(
            f"'{verb}' works in one process, and this is one of {os.environ['WORLD_SIZE']} ranks",
            stage="launch",
            remedy="start it without torchrun; only train runs on several ranks",
        )
        error.told = follower()
        raise error
