"""Systems: views, encoders, memory and objectives joined to one trainable whole, one file each."""

from rhyme.systems.base import (
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
