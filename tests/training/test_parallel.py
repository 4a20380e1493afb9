"""DDP and FSDP through the stepper: the gradient of the global batch, whatever takes part in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.loading.batch import Batch
from rhyme.run import RunFolder
from rhyme.systems.base import ParameterGroup, Phase, StepContext, StepOutput, System
from rhyme.training import OptimizerConfig, TrainConfig
from rhyme.training.environment import lay_out
from rhyme.training.parallel import Parallel, Replicated, Sharded, build_parallel, whole
from rhyme.training.stepper import Stepper
from rhyme.views.view import View
from support.tiny_systems import build_tiny

ITEMS = 8


class Parts(System):
    """Two phases, a part without use, a part that only some ranks use, a scale, and both sums."""

    def __init__(self, some: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.critic, self.unused = nn.Linear(3, 1), nn.Linear(3, 2)
        self.rare = nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.zeros(()))
        self.some = some
        self.double()

    def parameter_groups(self):
        names = {"net": (self.net, self.unused, self.rare), "critic": (self.critic,)}
        groups = {
            name: tuple(
                (f"{name}{i}.{n}", p) for i, m in enumerate(parts) for n, p in m.named_parameters()
            )
            for name, parts in names.items()
        }
        groups["net"] += (("scale", self.scale),)
        return tuple(ParameterGroup(name=n, parameters=p) for n, p in groups.items())

    def phases(self):
        return (
            Phase(name="judge", groups=("critic",), repeats=2),
            Phase(name="forge", groups=("net",)),
        )

    def training_step(self, batch, context):
        x = batch.views["x"].data
        values = self.net(x)
        if not self.some or bool((batch.ids == 0).any()):  # the present-mask case
            values = torch.where((batch.ids < 2)[:, None], values + self.rare(x), values)
        keys = distributed.gather(values, grad=True)
        spread = distributed.sum_all(values.square().sum(), grad=True)
        near = (values @ keys.T * self.scale).logsumexp(1)
        judged = self.critic(values)[:, 0].square()
        loss = distributed.mean(near + judged) + spread * 1e-3
        return StepOutput(loss=loss)

    def after_step(self, applied):
        self.seen += 1


def steps(folder: str, engine: str, optimizer: str, some: bool) -> dict[str, torch.Tensor]:
    """Three steps of both phases; every gradient and the state afterwards, whole."""
    path = Path(folder) / engine
    config = TrainConfig(
        steps=3,
        batch_size=ITEMS,
        clip_norm=0.7,
        parallel="fsdp" if engine == "fsdp" else "ddp",
        optimizer=OptimizerConfig(name=optimizer, lr=0.1),  # type: ignore[arg-type]
    )
    if distributed.rank() == 0:
        RunFolder.create(path, config)
    distributed.barrier()
    system = Parts(some)
    stepper = Stepper(system, config, RunFolder.open(path))
    if engine == "plain":  # our own average of the gradients after the backward pass
        stepper = Stepper(system := Parts(some), config, RunFolder.open(path))
        stepper.parallel = Parallel(system)
        stepper.parallel.finish = distributed.average_gradients  # type: ignore[method-assign]
    kind = {"plain": Parallel, "ddp": Replicated, "fsdp": Sharded}[engine]
    assert distributed.world_size() == 1 or type(stepper.parallel) is kind
    rows = distributed.rank_slice(ITEMS)
    found: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        for phase in system.phases():
            x = torch.randn(ITEMS, 5, generator=generator, dtype=torch.float64)[rows]
            ids = torch.arange(ITEMS)[rows]
            batch = Batch(ids=ids, index=ids, group=ids, views={"x": View(data=x, kind="array")})
            at = StepContext(step=step, steps=3, phase=phase.name)
            output, norm, applied = stepper.step(batch, phase, at, {"net": 0.1, "critic": 0.2})
            assert applied
            key = f"{step}/{phase.name}"
            found |= {f"{key}/loss": output.loss.detach().clone(), f"{key}/norm": norm}
            for group in stepper.groups.values():
                for name, p in group.parameters:
                    if p.grad is not None and group.name in phase.groups:
                        found[f"{key}/{group.name}/{name}"] = whole(p.grad).clone()
    with stepper.parallel.whole():
        found |= {f"state/{n}": t.clone() for n, t in system.state_dict().items()}
        assert type(system.net) is nn.Sequential
    assert not any(n.startswith("2/forge/net/net1") for n in found), "the unused part has none"
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("engine", ["plain", "ddp", "fsdp"])
def test_engines_give_the_gradient_of_one_rank(engine, optimizer):
    with tempfile.TemporaryDirectory() as folder:
        # Under FSDP all ranks have to use the same parts.
        some = engine != "fsdp"
        alone = steps(f"{folder}/alone", engine, optimizer, some)
        for found in run_on_ranks(steps, 2, folder, engine, optimizer, some):
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


def channels_last() -> str:
    system = lay_out(build_tiny("moco"), channels_last=True)
    return type(build_parallel(system, "fsdp")).__name__


def test_channels_last_weights_can_be_cut():
    assert run_on_ranks(channels_last, 2) == ["Sharded", "Sharded"]
