"""What belongs to a training step beside its passes, and what its switches cost or save.

Compared: parts and forms of one CycleContrast step with a ResNet-18 at 96 pixels on 32 items,
queues of 65,536 and 81,920, on frames that are there already.

- ``memory``: moving the momentum copy and writing keys into both queues, as a share of the step.
- ``finite``: norm of the gradient and the check that loss and gradient are finite, as a share too.
- ``accumulate/time``: the step in 4 parts against the whole step.
- ``accumulate/memory``: most memory that tensors hold at once, whole step over the step in 4 parts.
- ``compile``: a step after ``train.compile=auto`` has decided, against an eager one.
- ``lars``: our multi-tensor LARS against a loop over the parameters.
- ``lightly``: whole steps of other systems against lightly's, see ``lightly_step.py``.

Checked: the momentum copy is the loop's average, and the queue holds the keys; losses of both sides
agree; LARS and the loop give the same weights.

Expected: memory and finite at most 1 % of the step, hence ratios of 0.99. A step has 3 forward
passes of work in the query pass (a backward pass counts two) and 2 in the key pass; in parts there
is one more, so 5/6 of the speed, less what small parts lose: 0.75. The graph of a quarter of the
queries and the activations of a quarter of the keys at a time, beside inputs, weights, gradients,
queues: half of the memory, ratio 2. Compiled never below 0.95 of eager, since it is switched off
then. LARS as fast as the loop on a CPU, where torch runs its multi-tensor operations as loops.
"""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import lightly_step
from benchmarks.ratio import Case, WrongResult, peak_mib, told
from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.loading import Batch
from rhyme.run import RunFolder
from rhyme.systems import StepContext
from rhyme.systems.cycle_contrast import CycleContrast, CycleContrastConfig
from rhyme.training import Lars, OptimizerConfig, TrainConfig
from rhyme.training.compiling import MEASURED
from rhyme.training.parallel import gradient_norm
from rhyme.training.stepper import Stepper
from rhyme.views import View

PARTS = 4


class Step:
    """A stepper on one batch; each call is the next step of its run."""

    def __init__(self, room: Path, name: str, quick: bool, **options: Any) -> None:
        items, size = (8, 24) if quick else (32, 96)
        torch.manual_seed(0)
        config = TrainConfig(
            steps=1000, batch_size=items, optimizer=OptimizerConfig(lr=0.01), **options
        )
        backbone = BackboneConfig(name="small" if quick else "resnet18", norm_groups=PARTS)
        queues = {"queue": 256, "cycle_queue": 512, "support": 128} if quick else {}
        self.system = CycleContrast(
            CycleContrastConfig(backbone=backbone, head=HeadConfig(out=128), **queues)
        ).train()
        generator = torch.Generator().manual_seed(0)
        ids = torch.arange(items)
        self.batch = Batch(
            ids=ids,
            index=ids,
            group=ids,
            views={
                view: View(data=torch.randn(items, 1, 3, size, size, generator=generator))
                for view in ("query", "key", "candidate")
            },
        )
        self.stepper = Stepper(self.system, config, RunFolder.create(room / name, config))
        self.at = 0

    def __call__(self) -> float:
        """One step; its loss."""
        context = StepContext(step=self.at, steps=1000)
        (phase,) = self.stepper.phases()
        output, _, applied = self.stepper.step(self.batch, phase, context, {"all": 0.01})
        self.at += 1
        if not applied:
            raise WrongResult("a step was not finite")
        return float(output.loss.detach())


def close(ours: float, peer: float) -> None:
    """Two losses of the same step agree."""
    if abs(ours - peer) > 1e-3 * max(abs(peer), 1.0):
        raise WrongResult(f"losses {ours} and {peer}")


def share(part: float, whole: float) -> float:
    """What a part leaves of the whole."""
    return 1 - part / whole


def memory(step: Step) -> Case:
    """Momentum copy and queues."""
    pair = step.system.encoders
    width = step.system.queue.dim
    keys = nn.functional.normalize(torch.randn(len(step.batch), width), dim=1)

    def update() -> tuple[float, tuple[list[Tensor], list[Tensor]]]:
        m, before = pair.momentum.momentum, [p.clone() for p in pair.momentum.module.parameters()]
        step.system._fresh = ({"m": keys, "c": keys}, step.batch.group)
        began = time.perf_counter()
        step.system.after_step(True)
        taken = time.perf_counter() - began
        online = list(pair.online.parameters())
        wanted = [k * m + q.detach() * (1 - m) for k, q in zip(before, online, strict=True)]
        return taken, ([p.clone() for p in pair.momentum.module.parameters()], wanted)

    def same(found: tuple[list[Tensor], list[Tensor]], _: float) -> None:
        for mine, wanted in zip(*found, strict=True):
            if not torch.allclose(mine, wanted, rtol=1e-5, atol=1e-7):
                raise WrongResult("the momentum copy is not the average")
        queue = step.system.queue
        if not (queue.features[: queue.filled] == keys[0]).all(1).any():
            raise WrongResult("the queue does not hold the keys")

    return Case(
        name="step/memory",
        ours=update,
        peer=lambda: timed(step),
        peer_name="the whole step",
        same=same,
        at_least=0.99,
        why="one pass over the weights and 64 rows, beside five passes of the encoder",
        measure=told,
        combine=share,
    )


