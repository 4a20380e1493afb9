"""All state of a run as tensors with flat names and JSON values, and back, item by item.

An *item* is a tensor, or one top-level value of a part (``trainer``, ``source``, ``optimizer``,
``system``). The schema that goes into the checkpoint lists every item, so that one which is
missing, superfluous or altered is named before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rhyme import distributed
from rhyme.config import diff, to_dict
from rhyme.errors import CheckpointError
from rhyme.loading.batch import Source
from rhyme.systems.base import ParameterGroup, System
from rhyme.training.config import TrainConfig
from rhyme.training.parallel import as_slice, is_slice, role, slice_like


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON; tensors and arrays move to ``tensors`` and leave a reference.

    Tuples, whole-number keys, bytes, and floats that JSON has no word for come back as they were.

    Args:
        value: dicts, lists, tuples, strings, numbers, None, bytes, tensors and NumPy arrays.
        name: flat name of this value, the prefix of those within it.
        tensors: takes the tensors.

    Raises:
        CheckpointError: a value of another type, which only a pickle could hold.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return {"$array": _keep(torch.from_numpy(np.asarray(value)), name, tensors), "scalar": True}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, Tensor):
        return {"$tensor": _keep(value, name, tensors)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"$array": _keep(torch.from_numpy(np.ascontiguousarray(value)), name, tensors)}
    if isinstance(value, list | tuple):
        items = cast("list[Any] | tuple[Any, ...]", value)
        rows = [encode(item, f"{name}/{i}", tensors) for i, item in enumerate(items)]
        return rows if isinstance(value, list) else {"$tuple": rows}
    if isinstance(value, Mapping):
        table = cast(Mapping[Any, Any], value)
        if all(isinstance(key, str) and not key.startswith("$") for key in table):
            return {key: encode(item, f"{name}/{key}", tensors) for key, item in table.items()}
        if all(isinstance(key, int | str) and not isinstance(key, bool) for key in table):
            rows = [[key, encode(item, f"{name}/{key!r}", tensors)] for key, item in table.items()]
            return {"$pairs": rows}
    raise CheckpointError(
        f"state '{name}' cannot be saved: a {type(value).__name__} is no plain data",
        stage="save checkpoint",
        remedy="keep state as tensors, arrays, numbers, strings, lists and dicts",
    )


def _keep(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    if name in tensors:
        raise CheckpointError("two state items share a name", stage="save checkpoint", value=name)
    tensors[name] = tensor
    return name


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`encode` was given."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    table = cast(dict[str, Any], value)
    if "$tensor" in table:
        return tensors[table["$tensor"]]
    if "$array" in table:
        # A copy: arrays over a file's bytes would be read-only.
        array = tensors[table["$array"]].numpy().copy()
        return array[()] if table.get("scalar") else array
    if "$float" in table:
        return float(table["$float"])
    if "$bytes" in table:
        return bytes.fromhex(table["$bytes"])
    if "$tuple" in table:
        return tuple(decode(item, tensors) for item in table["$tuple"])
    if "$pairs" in table:
        return {key: decode(item, tensors) for key, item in table["$pairs"]}
    return {key: decode(item, tensors) for key, item in table.items()}


def references(value: Any) -> list[str]:
    """Names of the tensors that an encoded tree refers to."""
    if isinstance(value, list):
        return [name for item in cast(list[Any], value) for name in references(item)]
    if isinstance(value, dict):
        table = cast(dict[str, Any], value)
        if "$tensor" in table or "$array" in table:
            return [str(table.get("$tensor", table.get("$array")))]
        return [name for item in table.values() for name in references(item)]
    return []


def optimizer_state(optimizer: Optimizer, group: ParameterGroup) -> dict[str, Any]:
    """State of a group's optimiser by the parameters' names."""
    state = cast(Mapping[nn.Parameter, dict[str, Any]], optimizer.state)
    return {n: dict(state[p]) for n, p in group.parameters if state.get(p)}


def load_optimizer(optimizer: Optimizer, group: ParameterGroup, saved: Mapping[str, Any]) -> None:
    """Give a group's optimiser the state of :func:`optimizer_state`."""
    known = dict(group.parameters)
    optimizer.state.clear()
    for name, table in saved.items():
        if name not in known:
            raise CheckpointError(
                "superfluous state item", stage="resume", value=f"optimizer/{group.name}/{name}"
            )
        parameter = known[name]
        for key, value in table.items():
            # Whatever has the parameter's shape lies where it lies; the count of steps does not.
            if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step":
                value = slice_like(value, parameter)
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            optimizer.state[parameter][key] = value


