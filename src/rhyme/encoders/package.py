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

import hashlib
import json
import math
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from rhyme.config import from_dict, to_dict
from rhyme.encoders.backbone import Backbone, BackboneConfig, build_backbone
from rhyme.encoders.card import render_card
from rhyme.encoders.compose import EncoderWithHeads
from rhyme.encoders.features import InferencePlan
from rhyme.encoders.heads import Head, HeadConfig
from rhyme.encoders.weights import check_fit, listed, read_safetensors, refuse_pickle
from rhyme.errors import ConfigError, PackageError
from rhyme.run import atomic_write, fsync_directory, to_json

FORMAT_VERSION = 1
WEIGHTS, CONFIG, PLAN, CARD = "weights.safetensors", "config.json", "inference.json", "README.md"
_HASHED = (WEIGHTS, CONFIG, PLAN)
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
_COPY_AGAIN = "copy or download the package again"


@dataclass(frozen=True, kw_only=True)
class EncoderPackage:
    """A loaded package.

    Attributes:
        module: the backbone, in evaluation mode.
        config: its configuration.
        plan: how it wants its input.
        card: the card's entries.
        hash: SHA-256 over weights, configuration and plan, in hexadecimal: the package's identity.
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
    _check_plan(plan)
    backbone = module.backbone if isinstance(module, EncoderWithHeads) else module
    heads = _heads_of(module)
    state = _storable(backbone, heads, target)
    described = {
        name: {"config": to_dict(h.config), "in_dim": h.in_dim, "norm_groups": h.norm_groups}
        for name, h in heads.items()
    }
    files = {
        WEIGHTS: safetensors.torch.save(state, {"format": "pt"}),
        PLAN: _dump(to_dict(plan)),
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
    config["sha256"] = {name: _sha(files[name]) for name in (WEIGHTS, PLAN)}
    config["sha256"]["config"] = _sha(_dump(config))
    files[CONFIG] = _dump(config)
    lines = {
        name: f"{h.config.layers} layers, {h.in_dim} to {h.out_dim}" for name, h in heads.items()
    }
    text = render_card(card or {}, backbone.config, plan, kind=kind, heads=lines)
    files[CARD] = text.encode("utf-8", "backslashreplace")
    write_folder(target, files, overwrite=overwrite)
    return _identity(files)


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
    files = _read_files(folder)
    config = _checked_config(files, folder)
    path = folder / CONFIG
    try:
        backbone_config = from_dict(BackboneConfig, config["backbone"])
        plan = from_dict(InferencePlan, json.loads(files[PLAN]))
        _check_plan(plan)
        # On the meta device nothing is allocated and no random number is drawn.
        with torch.device("meta"):
            backbone = build_backbone(backbone_config)
            heads = {
                name: Head(
                    from_dict(HeadConfig, facts["config"]), facts["in_dim"], facts["norm_groups"]
                )
                for name, facts in cast(dict[str, Any], config["heads"]).items()
            }
        kind, card, extra = str(config["kind"]), {**config["card"]}, {**config["extra"]}
    except _UNBUILDABLE as error:
        raise PackageError(
            f"the package cannot be rebuilt: {error}",
            file=path,
            stage="load package",
            remedy="update rhyme: the package may be newer than this version",
        ) from error
    both = _joined(backbone, heads)
    tensors = read_safetensors(files[WEIGHTS], folder / WEIGHTS)
    check_fit(both, tensors, folder / WEIGHTS)
    both.to_empty(device=device)
    both.load_state_dict(tensors, strict=True)
    both.eval()
    return EncoderPackage(
        module=backbone,
        config=backbone_config,
        plan=plan,
        card=card,
        hash=_identity(files),
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
    """
    config = source.config if isinstance(source, EncoderPackage) else source
    return build_backbone(config, seed=seed).eval()


