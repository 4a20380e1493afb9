"""One fate for all ranks: what fails on one of them ends all, soon, with the same error.

Between two collectives a rank may fail alone: a file that cannot be read, a full disk, a batch that
does not fit into memory. The others then wait in a collective that never comes. A vote at every
place that may fail would cost a round trip each. Here a failing rank pins its error to the group's
board and leaves; that breaks the connection on which the others wait (gloo), or a guard thread
ends their wait (NCCL), and all raise the error that was pinned first. A step costs nothing more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from rhyme import distributed
from rhyme.board import Board, lost_peer
from rhyme.errors import RankError, RhymeError, disk_trouble, from_facts
from rhyme.notices import tell

Value = TypeVar("Value")

POLL_S = 0.25
GRACE_S = 10.0
"""Seconds in which a rank that hears of a failure may leave on its own."""

_FAILURE = "failure"


class _Guard(threading.Thread):
    """Watches the board and the process that started this one; ends this rank where it is stuck.

    A thread that waits in a collective cannot be woken, so a rank that has not left after
    :data:`GRACE_S` is ended as a process. Checkpoints are whole at any moment.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(name="rhyme-ranks", daemon=True)
        self._board = board
        self._over = threading.Event()
        self._leader = distributed.rank() == 0
        self._parent = os.getppid()

    def run(self) -> None:
        failure: RhymeError | None = None
        while failure is None:
            if self._over.wait(POLL_S):
                return
            if os.getppid() != self._parent:
                os._exit(1)  # the launcher is gone, and with it everybody who could be told
            try:
                failure = _pinned(self._board)
            except RuntimeError:
                failure = _lost()
        if self._over.wait(GRACE_S):
            return
        if self._leader:
            tell(f"rhyme: {failure}")
        os._exit(failure.exit_code)

    def end(self) -> None:
        """Stop watching."""
        self._over.set()


@contextmanager
def one_fate() -> Generator[None]:
    """Within it a failure on any rank is raised on all of them: the first if there are several.

    After a failure the group is left. On one rank nothing changes.

    Raises:
        RhymeError: the failure, on every rank; on all but the first it is marked as told.
        RankError: a rank died without a word.
    """
    if distributed.world_size() == 1:
        yield
        return
    board, leader = Board(), distributed.rank() == 0
    others = distributed.world_size() - 1
    guard = _Guard(board)
    guard.start()
    try:
        yield
    except Exception as error:
        failure = _agreed(board, error)
        distributed.shutdown()  # wakes the ranks that wait for this one
        if failure is None:
            raise
        _part(board, leader, others)
        failure.told = not leader
        raise failure from (None if failure is error else error)
    finally:
        guard.end()


def _agreed(board: Board, error: Exception) -> RhymeError | None:
    """The failure of all ranks; None where this rank has met a flaw of the program."""
    mine = disk_trouble(error) if isinstance(error, OSError) else error
    if isinstance(mine, RhymeError):
        try:
            return mine if board.pin(_FAILURE, mine.facts()) else _first(board, mine)
        except RuntimeError:
            return mine
    return _first(board, _lost()) if lost_peer(mine) else None


def _pinned(board: Board) -> RhymeError | None:
    facts = board.read(_FAILURE)
    return None if facts is None else from_facts(facts)


def _first(board: Board, otherwise: RhymeError) -> RhymeError:
    """The failure that was pinned first. Its rank pinned it before it broke the connection."""
    end = time.monotonic() + 2.0
    try:
        while time.monotonic() < end:
            found = _pinned(board)
            if found is not None:
                return found
            time.sleep(0.02)
    except RuntimeError:  # the board is gone together with the rank that kept it
        pass
    return otherwise


def _lost() -> RankError:
    return RankError(
        "the connection to another rank is lost",
        stage="ranks",
        remedy="look for the rank that died first; go on from the last checkpoint with: "
        "rhyme train --resume RUN",
    )


def _part(board: Board, leader: bool, others: int) -> None:
    """The leader goes last: its process may keep the board that the others still read."""
    try:
        gone = board.count("gone", 0 if leader else 1)
        end = time.monotonic() + GRACE_S / 2
        while leader and gone < others and time.monotonic() < end:
            time.sleep(0.02)
            gone = board.count("gone", 0)
    except RuntimeError:
        pass


def leader_first(make: Callable[[], Value]) -> Value:
    """What ``make`` returns, made by the first rank before any other rank calls it.

    For work whose result lies on disk, which the second call only opens. The others wait without
    limit, and without a collective that would time out; they stop when the first rank fails.
    """
    if distributed.world_size() == 1:
        return make()
    board, note = Board(), f"made/{_next_number()}"
    if distributed.rank() == 0:
        made = make()
        board.pin(note, True)
        return made
    while board.read(note) is None:
        failure = _pinned(board)
        if failure is not None:
            raise failure
        time.sleep(0.05)
    return make()


_number = 0


def _next_number() -> int:
    """A number for a call; ranks make the same calls in one order, so it is the same on all."""
    global _number
    _number += 1
    return _number


@contextmanager
def joined(device: str) -> Generator[None]:
    """Within it this process is a member of the group that its environment describes.

    Args:
        device: where it computes; on a CPU the ranks talk through gloo, else through NCCL too.

    Raises:
        RankError: the ranks did not find each other.
    """
    kind = device.partition(":")[0]
    try:
        distributed.init("gloo" if kind == "cpu" else None)
    except RuntimeError as error:
        raise RankError(
            "the ranks did not find each other",
            stage="ranks",
            value=str(error).splitlines()[0],
            remedy="look for the rank that did not start; check MASTER_ADDR and MASTER_PORT",
        ) from error
    try:
        yield
    finally:
        distributed.shutdown()
