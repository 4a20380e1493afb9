"""Names of weights: whose they are, under which prefix, and how many are told in a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rhyme.errors import printable

# Names under which training code stores the network that is meant. A momentum copy
# ("encoder_k", "teacher") is deliberately none of them.
_WRAPPERS = frozenset(
    {
        "module",
        "model",
        "backbone",
        "base_network",
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
    **dict.fromkeys(("linear", "final_fc", "fc7", "fc8"), _HEAD),
    **dict.fromkeys(("encoder_k", "key_encoder", "momentum_encoder", "teacher"), _COPY),
    **dict.fromkeys(("target", "target_encoder", "ema", "model_ema"), _COPY),
    **dict.fromkeys(("queue", "queue_ptr", "memory_bank"), _QUEUE),
    **dict.fromkeys(("optimizer", "lr_scheduler", "scaler"), "optimizer's state"),
}
_DEEPEST = 32  # parts of a name that are told apart; a hostile file may have names of thousands


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What of a file is meant for a module.

    Attributes:
        prefix: what stands before the module's own names, e.g. ``"module.encoder_q."``.
        entries: the module's entries under its own names, and any that nobody knows.
        left: names in the file of what belongs to other parts.
    """

    prefix: str
    entries: dict[str, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def choose(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Chosen:
    """Take out of a file's entries those that are meant for a module.

    Wrappers around the module's names are found and taken off; classifiers, momentum copies,
    queues, and parts that stand beside a named wrapper, are left out.

    Args:
        state: the file's entries.
        wanted: the state of the module.
    """
    prefix = _find_prefix(state, wanted)
    whole = _whole(prefix)
    chosen = Chosen(prefix=prefix)
    for name, tensor in state.items():
        own = name.removeprefix(prefix) if name.startswith(prefix) else None
        # a part beside a named one is no piece of it; beside a wrapper of everything is nothing
        apart = own is None and name.startswith(whole) and prefix != whole
        if own is not None and own in wanted:
            chosen.entries[own] = tensor
        elif apart or (own is None and name in wanted) or _kind(name if own is None else own):
            chosen.left.append(name)
        else:
            chosen.entries[name if own is None else own] = tensor  # too much
    return chosen


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names in one line, the first ``most`` of them and the number of the others."""
    every = sorted(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def grouped(names: Iterable[str], most: int = 4000) -> str:
    """Every name in one line, what they share written once, as a shell expands braces.

    Args:
        names: e.g. ``layer1.0.bn1.bias``, ``layer1.0.bn2.bias``, ``layer1.1.bn1.bias``,
            ``layer1.1.bn2.bias``.
        most: letters; of names without any order the end is cut off, and their number told.

    Returns:
        E.g. ``layer1.{0,1}.{bn1,bn2}.bias``.
    """
    tree = _Tree()
    every = {printable(name) for name in names}
    for name in every:
        node = tree
        for part in name.split(".", _DEEPEST):
            node = node.setdefault(part, _Tree())
        node[""] = _Tree()  # a name ends here
    text = ", ".join(_branches(tree))
    return text if len(text) <= most else f"{text[:most]} ... ({len(every)} names)"


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


class _Tree(dict[str, "_Tree"]):
    """Names part by part; an empty part is an end."""


def _branches(tree: _Tree) -> list[str]:
    """What begins at a node: each ending once, behind all parts that have it."""
    by_ending: dict[str, list[str]] = {}
    for part in sorted(tree, key=lambda part: (_number(part), part)):
        if part:
            by_ending.setdefault(_ending(tree[part]), []).append(part)
    return [_either(parts) + ending for ending, parts in by_ending.items()]


def _ending(below: _Tree) -> str:
    """What follows a part."""
    branches = _branches(below)
    text = f".{_either(branches)}" if branches else ""
    return f"{{,{text}}}" if text and "" in below else text


def _either(parts: list[str]) -> str:
    """One of some parts: ``{a,b}``, whole numbers in a row ``{0..5}``."""
    if len(parts) == 1:
        return parts[0]
    first, last = _number(parts[0]), _number(parts[-1])
    if len(parts) == last - first + 1 > 2 and parts == [str(i) for i in range(first, last + 1)]:
        return f"{{{first}..{last}}}"
    return "{" + ",".join(parts) + "}"


def _number(part: str) -> int:
    return int(part) if part.isdecimal() and len(part) < 9 else 1 << 30
