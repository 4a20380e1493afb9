"""The automatic same-group mask goes by groups, whatever they are cut into."""

import pytest

from rhyme.errors import DataError
from rhyme.systems import RunContext
from support.tiny_systems import build_tiny

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
