"""rhyme: contrastive self-supervised learning from video.

The verbs of the command line, in Python (those that share a name with a room, such as ``report``,
are in :mod:`rhyme.api`)::

    import rhyme

    rhyme.train("cycle_contrast", "my_videos", out="runs/mine")
    rhyme.evaluate("runs/mine")
    vectors = rhyme.load("runs/mine").embed("my_videos/a.mp4")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__",
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
            return getattr(importlib.import_module("rhyme.api"), name)
        raise AttributeError(f"module 'rhyme' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
