"""Where a training starts from: given weights of the backbone instead of drawn ones.

They are read and checked once, before the run's folder is made. The folder keeps its own copy, so
that other processes, another machine and a run that died before its first checkpoint start from
the same numbers, and the file itself is never read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from rhyme.api.encoder import encoder_of
from rhyme.config import diff
from rhyme.encoders import Backbone, BackboneConfig, load_state_file
from rhyme.encoders.names import by_kind, listed
from rhyme.encoders.recognise import difference, flags
from rhyme.encoders.weights import check_finite, check_fit, file_hash, read_safetensors, told
from rhyme.errors import ConfigError, PackageError, RunError
from rhyme.run import RunFolder, atomic_write
from rhyme.systems import System
from rhyme.training.checkpoint import steps_on_disk

INITIAL = "initial.safetensors"


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights to start from.

    Attributes:
        state: the backbone's state, under its own names.
        told: where they come from, what was taken and what was not, in a line.
        facts: the same as plain data, for the events.
    """

    state: dict[str, Tensor]
    told: str
    facts: dict[str, Any]


def read_initial(source: str | Path, system: System) -> Initial:
    """Weights for a system's backbone: of a file, an encoder package or a run folder.

    Heads, queues and all else start afresh.

    Args:
        source: a file (see :func:`rhyme.encoders.load_state_file`) or a folder.
        system: the system, whose backbone is given the weights.

    Raises:
        PackageError: they do not fit the backbone, in names or shapes, which are told, or are not
            finite.
        RunError: there is no such folder.
        ConfigError: the system has no encoder.
    """
    backbone = _backbones(system)[0]
    path = Path(source)
    if path.is_dir():
        package = encoder_of(path)
        state = package.module.state_dict()
        try:
            check_fit(backbone.state_dict(), state, path, backbone.config.name)
        except PackageError as error:
            theirs = flags(difference(package.config, backbone.config))
            error.remedy = f"give the backbone that they are of: {theirs}"
            raise
        check_finite(state, path)
        backbone.load_state_dict(state)
        heads = {name: head.state_dict() for name, head in package.heads.items()}
        facts: dict[str, Any] = {
            "sha256": package.hash,
            "entries": len(state),
            "options": _options(package.config, backbone.config),
            "left_out": by_kind(f"heads.{h}.{name}" for h in heads for name in heads[h]),
        }
    else:
        report = load_state_file(backbone, path)
        facts = {"sha256": file_hash(path), **report.facts()}
    line = f"{path}, SHA-256 {facts['sha256'][:12]}: {told(facts)}"
    if facts.get("options"):
        line += f"; trained with other options: {listed(facts['options'])}"
    elif not path.is_dir() and (unlike := _unlike(backbone)):
        line += f"; {unlike}; a file does not say which it was trained with"
    return Initial(
        state=backbone.state_dict(),
        told=line,
        facts={"weights": str(path), **facts, "initial_weights": line},
    )


def keep_initial(run: RunFolder, initial: Initial) -> None:
    """Put a copy into a new run's folder, and the facts into its events."""
    tensors = {name: t.detach().contiguous().clone() for name, t in initial.state.items()}
    atomic_write(run.path / INITIAL, safetensors.torch.save(tensors, {"format": "pt"}))
    run.event("initialised", **initial.facts)


def start_from(run: RunFolder, system: System) -> None:
    """Give a run's weights to a fresh system: to the backbone and all copies of it.

    A run that has checkpoints goes on from them, and nothing is read.

    Raises:
        RunError: the run's copy is missing.
        PackageError: it is damaged.
    """
    if steps_on_disk(run.checkpoints):
        return
    path = run.path / INITIAL
    if not path.is_file():
        raise RunError(
            "the weights that the run starts from are missing in its folder",
            file=path,
            stage="train",
            remedy="start a new run with --init",
        )
    state = read_safetensors(path.read_bytes(), path)
    for backbone in _backbones(system):
        check_fit(backbone.state_dict(), state, path, backbone.config.name)
        backbone.load_state_dict(state)


def _backbones(system: System) -> list[Backbone]:
    """The backbone that the system exports, and its momentum copies."""
    export = system.exports().get("encoder")
    module = None if export is None else getattr(export.module, "backbone", export.module)
    if not isinstance(module, Backbone):
        raise ConfigError(
            "the system has no backbone that weights could be given to",
            stage="train",
            value=type(system).__name__,
            remedy="leave --init out",
        )
    found = [m for m in system.modules() if isinstance(m, Backbone) and m.config == module.config]
    return [module, *(m for m in found if m is not module)]


def _options(theirs: BackboneConfig, ours: BackboneConfig) -> list[str]:
    """Options of the backbone that differ and change what the same weights compute."""
    changed = diff(theirs, ours)
    changed.pop("norm_groups", None)
    return [f"{key} {old} instead of {new}" for key, (old, new) in changed.items()]


def _unlike(backbone: Backbone) -> str:
    """Options that change what given weights compute and are not the network's own, in a line."""
    own = {**backbone.own, "dilations": BackboneConfig().dilations}
    own.pop("widths", None)  # weights of others have other shapes
    words: list[str] = []
    for name, theirs in own.items():
        if (ours := getattr(backbone.config, name)) != theirs:
            words.append(
                f"{name} {[*ours]} are not the own of '{backbone.config.name}', {[*theirs]}"
            )
    return ", ".join(words)
