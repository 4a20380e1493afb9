"""One training step of ours against the same step built from lightly's losses and modules.

Compared: SimCLR, MoCo and DenseCL with a ResNet-18 at 96 pixels on 32 items, queues of 4,096, SGD,
float32; views are there already. Ours is the whole step of the training loop, with the check that
loss and gradient are finite and the diagnostics that are logged. The peer is what the examples of
lightly show: torchvision's ResNet-18 with our weights, lightly's heads, ``NTXentLoss`` with its
memory bank, ``update_momentum``, ``select_most_similar``, torch's SGD. Both see the two views of
SimCLR in one batch, so that batch norm is the same. The examples shuffle the keys of MoCo and
DenseCL (``batch_shuffle``), which on one device with one group of batch norm changes nothing; ours
leaves it out there, so the peer does too. Rows older than this sentence have the peer's shuffle.

- ``lightly/<system>``: time of a step.
- ``lightly/memory``: most memory that tensors hold at once in SimCLR's loss, forward and backward,
  of 8,192 pairs in 128 dimensions: lightly's over ours.

Checked: the losses of the first step agree to 1e-5. They part later: lightly's bank takes every
dense key, ours (as published) a picture's mean; and the momentum copies move at other moments.

Expected: at least 0.95 of lightly's speed, as the passes through the encoder are the same and cost
over nine tenths. At most an eighth of its memory: it holds four matrices of 8,192 x 8,192 logits
(1 GiB), copies without the diagonal, their concatenations and the softmax of all, about 4 GiB; ours
goes through them in tiles.
"""

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, peak_mib
from rhyme.encoders import HEAD_PRESETS, BackboneConfig, HeadConfig
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import nt_xent
from rhyme.run import RunFolder
from rhyme.systems import StepContext, System
from rhyme.systems.densecl import DenseCL, DenseCLConfig
from rhyme.systems.moco import Moco, MocoConfig
from rhyme.systems.simclr import Simclr, SimclrConfig
from rhyme.training import OptimizerConfig, TrainConfig
from rhyme.training.stepper import Stepper
from rhyme.views import View

RATE, MOMENTUM, TEMPERATURE = 0.01, 0.99, 0.2
HEAD = HeadConfig(layers=2, out=128)


class Ours:
    """A system's step; each call is the next of its run."""

    def __init__(self, system: System, views: dict[str, Tensor], room: Path) -> None:
        items = len(next(iter(views.values())))
        optimizer = OptimizerConfig(name="sgd", lr=RATE, momentum=0.9, weight_decay=0.0)
        config = TrainConfig(steps=1000, batch_size=items, optimizer=optimizer)
        ids = torch.arange(items)
        data = {name: View(data=pixels[:, None]) for name, pixels in views.items()}
        self.batch = Batch(ids=ids, index=ids, group=ids, views=data)
        self.stepper = Stepper(system.train(), config, RunFolder.create(room, config))
        self.at = 0

    def __call__(self) -> float:
        (phase,) = self.stepper.phases()
        at = StepContext(step=self.at, steps=1000)
        output, _, _ = self.stepper.step(self.batch, phase, at, {"all": RATE})
        self.at += 1
        return float(output.loss.detach())


class Theirs:
    """A step of lightly's parts.

    Args:
        online: modules that are trained.
        loss: of this step.
        after: what follows the optimiser.
    """

    def __init__(
        self,
        online: nn.Module,
        loss: Callable[[], Tensor],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.loss, self.after = loss, after
        self.optimizer = torch.optim.SGD(online.parameters(), lr=RATE, momentum=0.9)

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.after()
        return float(loss.detach())


def agree(ours: float, peer: float) -> None:
    """The losses of the first step."""
    if abs(ours - peer) > 1e-5 * abs(peer):
        raise WrongResult(f"losses {ours} and {peer}")


def trunk(ours: nn.Module) -> nn.Module:
    """torchvision's ResNet-18 up to its map, with our weights."""
    from torchvision.models import resnet18

    net = resnet18()
    net.fc = nn.Identity()
    net.load_state_dict(ours.state_dict())
    return nn.Sequential(*[*net.children()][:-2]).train()


def like(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """A head of lightly's with the weights of ours; an offset that ours lacks is zero."""
    mine = [m for m in ours.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d) or _norm(m)]
    own = [m for m in theirs.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d)]
    with torch.no_grad():
        for a, b in zip(own, mine, strict=True):
            for name, value in a.named_parameters():
                given = getattr(b, name, None)
                value.copy_(torch.zeros_like(value) if given is None else given)
    return theirs.train()


def _norm(module: nn.Module) -> bool:
    return type(module).__name__ == "GroupBatchNorm1d"


def _bank(criterion: nn.Module, queue: FeatureQueue) -> None:
    """The same negatives in lightly's bank."""
    bank = criterion.get_submodule("memory_bank")
    bank.get_buffer("bank").copy_(queue.features)
    bank.get_buffer("bank_ptr").zero_()


