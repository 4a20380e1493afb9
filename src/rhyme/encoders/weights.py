"""Weights into modules: exactly, or not at all, and every name that does not fit is said."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone
from rhyme.encoders.names import by_kind, choose, grouped, listed
from rhyme.encoders.recognise import recognised
from rhyme.errors import PackageError

PICKLES = frozenset({".pt", ".pth", ".tar", ".ckpt", ".pkl", ".pickle", ".bin"})
"""Endings of files that may hold pickled objects."""

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
        problems.append(f"{len(absent)} missing: {grouped(absent)}")
    if extra := [name for name in tensors if name not in wanted]:
        problems.append(f"{len(extra)} unexpected: {grouped(extra)}")
    both = [name for name in wanted if name in tensors]
    bent: dict[str, list[str]] = {}
    for name in both:
        theirs, ours = ([*table[name].shape] for table in (tensors, wanted))
        if theirs != ours:
            bent.setdefault(f"{theirs} instead of {ours}", []).append(name)
    shaped = [name for names in bent.values() for name in names]
    if bent:
        shapes = "; ".join(f"{grouped(names)} {shapes}" for shapes, names in bent.items())
        problems.append(f"{len(shaped)} of another shape: {shapes}")
    kinds = [n for n in both if wanted[n].is_floating_point() != tensors[n].is_floating_point()]
    if kinds:
        problems.append(f"{len(kinds)} of another kind of number: {grouped(kinds)}")
    if problems:
        raise PackageError(
            f"the weights do not fit '{what}': " + "; ".join(problems),
            file=file,
            stage="load weights",
            remedy=_other_size({n: (wanted[n].shape, tensors[n].shape) for n in shaped}, side)
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


def check_finite(state: Mapping[str, Tensor], file: str | Path) -> None:
    """Make sure that every weight is a number.

    Args:
        state: the weights.
        file: where they come from, for messages.

    Raises:
        PackageError: infinite values or none at all, with the names.
    """
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise PackageError(
            f"{len(broken)} of the weights are not finite: {grouped(broken)}",
            file=file,
            stage="load weights",
            remedy="take weights of an earlier moment of their training",
        )


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
        PackageError: no such file, not a file of tensors, values that are not finite, or it does
            not fit; with names, and the backbone that would fit where that can be told.
    """
    path = Path(path)
    state, others = _read_state(path)
    stored, config = state, None
    what, side = type(module).__name__, 0
    if isinstance(module, Backbone):
        state = {module.renamed(name): tensor for name, tensor in state.items()}
        what, side = module.config.name, module.side
        config, module = module.config, module.inner
    wanted = cast(dict[str, Tensor], module.state_dict())
    chosen = choose(state, wanted)
    try:
        if wanted and not chosen.entries.keys() & wanted.keys():
            raise PackageError(
                f"none of the {len(state)} entries belongs to '{what}': nothing was loaded",
                file=path,
                stage="load weights",
                value=grouped(state),
                remedy=f"it is another network, or under another name; expected {grouped(wanted)}",
            )
        check_fit(wanted, chosen.entries, path, what, counters_optional=True, side=side)
    except PackageError as error:
        known = None if config is None else recognised(stored, config, path)
        if known is None:
            raise
        raise known from error
    check_finite(chosen.entries, path)
    module.load_state_dict(chosen.entries, strict=False)
    return LoadReport(
        loaded=len(chosen.entries),
        prefix=chosen.prefix,
        left_out=by_kind(chosen.left, others),
        not_there=tuple(sorted(wanted.keys() - chosen.entries.keys())),
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is refused is told below, in other words
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises whatever it meets in a damaged file
        raise _unread(path, str(error)) from error
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


def _unread(path: Path, said: str) -> PackageError:
    """The error of a file that is no table of tensors; PyTorch's words advise to run it."""
    alone = "save the weights alone where the file comes from: "
    alone += "torch.save(model.state_dict(), 'weights.pth')"
    if "TorchScript" in said:
        cause, value = "the file is a TorchScript program, which is never run", None
    elif objects := _objects(path, said):
        cause = "the file holds Python objects besides tensors, which are never run"
        if any(name.startswith("torch.nn.modules.") for name in objects):
            cause = "the file holds a whole model as a Python object, which is never run"
        value = grouped(objects)
    else:
        cause = "the file is damaged, or none that torch.save wrote"
        value, alone = f"{path.stat().st_size} bytes", "copy or download it again; or " + alone
    return PackageError(cause, file=path, stage="load weights", value=value, remedy=alone)


def _objects(path: Path, said: str) -> list[str]:
    """Classes and functions that a pickled file asks for, as far as that can be told."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above
        return re.findall(r"GLOBAL ([\w.]+)", said)[:1]  # a file in PyTorch's older form
