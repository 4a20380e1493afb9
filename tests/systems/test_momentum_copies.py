"""Every momentum copy of every system follows its online encoder in every parameter."""

import pytest
import torch

from rhyme.memory import MomentumEncoder
from support.tiny_systems import CASES, build_tiny, memories


def copies(system) -> list[MomentumEncoder]:
    found = [system.get_submodule(name) for name in memories(system)]
    return [module for module in found if isinstance(module, MomentumEncoder)]


WITH_COPIES = [case for case in CASES if copies(build_tiny(case[0], **case[1]))]


@pytest.mark.parametrize(("name", "options"), WITH_COPIES)
def test_each_parameter_of_a_copy_follows(name, options) -> None:
    for copy in copies(build_tiny(name, **options)):
        followed = dict(copy.module.named_parameters())
        assert followed.keys() == dict(copy.online.named_parameters()).keys()
        assert float(copy.parameter_distance()) == 0
        for path, parameter in copy.online.named_parameters():
            with torch.no_grad():
                parameter += 0.5
            assert float(copy.parameter_distance()) > 0, f"{path} is not counted"
            copy.update(0.0)
            assert torch.equal(followed[path], parameter), f"{path} does not follow"


def test_there_are_systems_with_copies() -> None:
    assert {name for name, _ in WITH_COPIES} >= {"cycle_contrast", "densecl", "moco", "vfs"}
