"""Encoder packages: weights, configuration, inference plan and card in one folder.

Layout, readable without rhyme::

    weights.safetensors   the backbone under its own (torchvision's) names, heads as heads.<name>.*
    config.json           architecture, kind, card, and the checksums of everything
    inference.json        size, normalisation, which frames
    README.md             the model card for people

A package is written whole or not at all, and the same content gives the same bytes. It is data: no
part of it is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from rhyme.config import from_dict, to_dict
from rhyme.encoders.backbone import (
    Backbone,
    backbone_class,
    build_backbone,
    seeded,
    without_numbers,
)
from rhyme.encoders.backbone_config import BackboneConfig, DescribedConfig
from rhyme.encoders.card import render_card
from rhyme.encoders.compose import EncoderWithHeads
from rhyme.encoders.features import InferencePlan
from rhyme.encoders.files import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    PLAN,
    WEIGHTS,
    check_target,
    checked_config,
    dump_json,
    identity,
    read_files,
    seal,
    write_folder,
)
from rhyme.encoders.heads import Head, HeadConfig
from rhyme.encoders.names import grouped
from rhyme.encoders.weights import check_fit, read_safetensors
from rhyme.errors import ConfigError, PackageError

# What a configuration can raise that was written by another version, or in bad faith.
_UNBUILDABLE = (
    ConfigError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True, kw_only=True)
class EncoderPackage:
    """A loaded package.

    Attributes:
        module: the backbone, in evaluation mode.
        config: its configuration.
        plan: how it wants its input.
        card: the card's entries.
        hash: SHA-256 over weights, architecture and plan, in hexadecimal: the package's identity.
        directory: where it was read.
        kind: kind of export.
        heads: heads by name, in evaluation mode; usually none.
        extra: whatever else was stored.
    """

    module: Backbone
    config: BackboneConfig
    plan: InferencePlan
    card: Mapping[str, Any]
    hash: str
    directory: Path
    kind: str = "encoder"
    heads: Mapping[str, Head] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether anybody trained it: False for an off-the-shelf encoder with drawn weights."""
        return self.extra.get("weights", self) is not None

    def with_heads(self) -> EncoderWithHeads:
        """Backbone and heads as one module, in evaluation mode."""
        return EncoderWithHeads(self.module, self.heads).eval()


