"""What a checkpoint costs: its share of the training, and beside a plain ``torch.save``.

Compared: ``checkpoint.save`` of all state of a run (weights, momentum copy, optimiser, queues,
position), copied, hashed, synced to the disk and renamed into place.

- ``share``: the time of the 200 steps between two checkpoints, over the same with one save, for the
  demo recipe ``cycle_contrast_world_demo``; 10 steps are measured and taken twenty times.
- ``bytes``: the state of the same system with a ResNet-50 and queues of 65,536 and 81,920 against
  ``torch.save`` to a file that is synced: pickled, neither verified nor written aside.

Checked: what was saved reads back equal.

Expected: a share of at most 2 %, hence a ratio of 0.98; and half the speed of ``torch.save``, since
hashing reads every byte once more.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratio import Case, WrongResult, told
from rhyme.encoders import BackboneConfig
from rhyme.loading import Batch
from rhyme.recipes.cycle_contrast import cycle_contrast_world_demo
from rhyme.run import RunFolder
from rhyme.systems.cycle_contrast import CycleContrast, CycleContrastConfig
from rhyme.training import Trainer, checkpoint
from rhyme.views import View


class Repeated:
    """One batch of random pixels, again and again: the source costs nothing."""

    groups = items = 1024
    batches_per_epoch = 8
    fingerprint = "0" * 64
    wait_seconds = 0.0

    def __init__(self, batch_size: int, size: int) -> None:
        self.batch_size = batch_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.arange(batch_size)
        self.batch = Batch(
            ids=ids,
            index=ids,
            group=ids,
            views={
                name: View(data=torch.randn(batch_size, 1, 3, size, size, generator=generator))
                for name in ("query", "key", "candidate")
            },
        )

    def batches(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def observe(self, output: Any) -> None:
        pass

    def set_sampler_weights(self, weights: Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass

    def close(self) -> None:
        pass


def holds(path: Path, tensors: dict[str, Tensor]) -> None:
    """The folder holds these tensors."""
    held = checkpoint.read(path).tensors
    if held.keys() != tensors.keys() or not all(torch.equal(held[n], tensors[n]) for n in held):
        raise WrongResult("the checkpoint does not hold what was saved")


def share(room: Path, quick: bool) -> Case:
    recipe = cycle_contrast_world_demo()
    every = recipe.train.checkpoint_every or 200
    count = 2 if quick else 10
    config = dataclasses.replace(
        recipe.train, steps=count, device="cpu", checkpoint_every=None, probe_every=None
    )
    made = [0]

    def trainer() -> Trainer:
        made[0] += 1
        torch.manual_seed(0)
        run = RunFolder.create(room / f"run{made[0]}", config)
        source = Repeated(config.batch_size, 24)
        return Trainer(CycleContrast(recipe.model), source, config, run, progress=False)

    kept = trainer()
    kept.fit()
    tensors, state = kept.state()
    folder = room / "share"

    def save() -> tuple[float, Path]:
        began = time.perf_counter()
        path = checkpoint.save(folder, 1, tensors, state, keep=2)
        return time.perf_counter() - began, path

    def steps() -> tuple[float, None]:
        """A short run; its rate leaves out starting, saving and exporting."""
        rate = trainer().fit().items_per_second
        return count * config.batch_size / rate, None

    return Case(
        name="checkpoint/share",
        ours=save,
        peer=steps,
        peer_name=f"{count} training steps",
        same=lambda path, _: holds(path, tensors),
        at_least=0.98,
        why=f"one save every {every} steps",
        measure=told,
        combine=lambda save, taken: taken * every / count / (taken * every / count + save),
    )


def plain(room: Path, quick: bool) -> Case:
    backbone = BackboneConfig(name="small" if quick else "resnet50")
    torch.manual_seed(0)
    model = CycleContrast(CycleContrastConfig(backbone=backbone))
    tensors = {name: t.detach() for name, t in model.state_dict().items()}
    # SGD's momentum: one more tensor for each parameter.
    tensors |= {f"momentum/{n}": torch.randn_like(p) for n, p in model.named_parameters()}

    def by_torch() -> Path:
        path = room / "plain.pt"
        with path.open("wb") as file:
            torch.save(tensors, file)
            file.flush()
            os.fsync(file.fileno())
        return path

    size = sum(t.numel() * t.element_size() for t in tensors.values()) / 2**20
    return Case(
        name="checkpoint/bytes",
        ours=lambda: checkpoint.save(room / "bytes", 1, tensors, {}, keep=1),
        peer=by_torch,
        peer_name=f"torch.save and fsync, {size:.0f} MiB",
        same=lambda path, _: holds(path, tensors),
        at_least=0.5,
        why="the same bytes to the same disk, hashed on the way",
        cause="the state is copied and serialised in memory before it is hashed and written, where "
        "torch.save writes from the tensors",
    )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    yield share(room, quick)
    yield plain(room, quick)