def check_target(target: Path, overwrite: bool) -> None:
    """Make sure that a package may be written to ``target``.

    Raises:
        PackageError: something stands there that may not be replaced.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise PackageError(
            "the folder exists and is not empty",
            file=target,
            remedy="choose another folder, or pass overwrite=True to replace the package",
        )
    if not (target / CONFIG).is_file() or not (target / WEIGHTS).is_file():
        raise PackageError(
            "the folder is no encoder package, so it is not replaced",
            file=target,
            remedy="choose another folder",
        )


def write_folder(target: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write a folder of files that appears under its name complete or not at all.

    Args:
        target: the folder.
        files: contents by file name.
        overwrite: replace what is there; the old folder is moved aside first and deleted last.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    fresh, aside = (target.with_name(f".{target.name}.{word}-{token}") for word in ("new", "old"))
    fresh.mkdir()
    try:
        for name, data in files.items():
            atomic_write(fresh / name, data)
        if overwrite and target.exists():
            target.rename(aside)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    fsync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _heads_of(module: nn.Module) -> dict[str, Head]:
    if not isinstance(module, EncoderWithHeads):
        return {}
    return {name: module.head(name) for name in module.heads}


def _joined(backbone: Backbone, heads: Mapping[str, Head]) -> nn.Module:
    """Backbone and heads under the names of the file: heads beside the backbone's own parts."""
    joined = nn.Module()
    for name, part in backbone.named_children():
        joined.add_module(name, part)
    if heads:
        joined.add_module("heads", nn.ModuleDict(dict(heads)))
    return joined


def _storable(backbone: Backbone, heads: Mapping[str, Head], target: Path) -> dict[str, Tensor]:
    """The state as contiguous float32 tensors of their own."""
    state: dict[str, Tensor] = {}
    broken: list[str] = []
    for name, value in _joined(backbone, heads).state_dict().items():
        tensor = cast(Tensor, value).detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not bool(tensor.isfinite().all()):
                broken.append(name)
        state[name] = tensor.clone(memory_format=torch.contiguous_format)
    if broken:
        raise PackageError(
            f"the weights are not finite: {listed(broken)}",
            file=target,
            stage="save package",
            remedy="export an earlier checkpoint, and lower the learning rate",
        )
    return state


def _read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the three files that make the package."""
    if folder.is_file():
        refuse_pickle(folder)
    if not folder.is_dir():
        raise PackageError(
            "no such encoder package", file=folder, remedy="give the folder that save_package made"
        )
    files: dict[str, bytes] = {}
    for name in _HASHED:
        path = folder / name
        if not path.is_file():
            for other in sorted(folder.iterdir()):
                if name == WEIGHTS:
                    refuse_pickle(other)
            raise PackageError(f"the package has no {name}", file=folder, remedy=_COPY_AGAIN)
        files[name] = path.read_bytes()
    return files


def _checked_config(files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """Parse ``config.json`` and hold all files against the checksums in it."""

    def damaged(name: str) -> PackageError:
        return PackageError(
            f"{name} is damaged or was changed after it was written",
            file=folder / name,
            stage="load package",
            remedy=_COPY_AGAIN,
        )

    try:
        parsed = json.loads(files[CONFIG])
        whole = files[CONFIG] == _dump(parsed)
    except (ValueError, RecursionError) as error:
        raise damaged(CONFIG) from error
    if not isinstance(parsed, dict) or parsed.get("format") != "rhyme-encoder":
        raise PackageError(
            "config.json describes no rhyme encoder",
            file=folder / CONFIG,
            stage="load package",
            remedy="give the folder that save_package made",
        )
    config = cast(dict[str, Any], parsed)
    if config.get("format_version") != FORMAT_VERSION:
        raise PackageError(
            f"the package has format {config.get('format_version')!r}, not {FORMAT_VERSION}",
            file=folder / CONFIG,
            stage="load package",
            remedy="update rhyme",
        )
    sums = cast(Any, config.get("sha256"))
    if not isinstance(sums, dict) or not whole:
        raise damaged(CONFIG)
    kept = {name: value for name, value in cast(dict[str, Any], sums).items() if name != "config"}
    if _sha(_dump({**config, "sha256": kept})) != sums.get("config"):
        raise damaged(CONFIG)
    for name in (WEIGHTS, PLAN):
        if _sha(files[name]) != sums.get(name):
            raise damaged(name)
    return config


def _check_plan(plan: InferencePlan) -> None:
    """Refuse a plan that no picture can follow, or that would exhaust the memory."""
    numbers = [*plan.mean, *plan.std, plan.spacing]
    sound = (
        all(math.isfinite(n) for n in numbers)
        and all(s > 0 for s in plan.std)
        and all(1 <= n <= 8192 for n in (plan.size, plan.resize, plan.frames))
        and plan.spacing >= 0
    )
    if not sound:
        raise ConfigError("the inference plan cannot be followed", value=to_dict(plan))


def _dump(value: Any) -> bytes:
    """JSON that depends on the content alone."""
    text = json.dumps(json.loads(to_json(value)), indent=2, sort_keys=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _identity(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the three files, their names and lengths."""
    digest = hashlib.sha256()
    for name in _HASHED:
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()
