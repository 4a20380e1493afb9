"""A run as a job of a SLURM cluster, through submitit: saved and queued again when its time is up.

Submitit starts one task for each rank, and sends them a signal before the time limit or when the
scheduler takes the nodes away. The ranks then save, as under any other signal, and the job is put
back into the queue, where it goes on from that checkpoint.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rhyme.api.fit import Trained, fit_run
from rhyme.api.launch import outcome
from rhyme.errors import ConfigError, MissingExtra, RhymeError, TrainingError
from rhyme.recipes import load_recipe
from rhyme.run import RunFolder
from rhyme.signals import Preempted
from rhyme.training.ranks import joined, one_fate

LOGS = "slurm"
_REQUEUES = 1000  # a run is as long as it is; a job that makes no step ends by its error
_SAVING_S = 120


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """The job of a run.

    Attributes:
        partition: where it queues; the cluster's default where None.
        nodes: machines.
        ranks: ranks on each machine, one GPU each.
        gpus: GPUs on each machine; as many as ranks where None, 0 for a job on CPUs.
        cpus: cores for each rank.
        hours: time limit of one part of the run; at its end the job is queued again.
        memory: GB of each machine; the cluster's default where None.
        account: whom to charge; the cluster's default where None.
        wait: wait until the run is done, and answer as if it had run here.
        cluster: ``local`` runs the same job on this machine, to try it without a cluster.
    """

    partition: str | None = None
    nodes: int = 1
    ranks: int = 1
    gpus: int | None = None
    cpus: int = 8
    hours: float = 24.0
    memory: float | None = None
    account: str | None = None
    wait: bool = False
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("ranks", 1), ("cpus", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"--slurm.{name} must be a whole number from {least}",
                    value=value,
                    stage="launch",
                )
        if not self.hours > 0.05:
            raise ConfigError(
                "--slurm.hours must be more than 0.05", value=self.hours, stage="launch"
            )
        if self.cluster == "local" and self.nodes != 1:
            raise ConfigError(
                "--slurm.cluster local has one node", value=self.nodes, stage="launch"
            )

    @property
    def world(self) -> int:
        """Ranks of the run."""
        return self.nodes * self.ranks


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A run that waits in a queue.

    Attributes:
        path: run folder.
        job: id of the job.
        logs: folder of what the ranks print.
        ranks: how many there are.
    """

    path: Path
    job: str
    logs: Path
    ranks: int


@dataclass(kw_only=True)
class RankJob:
    """What a task of the job does; submitit calls it in every task.

    Attributes:
        run: the run folder.
        device: where the ranks compute.
        alone: all tasks run on this machine.
    """

    run: Path
    device: str
    alone: bool

    def __call__(self) -> None:
        """Train as one rank, from the newest checkpoint where there is one."""
        import submitit

        told = submitit.helpers.TorchDistributedEnvironment()
        if self.alone:
            told.master_addr = "127.0.0.1"
        told.export(set_cuda_visible_devices=False, overwrite=True)
        folder = self.run / LOGS
        outcome.forget(folder, told.rank)
        try:
            with redirect_stdout(sys.stderr), joined(self.device), one_fate():
                done = fit_run(self.run, device=self.device, resume=True)
        except RhymeError as error:
            # SIGTERM comes with a cancelled job, or with a scheduler that queues it anew itself.
            if isinstance(error, Preempted) and "SIGTERM" not in error.cause:
                # Submitit's handler is in force again: in the first task it queues the job anew
                # and leaves, in the others it does nothing.
                environment: Any = submitit.JobEnvironment()
                signal.raise_signal(environment._usr_sig())
                return
            outcome.write(folder, told.rank, error)
            raise
        outcome.write(folder, told.rank, done)

    def checkpoint(self) -> Any:
        """The job that goes on: the same one, since the state is in the run folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(
    run: str | Path, slurm: SlurmOptions | None = None, *, device: str | None = None
) -> Submitted | Trained:
    """Queue a run folder as a job.

    Args:
        run: a folder that ``new_run`` has made, or one of a run that is to go on; on a file system
            that the nodes share.
        slurm: what to ask the cluster for.
        device: where the ranks compute; None is where the run's recipe says.

    Returns:
        The job; what was trained where ``slurm.wait`` says so.

    Raises:
        MissingExtra: submitit is absent.
        ConfigError: there is no SLURM here.
        RhymeError: while waiting: what a rank has met.
    """
    try:
        import submitit
    except ImportError as error:
        raise MissingExtra(
            "a job for SLURM needs submitit",
            stage="launch",
            remedy="pip install rhyme-ssl[slurm]",
        ) from error
    options = slurm or SlurmOptions()
    folder = RunFolder.open(run).path.resolve()
    logs = folder / LOGS
    logs.mkdir(exist_ok=True)
    for rank in range(options.world):
        outcome.forget(logs, rank)
    try:
        executor = submitit.AutoExecutor(
            logs, cluster=options.cluster, slurm_max_num_timeout=_REQUEUES
        )
    except RuntimeError as error:
        raise ConfigError(
            "there is no SLURM here: srun is not found",
            stage="launch",
            remedy="run it on a login node of the cluster; to try it here: --slurm.cluster local",
        ) from error
    executor.update_parameters(**_parameters(options, folder))
    named = device or load_recipe(RunFolder(folder).config).train.device
    task = RankJob(run=folder, device=named, alone=options.cluster == "local")
    job: Any = executor.submit(task)
    done = Submitted(path=folder, job=str(job.job_id), logs=logs, ranks=options.world)
    RunFolder(folder).event("submitted", job=done.job, ranks=done.ranks)
    return _waited(job, done) if options.wait else done


def _parameters(options: SlurmOptions, run: Path) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "name": f"rhyme-{run.name}"[:64],
        "nodes": options.nodes,
        "tasks_per_node": options.ranks,
        "gpus_per_node": options.ranks if options.gpus is None else options.gpus,
        "cpus_per_task": options.cpus,
        "timeout_min": max(int(options.hours * 60), 3),
        "mem_gb": options.memory,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_signal_delay_s": _SAVING_S,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _waited(job: Any, submitted: Submitted) -> Trained:
    """What the job has made, when it is done."""
    while not job.done():
        time.sleep(1.0)
    ended = outcome.common(submitted.logs, submitted.ranks)
    if isinstance(ended, RhymeError):
        raise ended
    if ended is None:
        raise TrainingError(
            f"job {submitted.job} ended without a word (state {job.state})",
            file=submitted.logs,
            stage="launch",
            remedy=f"read its logs; queue it again with: rhyme train --resume {submitted.path} "
            "--launch slurm",
        )
    return ended
