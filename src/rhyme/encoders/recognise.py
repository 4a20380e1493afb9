"""Whose weights a file holds, where they do not fit the backbone that was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rhyme.encoders.backbone import build_backbone, without_numbers
from rhyme.encoders.backbone_config import (
    BACKBONES,
    NETWORK_OPTIONS,
    OWN,
    BackboneConfig,
    kind_of,
    own_name,
)
from rhyme.encoders.names import choose
from rhyme.errors import ConfigError, PackageError

_SHAPING = ("stem", "strides", "temporal_strides", "widths")  # they change names or shapes


def recognised(
    state: Mapping[str, Tensor], config: BackboneConfig, file: Path
) -> PackageError | None:
    """The error that says which backbone weights fit, None where none is found.

    The backbone itself with its own strides and the like is tried, then all others of rhyme's, and
    the networks of torchvision whose name stands in that of the file. Nothing is allocated.

    Args:
        state: all entries of the file.
        config: the backbone that they do not fit.
        file: where they come from.
    """
    default = BackboneConfig()
    own = replace(config, **{name: getattr(default, name) for name in _SHAPING})
    changed = [name for name in _SHAPING if getattr(config, name) != getattr(own, name)]
    if changed and _takes(own, state):
        with without_numbers():
            filled = build_backbone(own).config
        changed = [n for n in changed if getattr(config, n) != getattr(filled, n)]
        here = ", ".join(f"{name} {_text(getattr(config, name))}" for name in changed)
        return PackageError(
            f"the weights do not fit '{config.name}' with {here}, but with its own",
            file=file,
            stage="load weights",
            remedy="give " + flags({name: getattr(filled, name) for name in changed}),
        )
    others = (name for name in BACKBONES if name != own.name)
    fit = (name for name in others if _takes(replace(own, name=name, parts=()), state))
    name = next(fit, None) or next(_torchvision(state, file), None)
    if name is None:
        return None
    return PackageError(
        f"the weights are those of '{name}', and do not fit '{config.name}'",
        file=file,
        stage="load weights",
        remedy=f"give --model.backbone.name {name}; of an encoder off the shelf, --encoder {name}",
    )


def flags(options: Mapping[str, Any]) -> str:
    """Options of a backbone as the command line takes them."""
    words: list[str] = []
    for name, value in options.items():
        text = f'"{_text(value)}"' if isinstance(value, tuple) else _text(value)
        words.append(f"--model.backbone.{name} {text}")
    return " ".join(words)


def difference(theirs: BackboneConfig, ours: BackboneConfig) -> dict[str, Any]:
    """What has to be changed in a backbone's configuration for it to be another one.

    Args:
        theirs: the other one, its own values filled in.
        ours: the one that is changed, likewise; options of the network fall back to its own where
            the name is of another kind.
    """
    before, told = ours, {"name": theirs.name} if theirs.name != ours.name else {}
    if kind_of(theirs.name) != kind_of(ours.name):
        before = BackboneConfig(name=theirs.name, in_channels=ours.in_channels)
        if theirs.name in BACKBONES:
            with without_numbers():
                before = build_backbone(before).config
        # no shape would tell that the recipe has others for this name
        strides = {name: getattr(theirs, name) for name in ("strides", "temporal_strides")}
        told |= {name: value for name, value in strides.items() if value != OWN}
    return told | {
        name: getattr(theirs, name)
        for name in (*NETWORK_OPTIONS, "in_channels")
        if getattr(theirs, name) != getattr(before, name)
    }


def _text(value: Any) -> str:
    return str([*value] if isinstance(value, tuple) else value)


def _takes(config: BackboneConfig, state: Mapping[str, Tensor]) -> bool:
    """Whether a backbone would load the entries."""
    if config.name not in BACKBONES:
        return False
    try:
        with without_numbers():
            module = build_backbone(config)
    except ConfigError:
        return False
    return _is_of(module, {module.renamed(name): tensor for name, tensor in state.items()})


def _is_of(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    wanted: Mapping[str, Tensor] = module.state_dict()
    found = choose(state, wanted).entries
    missing = [name for name in wanted if name not in found]
    return all(name.endswith("num_batches_tracked") for name in missing) and all(
        name in wanted and wanted[name].shape == tensor.shape for name, tensor in found.items()
    )


def _torchvision(state: Mapping[str, Tensor], file: Path) -> Iterator[str]:
    """Networks of torchvision that the file is named after and that have its entries."""
    from torchvision import models  # seconds, and nothing else here needs it

    words = re.sub(r"[^a-z0-9]+", "_", file.name.lower())
    known = [name for name in models.list_models(module=models) if name in words]
    for name in sorted(known, key=len, reverse=True):
        try:
            with without_numbers():
                module = models.get_model(name, weights=None)
        except RuntimeError:  # a RegNet reads a number of itself while it is built
            continue
        if _is_of(module, state):
            yield own_name(f"torchvision:{name}")