def simclr(room: Path, views: list[Tensor]) -> tuple[Ours, Theirs]:
    """Both sides of SimCLR."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    system = Simclr(
        SimclrConfig(
            backbone=BackboneConfig(name="resnet18"),
            head=HEAD_PRESETS["simclr"],
            temperature=TEMPERATURE,
        )
    )
    net = trunk(system.encoder.backbone)
    head = like(SimCLRProjectionHead(512, 512, 128), system.encoder.head("z"))
    criterion = NTXentLoss(temperature=TEMPERATURE)
    pixels = torch.cat(views)

    def loss() -> Tensor:
        return criterion(*head(net(pixels).mean((2, 3))).chunk(2))

    ours = Ours(system, dict(zip(("first", "second"), views, strict=True)), room)
    return ours, Theirs(nn.ModuleList([net, head]), loss)


def contrast(room: Path, views: list[Tensor], queue: int, dense: bool) -> tuple[Ours, Theirs]:
    """Both sides of MoCo, or of DenseCL."""
    from lightly.loss import NTXentLoss
    from lightly.models import utils
    from lightly.models.modules import DenseCLProjectionHead, MoCoProjectionHead

    options = {
        "backbone": BackboneConfig(name="resnet18"),
        "head": HEAD,
        "temperature": TEMPERATURE,
        "momentum": MOMENTUM,
        "queue": queue,
        "mask_same_group": False,
    }
    if dense:
        system = DenseCL(DenseCLConfig(**options, dense_head=HEAD, dense_queue=queue))
    else:
        system = Moco(MocoConfig(**options))
    pair = system.encoders
    kind = DenseCLProjectionHead if dense else MoCoProjectionHead
    online = nn.ModuleList(
        [trunk(pair.online.backbone), like(kind(512, 512, 128), pair.online.head("m"))]
    )
    criteria = [NTXentLoss(TEMPERATURE, (queue, 128))]
    _bank(criteria[0], system.queue)
    if dense:
        online.append(like(kind(512, 512, 128), pair.online.head("dense")))
        criteria.append(NTXentLoss(TEMPERATURE, (queue, 128)))
        _bank(criteria[1], system.dense_queue)
    keys = copy.deepcopy(online).requires_grad_(False)

    def read(modules: nn.ModuleList, pixels: Tensor) -> tuple[Tensor, ...]:
        map_ = modules[0](pixels)
        whole = modules[1](map_.mean((2, 3)))
        if not dense:
            return (whole,)
        cells = map_.flatten(2).transpose(1, 2)
        return whole, cells, modules[2](cells)

    def loss() -> Tensor:
        query = read(online, views[0])
        with torch.no_grad():
            key = read(keys, views[1])
        wholes = criteria[0](query[0], key[0])
        if not dense:
            return wholes
        matched = utils.select_most_similar(query[1], key[1], key[2])
        cells = criteria[1](query[2].flatten(end_dim=1), matched.flatten(end_dim=1))
        return 0.5 * (wholes + cells)

    def after() -> None:
        utils.update_momentum(online, keys, MOMENTUM)

    ours = Ours(system, dict(zip(("query", "key"), views, strict=True)), room)
    return ours, Theirs(online, loss, after)


def memory(quick: bool) -> Case:
    """SimCLR's loss alone, forward and backward."""
    from lightly.loss import NTXentLoss

    pairs = 256 if quick else 8192
    rows = functional.normalize(torch.randn(2, pairs, 128), dim=2)
    criterion = NTXentLoss(temperature=TEMPERATURE)

    def ours() -> tuple[float, Tensor]:
        leaf = rows.clone().requires_grad_()
        loss = nt_xent(leaf[0], leaf[1], temperature=TEMPERATURE).values.mean()
        loss.backward()
        assert leaf.grad is not None
        return float(loss.detach()), leaf.grad

    def theirs() -> tuple[float, Tensor]:
        leaf = rows.clone().requires_grad_()
        loss = criterion(leaf[0], leaf[1])
        loss.backward()
        assert leaf.grad is not None
        return float(loss.detach()), leaf.grad

    def same(mine: tuple[float, Tensor], their: tuple[float, Tensor]) -> None:
        agree(mine[0], their[0])
        # lightly normalises once more, which takes the part along the row out of the gradient
        along = (mine[1] * rows).sum(2, keepdim=True) * rows
        if not torch.allclose(mine[1] - along, their[1], rtol=1e-3, atol=1e-8):
            raise WrongResult("the gradients differ")

    return Case(
        name="step/lightly/memory",
        ours=ours,
        peer=theirs,
        peer_name="lightly NTXentLoss",
        same=same,
        at_least=1.0 if quick else 8.0,
        why="tiles in place of all logits at once",
        measure=peak_mib,
        unit="MiB",
    )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    """The three steps, then the memory of the loss; nothing where lightly is not installed."""
    if importlib.util.find_spec("lightly") is None:
        print("step/lightly: lightly is left out: not installed (make bench)", file=sys.stderr)
        return
    torch.manual_seed(0)
    items, size, queue = (4, 64, 256) if quick else (32, 96, 4096)
    views = [*torch.randn(2, items, 3, size, size)]
    for name in ("simclr", "moco", "densecl"):
        if name == "simclr":
            ours, theirs = simclr(room / name, views)
        else:
            ours, theirs = contrast(room / name, views, queue, name == "densecl")
        yield Case(
            name=f"step/lightly/{name}",
            ours=ours,
            peer=theirs,
            peer_name="lightly 1.6",
            same=agree,
            at_least=0.95,
            why="the same passes through the encoder, which are nearly all of a step",
        )
    yield memory(quick)