def save_package(
    directory: str | Path,
    module: Backbone | EncoderWithHeads,
    plan: InferencePlan,
    *,
    kind: str = "encoder",
    card: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> str:
    """Write an encoder package.

    Args:
        directory: the new folder.
        module: a backbone, or one with heads. Weights are stored in float32.
        plan: how it wants its input.
        kind: kind of export.
        card: what people should know of it; see :func:`rhyme.encoders.render_card`.
        extra: more plain data to keep with it.
        overwrite: replace a package that stands there already.

    Returns:
        The hash of the package.

    Raises:
        PackageError: the folder exists, or the weights are not finite.
        ConfigError: the plan or the card holds values that cannot be.
    """
    target = Path(directory)
    check_target(target, overwrite)
    files = package_files(module, plan, kind=kind, card=card, extra=extra, where=target)
    write_folder(target, files, overwrite=overwrite)
    return identity(files)


def package_files(
    module: Backbone | EncoderWithHeads,
    plan: InferencePlan,
    *,
    kind: str = "encoder",
    card: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    where: Path,
) -> dict[str, bytes]:
    """The files of a package by name; arguments and errors of :func:`save_package`."""
    _check_plan(plan)
    encoder = module if isinstance(module, EncoderWithHeads) else EncoderWithHeads(module, {})
    backbone, heads = encoder.backbone, {name: encoder.head(name) for name in encoder.heads}
    state = _storable(encoder, where)
    described = {
        name: {"config": to_dict(h.config), "in_dim": h.in_dim, "norm_groups": h.norm_groups}
        for name, h in heads.items()
    }
    files = {
        WEIGHTS: safetensors.torch.save(state, {"format": "pt"}),
        PLAN: dump_json(plan.facts()),
    }
    config: dict[str, Any] = {
        "format": "rhyme-encoder",
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "backbone": to_dict(backbone.config),
        "heads": described,
        "card": to_dict(dict(card or {})),
        "extra": to_dict(dict(extra or {})),
    }
    seal(files, config)
    lines = {
        name: f"{h.config.layers} layers, {h.in_dim} to {h.out_dim}" for name, h in heads.items()
    }
    text = render_card(card or {}, backbone.config, plan, kind=kind, heads=lines)
    files[CARD] = text.encode("utf-8", "backslashreplace")
    return files


def load_package(directory: str | Path, device: str | torch.device = "cpu") -> EncoderPackage:
    """Read a package and check every byte of it.

    Args:
        directory: the folder.
        device: where to put the weights.

    Raises:
        PackageError: it is missing, incomplete, damaged, changed by hand, of another format, or
            its weights do not fit its configuration (all names are listed).
    """
    folder = Path(directory)
    files = read_files(folder)
    config = checked_config(files, folder)
    path = folder / CONFIG
    try:
        described = "architecture" in config["backbone"]
        backbone_config = from_dict(
            DescribedConfig if described else BackboneConfig, config["backbone"]
        )
        plan = from_dict(InferencePlan, json.loads(files[PLAN]))
        _check_plan(plan)
        # On the meta device nothing is allocated, and weights that are read anyway are not drawn.
        empty = backbone_class(backbone_config.name).on_meta
        with without_numbers() if empty else seeded(0):
            backbone = build_backbone(backbone_config)
            heads = {
                name: Head(
                    from_dict(HeadConfig, facts["config"]), facts["in_dim"], facts["norm_groups"]
                )
                for name, facts in cast(dict[str, Any], config["heads"]).items()
            }
            encoder = EncoderWithHeads(backbone, heads)
        kind, card, extra = str(config["kind"]), {**config["card"]}, {**config["extra"]}
    except _UNBUILDABLE as error:
        raise PackageError(
            f"the package cannot be rebuilt: {error}",
            file=path,
            stage="load package",
            remedy="update rhyme: the package may be newer than this version",
        ) from error
    tensors = read_safetensors(files[WEIGHTS], folder / WEIGHTS)
    check_fit(_file_state(encoder), tensors, folder / WEIGHTS, backbone_config.name)
    encoder = encoder.to_empty(device=device) if empty else encoder.to(device)
    named = {n if n.startswith("heads.") else f"backbone.{n}": t for n, t in tensors.items()}
    encoder.load_state_dict(named, strict=True)
    encoder.eval()
    return EncoderPackage(
        module=backbone,
        config=backbone_config,
        plan=plan,
        card=card,
        hash=identity(files),
        directory=folder,
        kind=kind,
        heads=heads,
        extra=extra,
    )


def untrained(source: EncoderPackage | BackboneConfig | str, seed: int) -> Backbone:
    """The same architecture with fresh weights, in evaluation mode: the floor of a comparison.

    Args:
        source: a package, a configuration, or an id of a backbone.
        seed: of the weights; the global generator is left as it was.

    Returns:
        The backbone, on the device of the package, else on the CPU.
    """
    if isinstance(source, EncoderPackage):
        device = next(source.module.parameters()).device
        return build_backbone(source.config, seed=seed).eval().to(device)
    return build_backbone(source, seed=seed).eval()


def _file_state(encoder: EncoderWithHeads) -> dict[str, Tensor]:
    """The state under the names of the file: the backbone's own, heads as ``heads.<name>.*``."""
    state = cast(dict[str, Tensor], encoder.state_dict())
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def _storable(encoder: EncoderWithHeads, target: Path) -> dict[str, Tensor]:
    """The state as contiguous float32 tensors of their own."""
    state: dict[str, Tensor] = {}
    broken: list[str] = []
    for name, value in _file_state(encoder).items():
        tensor = value.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not bool(tensor.isfinite().all()):
                broken.append(name)
        state[name] = tensor.clone(memory_format=torch.contiguous_format)
    if broken:
        raise PackageError(
            f"the weights are not finite: {grouped(broken)}",
            file=target,
            stage="save package",
            remedy="export an earlier checkpoint, and lower the learning rate",
        )
    return state


def _check_plan(plan: InferencePlan) -> None:
    """Refuse a plan that no picture can follow, or that would exhaust the memory."""
    numbers = [*plan.mean, *plan.std, plan.spacing]
    sound = (
        all(math.isfinite(n) for n in numbers)
        and all(s > 0 for s in plan.std)
        and all(1 <= n <= 8192 for n in (plan.size, plan.resize, plan.frames))
        and plan.size <= plan.resize
        and plan.spacing >= 0
        and 0 <= plan.stride <= 65536
        and not (plan.stride and plan.spacing)
        and 1 / 8 <= (1.0 if plan.aspect is None else plan.aspect) <= 8
    )
    if not sound:
        raise ConfigError("the inference plan cannot be followed", value=plan.facts())
