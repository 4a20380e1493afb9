"""Weights into modules: exactly, or not at all, and every name that does not fit is said."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone
from rhyme.errors import PackageError

PICKLES = frozenset({".pt", ".pth", ".tar", ".ckpt", ".pkl", ".pickle", ".bin"})
"""Endings of files that may hold pickled objects."""

# Names under which training code stores the network that is meant. A momentum copy
# ("encoder_k", "teacher") is deliberately none of them.
_WRAPPERS = frozenset(
    {
        "module",
        "model",
        "backbone",
        "encoder",
        "encoder_q",
        "base_encoder",
        "net",
        "online",
        "student",
        "_orig_mod",
        "0",
    }
)
# Parts that commonly stand beside a bare backbone and are no backbone.
_BESIDE = (
    "fc.",
    "head.",
    "heads.",
    "classifier.",
    "projector.",
    "predictor.",
    "AuxLogits.",
    "aux1.",
    "aux2.",
)
_NESTS = ("state_dict", "model", "model_state_dict", "network")
_CONVERT = (
    "read it with rhyme.encoders.load_state_file(module, path), which runs no code, "
    "then write a package with save_package"
)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was taken out of a file of weights.

    Attributes:
        loaded: number of entries that were loaded.
        prefix: what stood before the module's own names, e.g. ``"module.encoder_q."``.
        ignored: names of the entries that belong to other parts (classifier, queue, momentum copy).
    """

    loaded: int
    prefix: str
    ignored: tuple[str, ...]


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one line, the first ``most`` of them and the number of the others."""
    every = sorted(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(data: bytes, file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        data: the file's bytes.
        file: its path, for messages.

    Raises:
        PackageError: the bytes are no sound safetensors file.
    """
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PackageError(
            "damaged safetensors file",
            file=file,
            stage="load weights",
            value=str(error)[:200],
            remedy="copy or download the file again",
        ) from error


def check_fit(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    file: str | Path,
    what: str,
    *,
    counters_optional: bool = False,
) -> None:
    """Make sure that ``tensors`` are the wanted state: names, shapes, kinds.

    Args:
        wanted: the state of the module.
        tensors: the state in the file.
        file: where it comes from, for messages.
        what: name of the module, for messages.
        counters_optional: let batch norm's counters of seen batches be missing.

    Raises:
        PackageError: something is missing, left over, or of another shape or kind; all named.
    """
    problems: list[str] = []
    absent = [name for name in wanted if name not in tensors]
    if counters_optional:
        absent = [name for name in absent if not name.endswith("num_batches_tracked")]
    if absent:
        problems.append(f"{len(absent)} missing: {listed(absent)}")
    if extra := [name for name in tensors if name not in wanted]:
        problems.append(f"{len(extra)} unexpected: {listed(extra)}")
    both = [name for name in wanted if name in tensors]
    if bent := [n for n in both if wanted[n].shape != tensors[n].shape]:
        told = [f"{n} {[*tensors[n].shape]} instead of {[*wanted[n].shape]}" for n in bent]
        problems.append(f"{len(bent)} of another shape: {listed(told)}")
    kinds = [n for n in both if wanted[n].is_floating_point() != tensors[n].is_floating_point()]
    if kinds:
        problems.append(f"{len(kinds)} of another kind of number: {listed(kinds)}")
    if problems:
        raise PackageError(
            f"the weights do not fit '{what}': " + "; ".join(problems),
            file=file,
            stage="load weights",
            remedy="check that the backbone's name and options are those it was trained with",
        )


def load_state_file(module: nn.Module, path: str | Path) -> LoadReport:
    """Initialise a module from a file of weights, whoever wrote it.

    Reads safetensors, and PyTorch files without running any code in them. Wrappers around the
    module's names (``module.``, ``backbone.``, ``encoder_q.`` ...) are found and taken off; entries
    of other parts are left out and reported. All of the module must be in the file.

    Args:
        module: what to initialise; unchanged if anything is wrong.
        path: the file, e.g. a torchvision or MoCo checkpoint.

    Returns:
        What was loaded and what was left out.

    Raises:
        PackageError: no such file, not a file of tensors, or it does not fit; with names.
    """
    path = Path(path)
    state = _read_state(path)
    what = type(module).__name__
    if isinstance(module, Backbone):
        state = {module.renamed(name): tensor for name, tensor in state.items()}
        what, module = module.config.name, module.inner
    wanted = cast(dict[str, Tensor], module.state_dict())
    prefix = _find_prefix(state, wanted)
    inside = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
    beside = {name for name in inside if name not in wanted and name.startswith(_BESIDE)}
    chosen = {name: tensor for name, tensor in inside.items() if name not in beside}
    if wanted and not chosen.keys() & wanted.keys():
        raise PackageError(
            f"none of the {len(state)} entries belongs to '{what}': nothing was loaded",
            file=path,
            stage="load weights",
            value=listed(state),
            remedy=f"it is another network, or under another name; expected {listed(wanted, 3)}",
        )
    # Files from before the counters came to batch norm lack them, and inference needs none.
    check_fit(wanted, chosen, path, what, counters_optional=True)
    module.load_state_dict(chosen, strict=False)
    ignored = [prefix + name for name in beside] + [n for n in state if not n.startswith(prefix)]
    return LoadReport(loaded=len(chosen), prefix=prefix, ignored=tuple(sorted(ignored)))


def refuse_pickle(path: Path) -> None:
    """Refuse a file that may hold pickled objects where a package is expected.

    Raises:
        PackageError: the name has such an ending.
    """
    if path.suffix.lower() in PICKLES:
        raise PackageError("a pickled checkpoint is no encoder package", file=path, remedy=_CONVERT)


def _read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    if not path.is_file():
        raise PackageError("no such file of weights", file=path, remedy="check the path")
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path.read_bytes(), path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise PackageError(
            "not a file of tensors: damaged, or with other objects inside, which are never run",
            file=path,
            stage="load weights",
            value=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            remedy="save only the state dict: torch.save(model.state_dict(), path)",
        ) from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    table = cast(Mapping[Any, Any], content if isinstance(content, Mapping) else {})
    state = {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
    if not state:
        raise PackageError(
            "the file holds no table of named tensors",
            file=path,
            stage="load weights",
            remedy="save the state dict: torch.save(model.state_dict(), path)",
        )
    return state


def _find_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The chain of wrappers under which most of the wanted names are found."""
    counts: dict[str, int] = {"": 0}
    for name in state:
        parts = name.split(".")
        depth = 0
        while True:
            if ".".join(parts[depth:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:depth])
                counts[prefix] = counts.get(prefix, 0) + 1
            if depth >= len(parts) or parts[depth] not in _WRAPPERS:
                break
            depth += 1
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix), prefix))
