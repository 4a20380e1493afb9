"""Where an encoder fails: the classes that are found worst, and its surest wrong searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.report import ClassShare
from rhyme.tasks import nearest_rows

K = 5


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What the nearest frames of other groups say.

    Attributes:
        classes: every class that was asked for, the worst first.
        queries: rows whose found frames are all of another class, the surest first, one a group.
    """

    classes: list[ClassShare]
    queries: list[int]


def failures(
    frames: Mapping[str, NDArray[np.float32]],
    groups: NDArray[np.int64],
    codes: NDArray[np.int64],
    names: Sequence[str],
    *,
    k: int = K,
) -> Failures:
    """Ask with every labelled frame for its nearest frames of other groups.

    Args:
        frames: ``[n, d]`` features by encoder: ``"trained"``, and ``"untrained"`` where it stands
            beside it.
        groups: ``[n]`` group of each frame.
        codes: ``[n]`` class of each frame, below 0 where it has none. Frames without class ask
            nothing and are found as nobody's.
        names: name of each class.
        k: found frames that count.
    """
    found = {
        name: nearest_rows(rows, rows, k, bank_groups=groups, query_groups=groups)
        for name, rows in frames.items()
    }
    valid = {name: (f.rows >= 0) & (codes[:, None] >= 0) for name, f in found.items()}
    same = {
        name: valid[name] & (codes[f.rows.clip(0)] == codes[:, None]) for name, f in found.items()
    }
    own = found["trained"]
    classes: list[ClassShare] = []
    for code in map(int, np.unique(codes[codes >= 0])):
        asked = np.flatnonzero((codes == code) & valid["trained"].any(axis=1))
        if not len(asked):
            continue
        share = {n: float(same[n][asked].sum() / valid[n][asked].sum()) for n in found}
        wrong = own.rows[asked][valid["trained"][asked] & ~same["trained"][asked]]
        taken = Counter(int(c) for c in codes[wrong] if c >= 0).most_common(1)
        classes.append(
            ClassShare(
                name=names[code],
                queries=len(asked),
                trained=share["trained"],
                untrained=share.get("untrained"),
                chance=_chance(code, asked, groups, codes),
                instead=names[taken[0][0]] if taken else "",
            )
        )
    labelled = valid["trained"].all(axis=1) & (codes[own.rows.clip(0)] >= 0).all(axis=1)
    missed = np.flatnonzero(labelled & ~same["trained"].any(axis=1))
    surest = missed[np.argsort(-own.scores[missed].mean(axis=1), kind="stable")]
    _, first = np.unique(groups[surest], return_index=True)
    return Failures(
        classes=sorted(classes, key=lambda c: c.trained),
        queries=surest[np.sort(first)].tolist(),
    )


def _chance(
    code: int, asked: NDArray[np.int64], groups: NDArray[np.int64], codes: NDArray[np.int64]
) -> float:
    """Share of frames of the class among those of other groups, a mean over the queries."""
    sizes, of_class = Counter(groups.tolist()), Counter(groups[codes == code].tolist())
    total, members = len(groups), int((codes == code).sum())
    shares = [(members - of_class[g]) / max(total - sizes[g], 1) for g in groups[asked].tolist()]
    return float(np.mean(shares))
