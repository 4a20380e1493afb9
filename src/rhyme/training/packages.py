"""What leaves a run: encoders as packages, other trained parts as weights with a description.

A part that is no backbone cannot be rebuilt from a name and options, so its weights go into a
folder of two files, and whoever has the module loads them back with :func:`load_part`::

    exports/<name>/weights.safetensors
    exports/<name>/export.json          kind, class, plan, card, checksum of the weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rhyme.config import to_dict
from rhyme.encoders import Backbone, EncoderWithHeads, load_package, save_package
from rhyme.errors import PackageError
from rhyme.run import RunFolder, atomic_write, to_json
from rhyme.systems.base import Export, System

FORMAT = 1
WEIGHTS, ABOUT = "weights.safetensors", "export.json"
Module = TypeVar("Module", bound=nn.Module)


def export_packages(
    system: System,
    run: RunFolder,
    card: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Write every export of a system.

    The one called ``encoder`` goes to the run's ``encoder/`` if it is a backbone; all others go to
    ``exports/<name>/``. What an earlier part of the run wrote there is replaced.

    Args:
        system: the trained system.
        run: its folder.
        card: what people should know of it.
        extra: plain data to keep in encoder packages.

    Returns:
        The folders by the exports' names.
    """
    written: dict[str, Path] = {}
    for name, export in system.exports().items():
        module = export.module
        if isinstance(module, Backbone | EncoderWithHeads) and export.plan is not None:
            path = run.encoder if name == "encoder" else run.path / "exports" / name
            save_package(
                path,
                module,
                export.plan,
                kind=export.kind,
                card=card,
                extra=extra,
                overwrite=True,
            )
        else:
            path = run.path / "exports" / name
            save_part(path, export, card)
        written[name] = path
    return written


def save_part(directory: Path, export: Export, card: Mapping[str, Any] | None = None) -> None:
    """Write weights and description of an export that is no backbone.

    Raises:
        PackageError: the weights are not finite.
    """
    state = cast(Mapping[str, Tensor], export.module.state_dict())
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in state.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PackageError(
                "the weights are not finite", file=directory, stage="export", value=name
            )
    weights = safetensors.torch.save(tensors)
    kind = type(export.module)
    about = {
        "format": FORMAT,
        "kind": export.kind,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "plan": to_dict(export.plan),
        "card": to_dict(dict(card or {})),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    # The description goes last and carries the checksum: without it, or beside other weights, the
    # folder is refused.
    atomic_write(directory / WEIGHTS, weights)
    atomic_write(directory / ABOUT, to_json(about).encode("utf-8", "backslashreplace"))


def load_part(directory: str | Path, module: Module) -> Module:
    """Load the weights of :func:`save_part` into a module of the same build.

    Args:
        directory: the folder.
        module: takes the weights and goes to evaluation mode.

    Returns:
        The module.

    Raises:
        PackageError: the folder is missing or damaged, or the weights do not fit.
    """
    folder = Path(directory)
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
        expected = about["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackageError(
            "the folder holds no whole export", file=folder, stage="load export", value=str(error)
        ) from error
    if hashlib.sha256(weights).hexdigest() != expected:
        raise PackageError(
            "the weights were damaged or changed", file=folder / WEIGHTS, stage="load export"
        )
    try:
        module.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise PackageError(
            f"the weights do not fit a {type(module).__name__}",
            file=folder / WEIGHTS,
            stage="load export",
            value=str(error),
        ) from error
    return module.eval()


def load_module(path: str) -> nn.Module:
    """The module of an encoder package, in evaluation mode."""
    return load_package(Path(path)).module
