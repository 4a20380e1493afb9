"""Randomness as a pure function: who draws what, when, and under which name.

Two families of keys exist. *Item keys* belong to (run seed, epoch, repeat, item id, draw name): a
draw is the same whichever worker or rank makes it and in whatever company. *Step keys* belong to
(run seed, step, name) and are equal on all ranks. Nothing below the training loop uses a global
generator.

The draws are made by a counter-based mix of 64-bit words (the finaliser of SplitMix64, applied
twice), so a whole batch is drawn in a few NumPy calls instead of one generator object an item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit words so that nearby inputs give unrelated outputs."""
    with np.errstate(over="ignore"):
        words = words + _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * _MIX_A
        words = (words ^ (words >> np.uint64(27))) * _MIX_B
        return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=4096)
def hash_name(*parts: str | int) -> int:
    """A stable 64-bit hash of names and numbers, the same in every process and version."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys of a batch of items, from which every per-item draw is made.

    Attributes:
        seed: run seed.
        epoch: pass over the data, from 0.
        ids: ``uint64 [b]`` item ids.
        repeat: ``int64 [b]``, or one number for all: how often the item came before in this epoch.
        scope: prefix of every draw name, e.g. the name of a view.
    """

    seed: int
    epoch: int
    ids: NDArray[np.uint64]
    repeat: NDArray[np.int64] | int = 0
    scope: str = ""

    @classmethod
    def of(cls, seed: int, epoch: int, ids: Sequence[int] | ArrayLike, repeat: int = 0) -> Keys:
        """Keys from any sequence of item ids (taken modulo 2**64)."""
        if not isinstance(ids, np.ndarray):  # a list of small and large ones would become floats
            numbers = np.ravel(np.asarray(ids, dtype=object))
            ids = np.array([int(number) % 2**64 for number in numbers], dtype=np.uint64)
        return cls(seed, epoch, ids.astype(np.uint64), repeat)

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, scope: str) -> Keys:
        """The same keys for draws whose names live under ``scope``."""
        return replace(self, scope=f"{self.scope}/{scope}")

    def words(self, name: str, count: int) -> NDArray[np.uint64]:
        """``uint64 [b, count]`` independent words for the draw called ``name``."""
        head = np.uint64(hash_name(self.seed, self.epoch, f"{self.scope}/{name}"))
        repeat = np.asarray(self.repeat, dtype=np.int64).astype(np.uint64)
        state = _mix(_mix(self.ids.astype(np.uint64) ^ head) + repeat)
        counter = np.arange(1, count + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            return _mix(_mix(state[:, None] + counter[None, :] * _GOLDEN))

    def uniform(
        self, name: str, *shape: int, low: float = 0.0, high: float = 1.0
    ) -> NDArray[np.float64]:
        """``float64 [b, *shape]`` uniform in ``[low, high)``."""
        words = self.words(name, int(np.prod(shape, dtype=np.int64)))
        unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * unit).reshape(len(self), *shape)

    def integers(self, name: str, high: ArrayLike, *shape: int) -> NDArray[np.int64]:
        """``int64 [b, *shape]`` uniform in ``0 .. high-1``; ``high`` is one number or ``[b]``."""
        bound = np.asarray(high, dtype=np.float64)
        bound = bound.reshape(bound.shape + (1,) * len(shape))
        return np.floor(self.uniform(name, *shape) * bound).astype(np.int64)

    def normal(self, name: str, *shape: int) -> NDArray[np.float64]:
        """``float64 [b, *shape]`` standard normal (Box-Muller)."""
        first = 1.0 - self.uniform(f"{name}.radius", *shape)
        second = self.uniform(f"{name}.angle", *shape)
        return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)

    def permutation(self, name: str, n: int) -> NDArray[np.int64]:
        """``int64 [b, n]``, in each row a uniform permutation of ``0 .. n-1``."""
        return np.argsort(self.words(name, n), axis=1, kind="stable")


def step_generator(seed: int, step: int, name: str) -> torch.Generator:
    """The CPU generator of (run seed, step, name): equal on all ranks, fresh at each call."""
    generator = torch.Generator()
    generator.manual_seed(hash_name("step", seed, step, name) >> 1)
    return generator


def fork_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a part of the run, a function of the run seed and names."""
    return hash_name("fork", seed, *names) >> 1
