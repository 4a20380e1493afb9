"""Training: the loop, its optimisers and schedules, checkpoints, monitors, and the export."""

from __future__ import annotations

from rhyme.signals import Preempted
from rhyme.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.training.environment import alive, resolve_device
from rhyme.training.loggers import check_loggers
from rhyme.training.loop import Trainer, TrainResult
from rhyme.training.monitors import CollapseAlarm, effective_rank, embedding_std
from rhyme.training.newest import latest
from rhyme.training.optim import Lars, build_optimizers
from rhyme.training.packages import export_packages, load_part, save_part
from rhyme.training.schedules import learning_rate, steps_of

__all__ = [
    "CollapseAlarm",
    "Lars",
    "OptimizerConfig",
    "Preempted",
    "ScheduleConfig",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "alive",
    "build_optimizers",
    "check_loggers",
    "effective_rank",
    "embedding_std",
    "export_packages",
    "latest",
    "learning_rate",
    "load_part",
    "resolve_device",
    "save_part",
    "steps_of",
]
