"""What ranks tell each other at any time, without a collective.

The key-value store through which the ranks of a group met serves as a board: every rank can pin a
note to it and read it whenever it likes, also while others are stuck. Notes are JSON.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist


class Board:
    """The board of the current group; it outlives :func:`rhyme.distributed.shutdown`.

    Every call may raise RuntimeError when the process that keeps the store is gone.
    """

    def __init__(self) -> None:
        self._store = dist.distributed_c10d._get_default_store()  # pyright: ignore

    def pin(self, key: str, note: Any) -> bool:
        """Pin a note; whether it is the first under its key, which is the one that stays."""
        text = json.dumps(note)
        first = self.count(f"{key}/writers") == 1
        if first:
            self._store.set(f"rhyme/{key}", text)
        return first

    def read(self, key: str) -> Any:
        """The note under a key, or None; it never waits."""
        if not self._store.check([f"rhyme/{key}"]):
            return None
        return json.loads(self._store.get(f"rhyme/{key}"))

    def count(self, key: str, step: int = 1) -> int:
        """Add to a counter; its value afterwards."""
        return self._store.add(f"rhyme/{key}", step)


class Meeting:
    """A store that this process keeps for ranks that it starts, so that none of them has to.

    Attributes:
        port: where it listens on this machine.
    """

    def __init__(self) -> None:
        self._store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
        self.port = self._store.port

    def environment(self, rank: int, ranks: int, attempt: int) -> dict[str, str]:
        """What a rank must find in its environment to join, in torchrun's names.

        Args:
            rank: its number.
            ranks: how many there are.
            attempt: how often they were started before.
        """
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }


def launchers_store(ranks: int, timeout: timedelta) -> dist.Store | None:
    """The store that the launcher keeps for its ranks, as the environment says; None without one.

    Torchrun keeps one store over all restarts, with the addresses of ranks that are gone. Here each
    start has a part of it for itself.
    """
    told = os.environ
    if told.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    port = int(told["MASTER_PORT"])
    store = dist.TCPStore(told["MASTER_ADDR"], port, ranks, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"start/{told.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def lost_peer(error: BaseException) -> bool:
    """Whether an error means that another rank is gone, rather than a flaw in this one."""
    signs = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def backends() -> tuple[str, ...]:
    """The backends that this build of torch has: gloo for CPUs, NCCL for GPUs."""
    known = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available}
    return tuple(name for name, there in known.items() if dist.is_available() and there())