def identity(system: System, config: TrainConfig) -> dict[str, Any]:
    """What a run *is*: the system with its options, and the training options that touch numbers."""
    own = getattr(system, "config", None)
    train = to_dict(config)
    found = {
        "system": type(system).__name__,
        "options": to_dict(own) if dataclasses.is_dataclass(own) else None,
        "train": {k: v for k, v in train.items() if k not in config.operational},
    }
    return encode(found, "config", {})


def data_facts(source: Source) -> dict[str, Any]:
    """What the data *is*."""
    return {"fingerprint": source.fingerprint, "items": source.items, "groups": source.groups}


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def collect(
    system: System,
    optimizers: Mapping[str, tuple[Optimizer, ParameterGroup]],
    source: Source,
    trainer: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All state of a run. On several ranks all of them call it together.

    Returns:
        Tensors by flat name, of which ranks may hold slices, and
        ``{"values": part -> name -> tree, "items": the schema}``.
    """
    roles = system.state_roles()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {"trainer": {}, "source": {}, "optimizer": {}, "system": {}}
    for name, value in cast(Mapping[str, Any], system.state_dict()).items():
        if isinstance(value, Tensor):
            if role(name, roles) == "sharded":
                value = as_slice(value, name)
            _keep(value, f"system/{name}", tensors)
        else:
            values["system"][name] = encode(value, f"system/{name}", tensors)
    for name, (optimizer, group) in optimizers.items():
        state = optimizer_state(optimizer, group)
        values["optimizer"][name] = encode(state, f"optimizer/{name}", tensors)
    for part, table in (("source", source.state_dict()), ("trainer", trainer)):
        for name, value in table.items():
            values[part][name] = encode(value, f"{part}/{name}", tensors)
    items: dict[str, dict[str, Any]] = {
        name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)}
        for name, t in tensors.items()
    }
    for part, table in values.items():
        items.update({_value_name(part, n): {"sha256": _sha(v)} for n, v in table.items()})
    for name, facts in items.items():
        part, _, own = name.partition("/")
        facts["role"] = role(own, roles) if part == "system" else "replicated"
    return tensors, {"values": values, "items": items}


def _value_name(part: str, name: str) -> str:
    """Item name of a value; the mark keeps it apart from a tensor of the same path."""
    return f"{part}/{name}:value"


def check_items(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Compare what a checkpoint holds with the schema it carries.

    Raises:
        CheckpointError: names the first item that is missing, superfluous or altered.
    """
    try:
        items = cast(dict[str, dict[str, Any]], state["items"])
        values = cast(dict[str, dict[str, Any]], state["values"])
        held: dict[str, Any] = {
            _value_name(part, name): value
            for part, table in values.items()
            for name, value in table.items()
        }
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            "the checkpoint has no schema of its items", stage="resume"
        ) from error
    _same_names("state item", set(items), set(tensors) | set(held))
    for name, facts in items.items():
        if name in held:
            whole = facts.get("sha256") == _sha(held[name])
        else:
            tensor = tensors[name]
            dtype = str(tensor.dtype).removeprefix("torch.")
            whole = facts.get("dtype") == dtype and facts.get("shape") == list(tensor.shape)
        if not whole:
            raise CheckpointError("a state item is not what its schema says", value=name)
    used = set(references(values)) | {n for n in tensors if n.startswith("system/")}
    _same_names("state item", used, set(tensors))


