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
from rhyme.encoders.files import write_folder
from rhyme.errors import PackageError
from rhyme.run import to_json
from rhyme.systems.base import Export, System

FORMAT = 1
WEIGHTS, ABOUT = "weights.safetensors", "export.json"
Module = TypeVar("Module", bound=nn.Module)


def export_packages(
    system: System,
    folder: Path,
    card: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Write every export of a system.

    The one called ``encoder`` goes to ``encoder/`` if it is a backbone; all others go to
    ``exports/<name>/``. What was there is replaced as a whole: who reads meanwhile gets the old
    export or the new one.

    Args:
        system: the trained system.
        folder: the run's.
        card: what people should know of it.
        extra: plain data to keep in encoder packages.

    Returns:
        The folders by the exports' names.

    Raises:
        PackageError: weights are not finite, or the disk refuses; what was there stays.
    """
    written: dict[str, Path] = {}
    for name, export in system.exports().items():
        whole = is_package(export)
        path = folder / "encoder" if whole and name == "encoder" else folder / "exports" / name
        try:
            if whole:
                write_package(path, export, card, extra, overwrite=True)
            else:
                save_part(path, export, card)
        except OSError as error:
            raise PackageError(
                f"the export could not be written: {error.strerror or error}",
                file=path,
                stage="export",
                remedy="make room; checkpoints, and what was exported before, are intact",
            ) from error
        written[name] = path
    return written


def is_package(export: Export) -> bool:
    """Whether an export can be written as an encoder package."""
    return isinstance(export.module, Backbone | EncoderWithHeads) and export.plan is not None


def write_package(
    path: Path,
    export: Export,
    card: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write an export for which :func:`is_package` holds as an encoder package."""
    module, plan = export.module, export.plan
    assert isinstance(module, Backbone | EncoderWithHeads)
    assert plan is not None
    save_package(path, module, plan, kind=export.kind, card=card, extra=extra, overwrite=overwrite)


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
        "plan": None if export.plan is None else export.plan.facts(),
        "card": to_dict(dict(card or {})),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = to_json(about).encode("utf-8", "backslashreplace")
    write_folder(directory, {WEIGHTS: weights, ABOUT: text}, overwrite=True)


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