def timed(step: Step) -> tuple[float, float]:
    began = time.perf_counter()
    loss = step()
    return time.perf_counter() - began, loss


def finite(step: Step) -> Case:
    """The check that loss and gradient are finite."""
    trained = [p for p in step.system.parameters() if p.requires_grad]
    loss = torch.tensor(1.0)

    def check() -> tuple[float, bool]:
        began = time.perf_counter()
        norm = gradient_norm(trained)
        applied, _ = step.stepper._finite(loss, norm)
        return time.perf_counter() - began, applied

    def same(applied: bool, _: float) -> None:
        if not applied:
            raise WrongResult("a finite step was refused")

    step()  # leaves gradients
    return Case(
        name="step/finite",
        ours=check,
        peer=lambda: timed(step),
        peer_name="the whole step",
        same=same,
        at_least=0.99,
        why="one pass over the gradients",
        measure=told,
        combine=share,
    )


def accumulate(room: Path, quick: bool) -> Iterator[Case]:
    """Four parts against one: time and memory."""
    for what, measure, least, unit in (
        ("time", None, 0.75, "s"),
        ("memory", peak_mib, 2.0, "MiB"),
    ):
        parts = Step(room, f"parts-{what}", quick, accumulate=PARTS)
        yield Case(
            name=f"step/accumulate/{what}",
            ours=parts,
            peer=Step(room, f"whole-{what}", quick),
            peer_name="the whole step",
            same=close,
            at_least=least,
            why="one more forward pass of the queries" if unit == "s" else "a quarter of the rows",
            unit=unit,
            **({"measure": measure} if measure else {}),
        )


def compiled(room: Path) -> Case:
    """What ``auto`` has chosen against eager."""
    auto = Step(room, "auto", False, compile="auto")
    eager = Step(room, "eager", False)
    for _ in range(2 * MEASURED + 3):
        auto()
        eager()
    # Rounding apart, small differences grow over the steps: the checked step begins alike.
    eager.system.load_state_dict(auto.system.state_dict())
    return Case(
        name="step/compile",
        ours=auto,
        peer=eager,
        peer_name="eager",
        same=close,
        at_least=0.95,
        why="compiled is switched off where it is slower",
    )


def lars(quick: bool) -> Case:
    """Multi-tensor LARS against a loop."""
    torch.manual_seed(0)
    width = 16 if quick else 512
    ours = nn.Sequential(*(nn.Linear(width, width) for _ in range(40)))
    peer = copy.deepcopy(ours)
    for a, b in zip(ours.parameters(), peer.parameters(), strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    optimizer = Lars(ours.parameters(), lr=0.1, weight_decay=1e-4)
    velocity = {p: torch.zeros_like(p) for p in peer.parameters()}

    def step() -> list[Tensor]:
        optimizer.step()
        return [p.detach().clone() for p in ours.parameters()]

    @torch.no_grad()
    def loop() -> list[Tensor]:
        for p in peer.parameters():
            assert p.grad is not None
            g = p.grad + 1e-4 * p
            v = velocity[p]
            v.mul_(0.9).add_(g * (1e-3 * p.norm() / g.norm()), alpha=0.1)
            p.sub_(v)
        return [p.detach().clone() for p in peer.parameters()]

    def same(mine: list[Tensor], theirs: list[Tensor]) -> None:
        if not all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True)):
            raise WrongResult("the weights differ")

    return Case(
        name="step/lars",
        ours=step,
        peer=loop,
        peer_name="a loop over the parameters",
        same=same,
        at_least=0.95,
        why="the same arithmetic",
    )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    step = Step(room, "plain", quick)
    yield memory(step)
    yield finite(step)
    yield from accumulate(room, quick)
    if not quick:  # building the graphs takes minutes
        yield compiled(room)
    yield lars(quick)
    yield from lightly_step.cases(room, quick)