def _same_names(what: str, expected: set[str], found: set[str]) -> None:
    for cause, names in (("missing", expected - found), ("superfluous", found - expected)):
        if names:
            raise CheckpointError(
                f"{cause} {what}",
                stage="resume",
                value=sorted(names)[0] if len(names) == 1 else sorted(names)[:8],
                remedy="the checkpoint is of another version or was altered; start a new run",
            )


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuse a checkpoint of another configuration or of other data, with the difference.

    Raises:
        CheckpointError: lists every key that differs with both values.
    """
    # Compared by value: an option that a file turned from 200 into 200.0 is the same option.
    changed = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in diff(saved, now).items()]
    if changed:
        raise CheckpointError(
            f"the checkpoint is of another {what}",
            stage="resume",
            value=changed,
            remedy=f"resume with the same {what}, or start a new run",
        )


def restore(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    system: System,
    optimizers: Mapping[str, tuple[Optimizer, ParameterGroup]],
    source: Source | None,
    trainer: Mapping[str, Any],
) -> dict[str, Any]:
    """Load what :func:`collect` gave into fresh objects.

    All names are compared before anything is changed.

    Args:
        tensors: tensors by flat name.
        state: values and schema.
        system: the system, set up.
        optimizers: (optimiser, parameter group) by the group's name.
        source: the source; None leaves it where it is.
        trainer: the trainer's present values, for their names.

    Returns:
        The trainer's values.

    Raises:
        CheckpointError: names what is missing, superfluous or of another shape.
    """
    check_items(tensors, state)
    values = cast(dict[str, dict[str, Any]], state["values"])
    expected = {"trainer": set(trainer), "optimizer": set(optimizers)}
    if source is not None:
        expected["source"] = set(source.state_dict())
    for part, names in expected.items():
        _same_names(f"state item of the {part}", names, set(values.get(part, {})))
    restore_system(tensors, state, system)
    for name, (optimizer, group) in optimizers.items():
        load_optimizer(optimizer, group, decode(values["optimizer"][name], tensors))
    if source is not None:
        source.load_state_dict({n: decode(v, tensors) for n, v in values["source"].items()})
    return {n: decode(v, tensors) for n, v in values["trainer"].items()}


def restore_system(tensors: Mapping[str, Tensor], state: Mapping[str, Any], system: System) -> None:
    """Load the system's part of what :func:`collect` gave.

    Args:
        tensors: tensors by flat name.
        state: values and schema.
        system: the system, set up.

    Raises:
        CheckpointError: names what is missing, superfluous or of another shape.
    """
    values = cast(dict[str, dict[str, Any]], state["values"])
    fresh = cast(Mapping[str, Any], system.state_dict())
    _same_names(
        "state item of the system",
        {n for n, v in fresh.items() if not isinstance(v, Tensor)},
        set(values.get("system", {})),
    )
    nested = set(references(values.get("system", {})))
    found = {
        n.removeprefix("system/") for n in tensors if n.startswith("system/") and n not in nested
    }
    _same_names(
        "state item of the system", {n for n, v in fresh.items() if isinstance(v, Tensor)}, found
    )
    loaded: dict[str, Any] = {n: tensors[f"system/{n}"] for n in found}
    for name, tensor in loaded.items():
        if tensor.dtype != fresh[name].dtype:
            raise CheckpointError(
                "a state item has another type", stage="resume", value=(name, str(tensor.dtype))
            )
    roles = system.state_roles()
    for name, tensor in loaded.items():
        if is_slice(fresh[name]):
            loaded[name] = slice_like(tensor, fresh[name])
        elif role(name, roles) == "sharded":
            loaded[name] = tensor[distributed.item_slice(len(tensor))]
    loaded.update({n: decode(v, tensors) for n, v in values["system"].items()})
    try:
        system.load_state_dict(loaded)
    except RuntimeError as error:
        raise CheckpointError(
            "the system does not take the state", stage="resume", value=str(error)
        ) from error
