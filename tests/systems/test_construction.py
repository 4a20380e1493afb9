"""What systems are built of: heads of any length, and encoders of the kind that they read."""

import pytest
import torch

from rhyme.encoders import HEAD_PRESETS, BackboneConfig, HeadConfig
from rhyme.errors import ConfigError
from rhyme.systems import SYSTEMS
from support.tiny_systems import BUILT, CASES, TINY, TINY_CLIP, at, batch_for, build_tiny

IDENTITY = HEAD_PRESETS["identity"]
WIDE = HeadConfig(layers=2, out=0)
QUEUED = {
    "moco": [{"head": IDENTITY}, {"head": WIDE}],
    "cycle_contrast": [{"head": IDENTITY}, {"head": WIDE, "separate_heads": False}],
    "densecl": [{"head": IDENTITY, "dense_head": IDENTITY}, {"head": WIDE}],
    "vfs": [{"negatives": True, "head": IDENTITY}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, all_ in QUEUED.items() for options in all_]
)
def test_queues_are_as_wide_as_the_head_is_built(name: str, options: dict) -> None:
    """An ``out`` of 0 stands for what the head reads, here the feature; so no head is one too."""
    system = build_tiny(name, **options)
    assert system.queue.dim == TINY.widths[-1] == 10
    batch = batch_for(system)
    assert torch.isfinite(system.training_step(batch, at(0)).loss)
    system.after_step(True)
    assert system.queue.filled == len(batch)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_encoder_of_the_wrong_kind_is_refused_where_a_system_is_built(
    name: str, options: dict
) -> None:
    clips = SYSTEMS[name].family == "clips"
    wrong = TINY if clips else TINY_CLIP
    needs, examples = ("clips", "small3d, r21d") if clips else ("frames", "small, resnet18")
    with pytest.raises(ConfigError, match=f"needs an encoder of {needs}") as caught:
        build_tiny(name, backbone=wrong, **options)
    assert caught.value.value == wrong.name
    assert f"model.backbone.name to {examples}" in str(caught.value.remedy)


def test_that_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the wrong kind may not even fit the system's other ones."""
    for name in BUILT:
        wrong = "resnet18" if SYSTEMS[name].family == "clips" else "torchvision:mvit_v2_s"
        with pytest.raises(ConfigError, match="needs an encoder of"):
            build_tiny(name, backbone=BackboneConfig(name=wrong))
