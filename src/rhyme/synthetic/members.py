"""Which videos a world holds: their ids, groups and splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhyme.synthetic.company import accompany
from rhyme.synthetic.config import ALONE, WorldConfig
from rhyme.synthetic.draw import (
    ASSIGNMENT,
    LONG_POOL,
    LONG_TEST,
    POOL,
    TEST,
    VideoSpec,
    draw_video,
    generator,
)
from rhyme.synthetic.names import SPLITS

_PREFIX = {POOL: "v", TEST: "t", LONG_POOL: "u", LONG_TEST: "w"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a world.

    Attributes:
        id: name of its files; says nothing of its classes.
        split: ``"train"``, ``"val"`` or ``"test"``.
        stream: stream of its generators.
        index: its number in the stream.
        group: its group's number in the stream.
    """

    id: str
    split: str
    stream: int
    index: int
    group: int

    @property
    def group_name(self) -> str:
        """Name of the group, unique in the world."""
        return f"g{_PREFIX[self.stream]}{self.group:06d}"

    def spec(self, config: WorldConfig) -> VideoSpec:
        """Draw the video."""
        alone = draw_video(
            config.seed,
            self.stream,
            self.index,
            group=self.group,
            frames=config.frames,
            fps=config.rate,
            palette_keep=config.palette_keep,
            scene_keep=config.scene_keep,
        )
        if config.creatures == ALONE:
            return alone
        return accompany(alone, config.creatures, palette_keep=config.palette_keep)


def plan(config: WorldConfig) -> list[Entry]:
    """All videos of a world in order of split: clips, then untrimmed videos.

    Train and val share one pool, which a seeded draw divides by group; test has its own, so that
    it stays the same whatever the number of the others.
    """
    size = config.videos_per_group
    if config.counts is None:
        clips = _divide(config.clips // size, config.fractions)
    else:
        clips = tuple(n // size for n in config.counts)
    untrimmed = _divide(config.untrimmed // size, config.fractions)
    entries = [
        *_entries(config, POOL, TEST, clips),
        *_entries(config, LONG_POOL, LONG_TEST, untrimmed),
    ]
    # The sort is stable: within a split the order above stays.
    return sorted(entries, key=lambda entry: SPLITS.index(entry.split))


def _entries(config: WorldConfig, pool: int, test: int, groups: tuple[int, ...]) -> list[Entry]:
    """Videos of one kind, given the number of groups in train, val and test."""
    train, val, held_out = groups
    order = generator(config.seed, pool, ASSIGNMENT).permutation(train + val)
    chosen = set(order[:val].tolist())
    size = config.videos_per_group
    entries: list[Entry] = []
    for stream, count in ((pool, train + val), (test, held_out)):
        for index in range(count * size):
            group = index // size
            split = "test" if stream == test else "val" if group in chosen else "train"
            entries.append(
                Entry(
                    id=f"{_PREFIX[stream]}{index:06d}",
                    split=split,
                    stream=stream,
                    index=index,
                    group=group,
                )
            )
    return entries


def _divide(total: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Whole numbers that sum to ``total``, nearest to the shares (largest remainders first)."""
    exact = np.asarray(shares) / sum(shares) * total
    # A hair is added because 0.6 * 5 must count as 3 whatever its last bit.
    counts = np.floor(exact + 1e-9).astype(int)
    rest = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return tuple(int(n) for n in counts)
