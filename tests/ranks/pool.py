"""One set of gloo processes for all rank tests: ``run_on_ranks(fn, world, *args)``.

The processes of each world size start once and wait for functions until the tests end, so a rank
test costs milliseconds. ``fn`` is a module-level function of a test module; it runs on every rank
and its results come back in rank order.
"""

from __future__ import annotations

import atexit
import importlib.util
import multiprocessing
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0


class RankError(AssertionError):
    """A function failed on a rank; the text holds that rank's traceback."""


def _load(file: str, name: str) -> Any:
    """The module of a file under the name that it has in the parent."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _serve(pipe: Connection, rank: int, world: int, meet: str) -> None:
    import torch

    from rhyme import distributed
    from rhyme.workers.child import dumps

    torch.set_num_threads(1)
    distributed.init("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    while True:
        try:
            file, name, function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            module = _load(file, name)
            torch.manual_seed(0)
            pipe.send_bytes(dumps((True, getattr(module, function)(*pickle.loads(args)))))
        except BaseException:
            pipe.send_bytes(dumps((False, traceback.format_exc())))


class _Ranks:
    def __init__(self, world: int) -> None:
        # A fork server that has torch loaded: one import for all ranks of all worlds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
        self.folder = tempfile.TemporaryDirectory(prefix="rhyme-ranks-")
        meet = str(Path(self.folder.name) / "meet")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, world, meet), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, job: bytes) -> list[Any]:
        for pipe in self.pipes:
            pipe.send_bytes(job)
        results: list[Any] = [None] * len(self.pipes)
        missing = dict(zip(self.pipes, range(len(self.pipes)), strict=True))
        end = time.monotonic() + TIMEOUT_S
        while missing:
            ready = wait(list(missing), timeout=max(0.0, end - time.monotonic()))
            if not ready:
                raise RankError(f"ranks {sorted(missing.values())} did not answer")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = missing.pop(pipe)
                try:
                    worked, value = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    raise RankError(f"rank {rank} died") from None
                if not worked:
                    raise RankError(f"rank {rank} failed:\n{value}")
                results[rank] = value
        return results

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()
        self.folder.cleanup()


_kept: dict[int, _Ranks] = {}


def _close(world: int) -> None:
    ranks = _kept.pop(world, None)
    if ranks is not None:
        ranks.close()


@atexit.register
def _close_all() -> None:
    for world in list(_kept):
        _close(world)


def run_on_ranks(fn: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """Call ``fn(*args)`` on ``world`` gloo ranks at once; the results in rank order.

    A failure on any rank raises :class:`RankError` with its traceback; the processes, which may be
    stuck in a collective, are then replaced.
    """
    from rhyme.workers.child import dumps

    module = sys.modules[fn.__module__]
    assert module.__file__ is not None
    job = dumps((module.__file__, fn.__module__, fn.__name__, dumps(args)))
    if world not in _kept:
        _kept[world] = _Ranks(world)
    try:
        return _kept[world].run(job)
    except BaseException:
        _close(world)
        raise


def run_on_new_ranks(fn: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """The same in processes that serve no other test, since ``fn`` leaves or breaks their group.

    A rank that died answers with its exit code instead of a result.
    """
    from rhyme.workers.child import dumps

    module = sys.modules[fn.__module__]
    assert module.__file__ is not None
    ranks = _Ranks(world)
    results: list[Any] = []
    try:
        for pipe in ranks.pipes:
            pipe.send_bytes(dumps((module.__file__, fn.__module__, fn.__name__, dumps(args))))
        for rank, (pipe, process) in enumerate(zip(ranks.pipes, ranks.processes, strict=True)):
            if not pipe.poll(TIMEOUT_S):
                raise RankError(f"rank {rank} did not answer")
            try:
                worked, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                process.join()
                worked, value = True, process.exitcode
            if not worked:
                raise RankError(f"rank {rank} failed:\n{value}")
            results.append(value)
    finally:
        ranks.close()
    return results
