"""Starting ranks: on this machine, as torchrun's, or as a job of a cluster."""

from rhyme.api.launch.local import start_ranks
from rhyme.api.launch.options import LaunchOptions, check_ranks, check_shared, ranks_here
from rhyme.api.launch.slurm import SlurmOptions, Submitted, submit

__all__ = [
    "LaunchOptions",
    "SlurmOptions",
    "Submitted",
    "check_ranks",
    "check_shared",
    "ranks_here",
    "start_ranks",
    "submit",
]
