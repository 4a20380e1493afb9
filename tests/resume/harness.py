"""Stop a run at every step, resume it, and compare every bit with the run that was not stopped.

``assert_bit_equal_resume(make_system, make_source, config, folder)`` is all that a system's test
needs. ``make_system(seed)`` and ``make_source()`` build fresh objects; the resumed part of a run is
built with *another* seed, so that whatever a checkpoint does not hold shows.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rhyme.run import RunFolder, read_jsonl
from rhyme.training import Preempted, TrainConfig, Trainer, checkpoint

TIMES = ("items_per_s", "wait_share", "seconds", "eta")


class Watched:
    """A source that notes the ids of the batches it hands out."""

    def __init__(self, source: Any) -> None:
        self.source, self.ids = source, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def batches(self) -> Iterator[Any]:
        for batch in self.source.batches():
            self.ids.append(batch.ids.tolist())
            yield batch


def state_hashes(trainer: Trainer) -> dict[str, str]:
    """A hash of every item of a trainer's state but its clock."""
    tensors, state = trainer.state()
    values = copy.deepcopy(state["values"])
    del values["trainer"]["recorder"]["seconds"]
    hashes = {n: _sha(t.detach().contiguous().cpu().numpy().tobytes()) for n, t in tensors.items()}
    for part, table in values.items():
        for name, value in table.items():
            hashes[f"{part}/{name}"] = _sha(json.dumps(value, sort_keys=True).encode())
    return hashes


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclasses.dataclass
class Record:
    """What a run did: hashes after each step, ids of all batches, rows without their clock."""

    hashes: dict[int, dict[str, str]]
    ids: list[list[int]]
    rows: list[dict[str, Any]]


def play(
    system: Any, source: Any, config: TrainConfig, run: RunFolder, *, until: int | None = None
) -> Record:
    """Run, or resume, and take notes; ``until`` stops after that step as a signal would."""
    watched, hashes = Watched(source), {}

    def note(step: int) -> bool:
        hashes[step] = state_hashes(trainer)
        return step == until

    def size(system: Any) -> dict[str, float]:
        return {"norm": float(sum(p.double().square().sum() for p in system.parameters()))}

    trainer = Trainer(
        system, watched, config, run, probes={"size": size}, progress=False, stop=note
    )
    resume = bool(checkpoint.steps_on_disk(run.checkpoints))
    if until is not None and until < trainer.steps:
        with pytest.raises(Preempted):
            trainer.fit(resume=resume)
    else:
        trainer.fit(resume=resume)
    source.close()
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_jsonl(run.metrics)]
    return Record(hashes, watched.ids, rows)


def assert_bit_equal_resume(
    make_system: Callable[[int], Any],
    make_source: Callable[[], Any],
    config: TrainConfig,
    folder: Path,
    *,
    steps: list[int] | None = None,
) -> Record:
    """Compare a straight run with runs resumed at ``steps`` (all by default) and at every step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _compare(make_system, make_source, config, folder, steps)
    finally:
        torch.set_num_threads(threads)


def _compare(
    make_system: Callable[[int], Any],
    make_source: Callable[[], Any],
    config: TrainConfig,
    folder: Path,
    steps: list[int] | None,
) -> Record:
    config = dataclasses.replace(
        config, checkpoint_every=1, keep=1000, log_every=2, probe_every=2, device="cpu"
    )
    quiet = dataclasses.replace(config, checkpoint_every=None)
    straight = play(
        make_system(1), make_source(), quiet, RunFolder.create(folder / "straight", config)
    )
    last = max(straight.hashes)
    saving = RunFolder.create(folder / "saving", config)
    saved = play(make_system(1), make_source(), config, saving)
    assert saved.hashes == straight.hashes, "saving changed the run"
    for step in steps or range(1, last):
        run = RunFolder.create(folder / f"from-{step}", config)
        name = checkpoint.folder_name(step)
        shutil.copytree(saving.checkpoints / name, run.checkpoints / name)
        part = play(make_system(2), make_source(), quiet, run)
        _same(part, straight, step, last)
        # Rows before the stop are in the folder of the run that was stopped.
        behind = [row for row in straight.rows if row["step"] > step]
        assert part.rows == behind, f"other rows after resuming at {step}"
    # A run that is stopped after every step: several resumes within an epoch and at its end.
    run = RunFolder.create(folder / "chain", config)
    ids: list[list[int]] = []
    for step in range(1, last + 1):
        part = (
            play(make_system(step), make_source(), quiet, run, until=step)
            if step > 1
            else play(make_system(1), make_source(), quiet, run, until=1)
        )
        assert part.hashes[step] == straight.hashes[step], f"chain differs at step {step}"
        ids += part.ids[: len(straight.ids) // last]
    assert ids == straight.ids
    assert part.rows == straight.rows, "the resumed run wrote other rows"
    return straight


def _same(part: Record, straight: Record, step: int, last: int) -> None:
    batches = len(straight.ids) // last
    assert part.ids == straight.ids[step * batches :], f"other batches after resuming at {step}"
    for later in range(step + 1, last + 1):
        differing = [
            name
            for name in straight.hashes[later] | part.hashes[later]
            if straight.hashes[later].get(name) != part.hashes[later].get(name)
        ]
        assert not differing, f"resumed at {step}, different at {later}: {differing}"
