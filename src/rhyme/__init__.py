"""rhyme: contrastive self-supervised learning from video.

The verbs of the command line, in Python::

    import rhyme

    rhyme.train("cycle_contrast", "my_videos", out="runs/mine")
    rhyme.evaluate("runs/mine")
    vectors = rhyme.load("runs/mine").embed("my_videos/a.mp4")

Three of them share their name with a room, and are called ``rhyme.api.report``,
``rhyme.api.export`` and ``rhyme.api.systems``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "api",
    "compare",
    "demo",
    "doctor",
    "embed",
    "estimate",
    "evaluate",
    "load",
    "prepare",
    "recipe",
    "resume",
    "runs",
    "scan",
    "search",
    "train",
    "world",
]

if TYPE_CHECKING:
    from rhyme import api
    from rhyme.api import (
        compare,
        demo,
        doctor,
        embed,
        estimate,
        evaluate,
        load,
        prepare,
        recipe,
        resume,
        runs,
        scan,
        search,
        train,
        world,
    )

else:  # a type checker sees the names above and no others, so that it finds what is mistyped

    def __getattr__(name: str) -> object:
        """Import the verbs when the first is used, so that ``import rhyme`` costs nothing."""
        if name in __all__:
            verbs = importlib.import_module("rhyme.api")
            return verbs if name == "api" else getattr(verbs, name)
        if name in ("export", "report", "systems"):  # a room that is not imported yet
            return importlib.import_module(f"rhyme.{name}")
        raise AttributeError(f"module 'rhyme' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
