"""What a system remembers between steps: queues of keys and a slowly moving copy of the encoder."""

from __future__ import annotations

from rhyme.memory.momentum import MomentumEncoder
from rhyme.memory.queue import FeatureQueue
from rhyme.memory.shuffle import BatchShuffle

__all__ = ["BatchShuffle", "FeatureQueue", "MomentumEncoder"]
