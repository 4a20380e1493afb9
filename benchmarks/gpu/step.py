"""Steps of training on a GPU: what the objectives, the memory and the switches cost beside passes.

Compared, on frames that are on the GPU already, in bfloat16 autocast and channels-last:

- ``cycle/resnet50`` and ``cycle/resnet18``: a CycleContrast step with its recipe's queues (65,536
  and 81,920 keys, a support of 16,384), 128 items at 224 pixels and 256 at 112, against a step with
  the same passes of the same encoders and the same optimiser, but a trivial loss, no queue and a
  momentum copy that stands still;
- ``memory``: momentum copy and queues, as a share of that step with a ResNet-50;
- ``compile``: a MoCo step with a ResNet-18 at 128 pixels after ``train.compile=auto`` has decided,
  against an eager one;
- ``amp``: the CycleContrast step with a ResNet-50 in bfloat16 and channels-last against float32.

Checked: losses are finite, and those of the same system agree.

Expected: the whole step at most 1.05 of its passes, a ratio of 0.952: the kernels take a
millisecond beside a hundred. Memory at most 1 %, 0.99. Compiled never below 0.95 of eager, since it
is switched off then. bfloat16 twice as fast as float32, where convolutions compute in TF32.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratio import Case, WrongResult, seconds, told
from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.loading import Batch
from rhyme.run import RunFolder
from rhyme.systems import StepContext, System
from rhyme.systems.base import Embeddings, StepOutput
from rhyme.systems.cycle_contrast import CycleContrast, CycleContrastConfig
from rhyme.systems.moco import Moco, MocoConfig
from rhyme.training import OptimizerConfig, TrainConfig
from rhyme.training.compiling import MEASURED
from rhyme.training.environment import lay_out
from rhyme.training.stepper import Stepper
from rhyme.views import View

STEPS = 4  # of a turn


class Passes(CycleContrast):
    """The same passes of the same encoders, and nothing else."""

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        frames = torch.cat([batch.views["key"].data, batch.views["candidate"].data], dim=1)
        keys = self.encoders.keys(frames, context.generator("shuffle"), context.parts)
        loss = torch.stack([(e * keys[h][:, 0]).sum(1).mean() for h, e in embeddings.items()]).sum()
        return StepOutput(loss=loss, parts={}, diagnostics={}, embeddings={})

    def after_step(self, applied: bool) -> None:
        pass


class Run:
    """A stepper on one batch; each call makes some steps and returns the loss of the last."""

    def __init__(
        self, room: Path, name: str, system: System, items: int, size: int, **options: Any
    ) -> None:
        options = {"precision": "bf16", "channels_last": True, **options}
        config = TrainConfig(
            steps=10_000, batch_size=items, optimizer=OptimizerConfig(lr=0.01), **options
        )
        self.system = lay_out(system.train().to("cuda"), config.channels_last)
        generator = torch.Generator("cuda").manual_seed(0)
        ids = torch.arange(items)
        views = system.plans()["train"].views
        self.batch = Batch(
            ids=ids,
            index=ids,
            group=ids,
            views={
                view: View(
                    data=torch.randn(items, 1, 3, size, size, generator=generator, device="cuda")
                )
                for view in views
            },
        ).to(torch.device("cuda"))
        self.stepper = Stepper(self.system, config, RunFolder.create(room / name, config))
        self.at = 0

    def __call__(self, steps: int = STEPS) -> float:
        loss = math.nan
        for _ in range(steps):
            context = StepContext(step=self.at, steps=10_000)
            (phase,) = self.stepper.phases()
            rates = dict.fromkeys(self.stepper.groups, 0.01)
            output, _, applied = self.stepper.step(self.batch, phase, context, rates)
            if not applied:
                raise WrongResult("a step was not finite")
            self.at += 1
            loss = float(output.loss.detach())
        torch.cuda.synchronize()
        return loss


def cycle(kind: type[CycleContrast], backbone: str, quick: bool) -> CycleContrast:
    torch.manual_seed(0)
    queues = {"queue": 4096, "cycle_queue": 8192, "support": 2048} if quick else {}
    system = kind(
        CycleContrastConfig(
            backbone=BackboneConfig(name=backbone), head=HeadConfig(layers=2, out=128), **queues
        )
    )
    system.mask_same_group = True
    return system


def finite(ours: float, peer: float) -> None:
    if not math.isfinite(ours + peer):
        raise WrongResult(f"losses {ours} and {peer}")


def close(ours: float, peer: float) -> None:
    if not abs(ours - peer) < 0.1 * max(abs(peer), 1.0):
        raise WrongResult(f"losses {ours} and {peer}")


def memory(run: Run) -> Case:
    """Momentum copy and queues."""
    system: Any = run.system
    keys = torch.nn.functional.normalize(torch.randn(len(run.batch), 128, device="cuda"), dim=1)

    def update() -> tuple[float, Tensor]:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(STEPS):
            system._fresh = ({"m": keys, "c": keys}, run.batch.group)
            system.after_step(True)
        torch.cuda.synchronize()
        return time.perf_counter() - began, keys

    def step() -> tuple[float, float]:
        began = time.perf_counter()
        loss = run()
        return time.perf_counter() - began, loss

    def same(stored: Tensor, _: float) -> None:
        features = system.queue.features[: system.queue.filled]
        if not (features == stored[0]).all(1).any():
            raise WrongResult("the queue does not hold the keys")

    return Case(
        name="gpu/step/memory",
        ours=update,
        peer=step,
        peer_name="the whole step",
        same=same,
        at_least=0.99,
        why="one pass over the weights and a few rows, beside five passes of the encoder",
        measure=told,
        combine=lambda part, whole: 1 - part / whole,
    )


def compiled(room: Path, quick: bool) -> Case:
    """What ``auto`` has chosen against eager."""
    items, size = (16, 32) if quick else (256, 128)
    runs = []
    for mode in ("auto", "off"):
        torch.manual_seed(0)
        system = Moco(MocoConfig(backbone=BackboneConfig(name="resnet18")))
        runs.append(Run(room, f"moco-{mode}", system, items, size, compile=mode))
    auto, eager = runs
    auto(2 * MEASURED + 3)
    eager(2 * MEASURED + 3)
    print(f"  compile: auto has chosen {auto.stepper.compiler.choice}", flush=True)
    return Case(
        name="gpu/step/compile",
        ours=auto,
        peer=eager,
        peer_name="eager",
        same=finite,
        at_least=0.95,
        why="compiled is switched off where it is slower",
        measure=seconds,
    )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    for backbone, items, size in (("resnet18", 256, 112), ("resnet50", 128, 224)):
        items, size = (16, 32) if quick else (items, size)
        whole = Run(room, f"whole-{backbone}", cycle(CycleContrast, backbone, quick), items, size)
        passes = Run(room, f"passes-{backbone}", cycle(Passes, backbone, quick), items, size)
        yield Case(
            name=f"gpu/step/cycle/{backbone}",
            ours=whole,
            peer=passes,
            peer_name="the same passes, a trivial loss",
            same=finite,
            at_least=1 / 1.05,
            why="the kernels take a millisecond",
            measure=seconds,
            rounds=7,
        )
        if backbone == "resnet50":
            yield memory(whole)
            del passes
            plain = cycle(CycleContrast, backbone, quick)
            full = {"precision": "fp32", "channels_last": False}
            yield Case(
                name="gpu/step/amp",
                ours=whole,
                peer=Run(room, "full", plain, items, size, **full),
                peer_name="float32, TF32 in convolutions",
                same=finite,
                at_least=2.0,
                why="half the bytes, and matrix units",
                measure=seconds,
            )
    yield compiled(room, quick)
