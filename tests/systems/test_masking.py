"""The automatic same-group mask goes by groups, whatever they are cut into."""

import dataclasses

import pytest
import torch

from rhyme.errors import DataError
from rhyme.systems import RunContext
from support.tiny_systems import at, batch_for, build_tiny

QUEUED = {
    "moco": ({}, 24),
    "densecl": ({}, 28),
    "vfs": ({"negatives": True}, 24),
    "cycle_contrast": ({}, 30),
    "dual": ({"frames": 4, "base": "moco"}, 24),
    "lsfd": ({"frames": 4, "base": "moco"}, 24),
}
"""Options of a queue by system, and places of its longest one."""


@pytest.mark.parametrize("name", QUEUED)
def test_a_few_long_films_are_masked_however_many_segments_they_have(name: str) -> None:
    """Ten films fill a tenth of any queue each, with a thousand segments as with one."""
    options, places = QUEUED[name]
    system = build_tiny(name, **options)
    run = {"batch_size": 6, "steps": 10}
    system.setup(RunContext(items=1000 * places, groups=10, **run))
    assert system.mask_same_group
    system.setup(RunContext(items=1000 * places, groups=10 * places - 1, **run))
    assert system.mask_same_group
    system.setup(RunContext(items=1000 * places, groups=10 * places, **run))
    assert not system.mask_same_group
    with pytest.raises(DataError, match="nothing to contrast with"):
        system.setup(RunContext(items=1000 * places, groups=1, **run))


def test_systems_without_negatives_have_no_mask() -> None:
    for name, options in (("vfs", {}), ("cstp", {"frames": 4})):
        system = build_tiny(name, **options)
        system.setup(RunContext(items=6, groups=1, batch_size=6, steps=10))
        assert system.mask_same_group is None


IN_BATCH = {
    "simclr": {},
    "dual": {"frames": 4, "mode": "clip-tc"},
    "lsfd": {"frames": 4, "aggregator": "mlp"},
}
"""Systems whose negatives are the other items of a batch."""


@pytest.mark.parametrize("name", IN_BATCH)
def test_a_stand_in_is_no_negative_of_itself(name: str) -> None:
    """A damaged item's may be in the batch already, also where every item is its own group."""
    system = build_tiny(name, **IN_BATCH[name])
    batch = batch_for(system)
    system.setup(RunContext(items=6, groups=6, batch_size=6, steps=10))
    assert not system.mask_same_group
    twice = dataclasses.replace(
        batch, index=torch.tensor([0, 1, 2, 3, 4, 4]), group=torch.arange(6)
    )
    by_item = system.training_step(twice, at(0)).loss
    system.mask_same_group = True
    by_group = dataclasses.replace(batch, group=torch.tensor([0, 1, 2, 3, 4, 4]))
    assert torch.equal(by_item, system.training_step(by_group, at(0)).loss)
    assert not torch.equal(by_item, system.training_step(batch, at(0)).loss)
