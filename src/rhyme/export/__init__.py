"""Export: encoders that leave for other programs and for model hubs."""

from __future__ import annotations

import sys

from rhyme.errors import RoomLikeAVerb
from rhyme.export.hub import from_hub, to_hub_folder
from rhyme.export.program import ExportedEncoder, load_torch_export, to_torch_export

__all__ = [
    "ExportedEncoder",
    "from_hub",
    "load_torch_export",
    "to_hub_folder",
    "to_torch_export",
]

sys.modules[__name__].__class__ = RoomLikeAVerb
