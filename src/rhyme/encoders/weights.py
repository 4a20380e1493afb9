"""Weights into modules: exactly, or not at all, and every name that does not fit is said."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
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
# Wrappers that hold everything that was stored: what stands outside of them is no other part.
_WHOLE = frozenset({"module", "_orig_mod"})
# What commonly stands beside a backbone and is none, by a part of its name.
_HEAD, _COPY, _QUEUE = "classifier or head", "momentum copy", "queue"
_KINDS = {
    **dict.fromkeys(
        ("fc", "head", "heads", "classifier", "projector", "projection_head", "predictor"), _HEAD
    ),
    **dict.fromkeys(("prototypes", "AuxLogits", "aux1", "aux2"), _HEAD),
    **dict.fromkeys(("encoder_k", "key_encoder", "momentum_encoder", "teacher"), _COPY),
    **dict.fromkeys(("target", "target_encoder", "ema", "model_ema"), _COPY),
    **dict.fromkeys(("queue", "queue_ptr", "memory_bank"), _QUEUE),
    **dict.fromkeys(("optimizer", "lr_scheduler", "scaler"), "optimizer's state"),
}
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
        left_out: names of the entries that are not the module's, by what they belong to:
            ``"classifier or head"``, ``"momentum copy"``, ``"queue"``, ``"optimizer's state"``,
            ``"other part"``, or ``"no tensor"`` for what is none.
        not_there: batch norm's counters of seen batches that the file lacks; they keep their value.
    """

    loaded: int
    prefix: str
    left_out: Mapping[str, tuple[str, ...]]
    not_there: tuple[str, ...] = ()

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of all that was left out."""
        return tuple(sorted(name for names in self.left_out.values() for name in names))

    def facts(self) -> dict[str, Any]:
        """All of it as plain data, for packages, rows and events."""
        return {
            "entries": self.loaded,
            "prefix": self.prefix,
            "left_out": {kind: list(names) for kind, names in self.left_out.items()},
            "not_there": list(self.not_there),
        }


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one line, the first ``most`` of them and the number of the others."""
    every = sorted(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def told(facts: Mapping[str, Any], most: int = 3) -> str:
    """What was taken of weights and what was not, in a line.

    Args:
        facts: those of :meth:`LoadReport.facts`.
        most: names of each kind before "and N more".
    """
    line = f"{facts['entries']} entries"
    line += f" under '{facts['prefix']}'" if facts.get("prefix") else ""
    kinds = cast(Mapping[str, Sequence[str]], facts["left_out"])
    if kinds:
        parts = [f"{kind}, {len(names)}: {listed(names, most)}" for kind, names in kinds.items()]
        count = sum(map(len, kinds.values()))
        line += f"; {count} are not the backbone's and left out ({'; '.join(parts)})"
    if facts.get("not_there"):
        names = facts["not_there"]
        line += f"; {len(names)} counters of batch norm are missing and start at zero: "
        line += listed(names, most)
    return line


def by_kind(names: Iterable[str], others: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """Names of what is not a backbone's by what it belongs to, both in order.

    Args:
        names: of entries that are tensors.
        others: of those that are none.
    """
    found: dict[str, list[str]] = {}
    for every, unknown in ((names, "other part"), (others, "no tensor")):
        for name in sorted(every):
            found.setdefault(_kind(name) or unknown, []).append(name)
    return {kind: tuple(found[kind]) for kind in sorted(found)}


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
    side: int = 0,
) -> None:
    """Make sure that ``tensors`` are the wanted state: names, shapes, kinds.

    Args:
        wanted: the state of the module.
        tensors: the state in the file.
        file: where it comes from, for messages.
        what: name of the module, for messages.
        counters_optional: let batch norm's counters of seen batches be missing.
        side: pixels of the pictures that the module's positions are for; 0 where it has none.

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
            remedy=_other_size({n: (wanted[n].shape, tensors[n].shape) for n in bent}, side)
            or "check that the backbone's name and options are those it was trained with",
        )


def _other_size(bent: Mapping[str, tuple[Sequence[int], Sequence[int]]], side: int) -> str | None:
    """What helps where positions alone do not fit: they are of pictures of another size."""
    if not side or not all("pos_embed" in name for name in bent):
        return None
    for own, other in bent.values():
        for prefix in range(6):  # tokens that stand for no place: class, registers
            grids = [math.isqrt(max(shape[-2] - prefix, 0)) for shape in (own, other)]
            square = [g * g + prefix == s[-2] for g, s in zip(grids, (own, other), strict=True)]
            if all(square) and all(grids) and side * grids[1] % grids[0] == 0:
                size = side * grids[1] // grids[0]
                return (
                    f"their positions are of pictures of {size} pixels: build it for those, by "
                    f"--size {size}, or as a backbone whose name ends in @{size}"
                )
    return None


def load_state_file(module: nn.Module, path: str | Path) -> LoadReport:
    """Initialise a module from a file of weights, whoever wrote it.

    Reads safetensors, and PyTorch files without running any code in them. Wrappers around the
    module's names (``module.``, ``backbone.``, ``encoder_q.`` ...) are found and taken off. Entries
    that are known to be of other parts (classifier, momentum copy, queue), and parts that stand
    beside a named wrapper, are left out and reported; any other that is too much is an error. All
    of the module must be in the file but for batch norm's counters, which files from before they
    came lack, and whose absence is reported.

    Args:
        module: what to initialise; unchanged if anything is wrong.
        path: the file, e.g. a torchvision or MoCo checkpoint.

    Returns:
        What was loaded and what was left out.

    Raises:
        PackageError: no such file, not a file of tensors, or it does not fit; with names.
    """
    path = Path(path)
    state, others = _read_state(path)
    what, side = type(module).__name__, 0
    if isinstance(module, Backbone):
        state = {module.renamed(name): tensor for name, tensor in state.items()}
        what, side, module = module.config.name, module.side, module.inner
    wanted = cast(dict[str, Tensor], module.state_dict())
    prefix = _find_prefix(state, wanted)
    whole = _whole(prefix)
    chosen: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in state.items():
        own = name.removeprefix(prefix) if name.startswith(prefix) else None
        # a part beside a named one is no piece of it; beside a wrapper of everything is nothing
        apart = own is None and name.startswith(whole) and prefix != whole
        if own in wanted:
            chosen[own] = tensor
        elif apart or (own is None and name in wanted) or _kind(name if own is None else own):
            left.append(name)
        else:
            chosen[name if own is None else own] = tensor  # too much, which is told below
    if wanted and not chosen.keys() & wanted.keys():
        raise PackageError(
            f"none of the {len(state)} entries belongs to '{what}': nothing was loaded",
            file=path,
            stage="load weights",
            value=listed(state),
            remedy=f"it is another network, or under another name; expected {listed(wanted, 3)}",
        )
    check_fit(wanted, chosen, path, what, counters_optional=True, side=side)
    module.load_state_dict(chosen, strict=False)
    return LoadReport(
        loaded=len(chosen),
        prefix=prefix,
        left_out=by_kind(left, others),
        not_there=tuple(sorted(wanted.keys() - chosen.keys())),
    )


def refuse_pickle(path: Path) -> None:
    """Refuse a file that may hold pickled objects where a package is expected.

    Raises:
        PackageError: the name has such an ending.
    """
    if path.suffix.lower() in PICKLES:
        raise PackageError("a pickled checkpoint is no encoder package", file=path, remedy=_CONVERT)


def _read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors of a file by name, and the names of what else stands there."""
    if not path.is_file():
        raise PackageError("no such file of weights", file=path, remedy="check the path")
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path.read_bytes(), path), []
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
    others: list[str] = []
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            others = [str(name) for name in content if name != nest]
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
    return state, [*others, *(str(name) for name in table if str(name) not in state)]


def _kind(name: str) -> str | None:
    """What an entry belongs to by its name, None if that is not known."""
    first = next((part for part in name.split(".") if part not in _WRAPPERS), "")
    return _KINDS.get(first)


def _whole(prefix: str) -> str:
    """The part of a prefix that wraps all that was stored."""
    parts = prefix.split(".")
    count = next(i for i, part in enumerate(parts) if part not in _WHOLE)
    return "".join(f"{part}." for part in parts[:count])


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
