"""What checkpoints cost: their share of the training, and a save beside a plain ``torch.save``.

Compared: all state of a run (weights, momentum copy, optimiser, queues, position), copied, hashed,
synced to the disk and renamed into place.

- ``share``: steps of the demo recipe ``cycle_contrast_world_demo`` with a save in the background
  every 200 of them, as it is, against the same steps without. A run saves every 10 steps; what one
  save adds is laid on 200.
- ``background``: the same run with saves every 10 steps, in the background against in the step.
- ``bytes``: the state of the same system with a ResNet-50 and queues of 65,536 and 81,920 against
  ``torch.save`` to a file that is synced: pickled, neither verified nor written aside.

Checked: what was saved reads back equal; a run with saves ends with the state of one without.

Expected: steps at least 0.98 as fast as without saves; saving in the background is never slower
than in the step; and half the speed of ``torch.save``, since hashing reads every byte once more.
"""

import dataclasses
import os
import tempfile
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
from rhyme.training.writer import Copies
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


GAP = 10  # steps between two saves of a measured run


def paced(room: Path, count: int, saving: str) -> tuple[float, dict[str, Tensor]]:
    """Seconds from the first step to the last of a run, and the state at its end."""
    recipe = cycle_contrast_world_demo()
    config = dataclasses.replace(
        recipe.train,
        steps=count + 1,
        device="cpu",
        probe_every=None,
        checkpoint_every=None if saving == "none" else GAP,
        async_save=saving == "background",
    )
    torch.manual_seed(0)
    run = RunFolder.create(Path(tempfile.mkdtemp(dir=room)) / "run", config)
    source = Repeated(config.batch_size, 24)
    marks: list[float] = []
    trainer = Trainer(
        CycleContrast(recipe.model),
        source,
        config,
        run,
        progress=False,
        stop=lambda step: bool(marks.append(time.perf_counter())),
    )
    trainer.fit()
    holds(run.checkpoints / checkpoint.folder_name(count + 1), trainer.state()[0])
    return marks[-1] - marks[0], {name: t.clone() for name, t in trainer.state()[0].items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    if one.keys() != other.keys() or not all(torch.equal(one[n], other[n]) for n in one):
        raise WrongResult("saving changed the run")


def share(room: Path, quick: bool) -> Case:
    every = cycle_contrast_world_demo().train.checkpoint_every or 200
    count = GAP if quick else 2 * GAP

    def slower(saving: float, without: float) -> float:
        steps = without * every / count
        return steps / (steps + (saving - without) / (count // GAP))

    return Case(
        name="checkpoint/share",
        ours=lambda: paced(room, count, "background"),
        peer=lambda: paced(room, count, "none"),
        peer_name=f"{count} training steps without",
        same=equal,
        at_least=0.98,
        why=f"one save every {every} steps; the step waits for a copy in memory",
        measure=told,
        combine=slower,
    )


def background(room: Path, quick: bool) -> Case:
    count = GAP if quick else 2 * GAP
    return Case(
        name="checkpoint/background",
        ours=lambda: paced(room, count, "background"),
        peer=lambda: paced(room, count, "step"),
        peer_name=f"{count} steps, saved in the step every {GAP}",
        same=equal,
        at_least=1.0,
        why="the disk is waited for beside the steps",
        measure=told,
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
        ours=lambda: checkpoint.save(room / "bytes", 1, Copies().take(tensors), {}, keep=1),
        peer=by_torch,
        peer_name=f"torch.save and fsync, {size:.0f} MiB",
        same=lambda path, _: holds(path, tensors),
        at_least=0.5,
        why="the same bytes to the same disk, hashed on the way",
        cause="the state is copied in memory before it is written and read once more to be "
        "hashed, where torch.save writes from the tensors",
    )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    yield share(room, quick)
    yield background(room, quick)
    yield plain(room, quick)
