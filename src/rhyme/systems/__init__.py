"""Systems: views, encoders, memory and objectives joined to one trainable whole, one file each."""

import sys

from rhyme.errors import RoomLikeAVerb
from rhyme.systems.base import (
    Embeddings,
    Export,
    ExportKind,
    ParameterGroup,
    Phase,
    RunContext,
    StateRole,
    StepContext,
    StepOutput,
    System,
)
from rhyme.systems.registry import SYSTEMS, SystemEntry, config_class, entry, system_class

__all__ = [
    "SYSTEMS",
    "Embeddings",
    "Export",
    "ExportKind",
    "ParameterGroup",
    "Phase",
    "RunContext",
    "StateRole",
    "StepContext",
    "StepOutput",
    "System",
    "SystemEntry",
    "config_class",
    "entry",
    "system_class",
]

sys.modules[__name__].__class__ = RoomLikeAVerb
