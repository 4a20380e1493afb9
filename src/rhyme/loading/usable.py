"""Which items of a catalog a view plan can use, and why it cannot use the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from rhyme.catalog import Catalog
from rhyme.loading.cache import FrameCache, with_frames
from rhyme.views import ViewPlan
from rhyme.views.facts import frame_counts

__all__ = ["count_reasons", "unusable"]

NO_FRAMES = "no frames, sound alone"
UNDECODED = "cannot be decoded"
TOO_SHORT = "too short for the clips"


def unusable(
    catalog: Catalog,
    plan: ViewPlan,
    cache: FrameCache | None = None,
    *,
    frames: int | None = None,
) -> dict[int, str]:
    """Reasons by row of the items that are left out.

    Args:
        catalog: the items.
        plan: the draws; its clips with ``short="drop"`` or ``least`` leave out what is too short
            for them.
        cache: the frames that are drawn from, where they are held in memory.
        frames: how many of each item a cache is to hold that is not built yet.
    """
    facts = catalog.facts()
    found: dict[int, str] = {}

    def note(bad: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(bad).tolist():
            found.setdefault(row, reason)

    note((facts.width <= 0) | (facts.height <= 0), NO_FRAMES)
    if cache is not None:
        note(cache.counts[cache.rows(facts.id)] <= 0, UNDECODED)
        facts = cache.facts(facts)
    elif frames is not None:
        facts = with_frames(facts, np.minimum(frame_counts(facts), frames))
    short = ~plan.feasible(facts)
    counts = frame_counts(facts)
    for row in np.flatnonzero(short).tolist():
        length = "1 frame" if counts[row] == 1 else f"{counts[row]} frames"
        found.setdefault(row, f"{TOO_SHORT} ({length})")
    return dict(sorted(found.items()))


def count_reasons(reasons: Mapping[int, str]) -> dict[str, int]:
    """How many items there are of each reason, whatever their length, the most frequent first."""
    kinds = Counter(reason.partition(" (")[0] for reason in reasons.values())
    return dict(kinds.most_common())
