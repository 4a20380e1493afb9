"""One global batch has one loss, gradient, queue and momentum copy on 1, 2 and 4 ranks.

The test runs over every system that is built, with batch norm across the whole batch and in groups
with shuffling. A new system joins by an entry in ``support.tiny_systems.OPTIONS``.
"""

import pytest
import torch

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.systems import SYSTEMS
from support.tiny_systems import OPTIONS, TINY, at, build_tiny, make_batch

STEPS, ITEMS = 3, 8


def three_steps(system_id: str, groups: int, options: dict) -> dict[str, torch.Tensor]:
    """Three plain SGD steps on this rank's rows; all state and the gradients afterwards."""
    import dataclasses

    backbone = dataclasses.replace(TINY, norm_groups=groups)
    system = build_tiny(system_id, backbone=backbone, **options)
    rows = distributed.rank_slice(ITEMS)
    found: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        whole = make_batch(items=ITEMS, seed=step)
        batch = dataclasses.replace(
            whole,
            ids=whole.ids[rows],
            index=whole.index[rows],
            group=whole.group[rows],
            views={name: view[rows] for name, view in whole.views.items()},
        )
        parameters = [p for g in system.parameter_groups() for _, p in g.parameters]
        for parameter in parameters:
            parameter.grad = None
        output = system.training_step(batch, at(step))
        output.loss.backward()
        distributed.average_gradients(parameters)
        found[f"loss/{step}"] = output.loss.detach()
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                if parameter.grad is not None:
                    found[f"gradient/{step}/{number}"] = parameter.grad.clone()
                    parameter -= 0.1 * parameter.grad
        system.after_step(True)
    return found | {f"state/{name}": value.clone() for name, value in system.state_dict().items()}


CASES = [
    (name, groups, options)
    for name, variants in OPTIONS.items()
    for groups in (1, 4)
    for options in variants
]


def test_every_built_system_is_tested() -> None:
    assert set(OPTIONS) == {entry.id for entry in SYSTEMS.values() if entry.target}


@pytest.mark.parametrize(("system_id", "groups", "options"), CASES)
def test_ranks_agree(system_id: str, groups: int, options: dict) -> None:
    (alone,) = run_on_ranks(three_steps, 1, system_id, groups, options)
    assert any(name.startswith("gradient") for name in alone)
    for world in (2, 4):
        for rank, found in enumerate(run_on_ranks(three_steps, world, system_id, groups, options)):
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                if value.is_floating_point():
                    difference = (found[name] - value).abs().max().item() if value.numel() else 0
                    assert difference <= 1e-9, f"{name} on rank {rank} of {world}"
                else:
                    assert torch.equal(found[name], value), f"{name} on rank {rank} of {world}"
