"""Configuration: keyword-only frozen dataclasses, and the little that is needed around them.

A configuration is a tree of frozen dataclasses. It is written as YAML that can be read without
rhyme, read back with every unknown key refused, changed by dotted keys (``train.steps=100``),
compared, and hashed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml

from rhyme.errors import ConfigError, UnknownName, nearest

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """A configuration as plain dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = dataclasses.fields(config)
        return {f.name: to_dict(getattr(config, f.name)) for f in fields}
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise ConfigError(
        f"a configuration cannot hold a {type(config).__name__}",
        value=config,
        remedy="use dataclasses, dicts, lists, strings, numbers and None",
    )


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build a configuration, converting and checking every value against its annotation.

    Args:
        cls: the dataclass.
        values: as returned by :func:`to_dict`; missing keys take their defaults.
        where: dotted prefix for messages.

    Raises:
        UnknownName: a key that the dataclass does not have, with the nearest one that it has.
        ConfigError: a value of another type, or a key without default that is missing.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("expected a table of options", value=values, stage=where or cls.__name__)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    for key in values:
        if key not in fields:
            raise UnknownName(
                f"unknown option '{where}{key}'", stage="config", remedy=nearest(str(key), fields)
            )
    built: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"option '{where}{name}' is missing", stage="config")
    return cls(**built)


def check_choices(config: object) -> None:
    """Refuse values of a dataclass's ``Literal`` fields that are none of the choices.

    Raises:
        ConfigError: with the nearest choice.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(cast(Any, config)):
        if get_origin(hints[field.name]) is Literal:
            _convert(hints[field.name], getattr(config, field.name), field.name)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert ``value`` to what ``hint`` asks for, or say what was expected."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is Literal:
        if value in args:
            return value
        if isinstance(value, bool):  # what YAML makes of a bare on or off
            word = "on" if value else "off"
            if word in args:
                return word
        known = [str(a) for a in args]
        raise ConfigError(
            f"wrong value for '{where}'", value=value, remedy=nearest(str(value), known)
        )
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # pyright: ignore[reportArgumentType]
            return value
        if isinstance(value, Mapping):
            return from_dict(cast(type[Any], hint), value, where=f"{where}.")
    if hint is type(None) and value is None:
        return None
    if origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        return _convert_sequence(origin, args, value, where)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {k: _convert(args[1] if args else Any, v, f"{where}.{k}") for k, v in value.items()}
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise _wrong([hint], value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    problems: list[ConfigError] = []
    known: list[int] = []  # how many of the keys each branch knows
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, where)
        except ConfigError as error:
            problems.append(error)
        names = (
            {f.name for f in dataclasses.fields(arg)} if dataclasses.is_dataclass(arg) else set()
        )
        known.append(len(names & set(value)) if isinstance(value, Mapping) else 0)
    if all(isinstance(arg, type) and not dataclasses.is_dataclass(arg) for arg in args):
        raise _wrong(args, value, where)
    # The branch that knows most of the keys speaks: of one of them it has more to say than that it
    # is unknown. Where none knows any, an unknown key says more than "wrong type".
    best = max(
        range(len(problems)), key=lambda k: (known[k], isinstance(problems[k], UnknownName), -k)
    )
    raise problems[best]


def _wrong(hints: Sequence[Any], value: Any, where: str) -> ConfigError:
    """The error of a value that is of none of some types."""
    expected = f"expected {' or '.join(map(_named, hints))}"
    return ConfigError(f"wrong value for '{where}'", value=value, remedy=expected)


def _named(hint: Any) -> str:
    if hint is type(None):
        return "null"
    args = get_args(hint)
    if get_origin(hint) is tuple and Ellipsis not in args:
        kinds = ", ".join(map(_named, args))
        return f"{len(args)} values [{kinds}]"
    return getattr(hint, "__name__", str(hint))


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Sequence[Any], where: str) -> Any:
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise ConfigError(
                f"wrong value for '{where}'", value=value, remedy=f"give {len(args)} values"
            )
        hints = args
    else:
        hints = ((args[0] if args else Any),) * len(value)
    built = [
        _convert(h, v, f"{where}.{i}") for i, (h, v) in enumerate(zip(hints, value, strict=True))
    ]
    return tuple(built) if origin is tuple else built


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy with dotted keys changed, e.g. ``override(recipe, {"train.steps": 100})``.

    Raises:
        UnknownName: the key leads nowhere; the message names the nearest one.
        ConfigError: the value has another type than the option.
    """
    for key, value in changes.items():
        config = _override_one(config, key.split("."), value, "")
    return config


def _override_one(config: Any, path: list[str], value: Any, where: str) -> Any:
    names = (
        [f.name for f in dataclasses.fields(config)]
        if dataclasses.is_dataclass(config)
        else list(cast(Mapping[str, Any], config))
        if isinstance(config, Mapping)
        else []
    )
    name = path[0]
    if name not in names:
        raise UnknownName(
            f"unknown option '{where}{name}'", stage="config", remedy=nearest(name, names)
        )
    if isinstance(config, Mapping):
        table = dict(cast(Mapping[str, Any], config))
        rest = path[1:]
        table[name] = _override_one(table[name], rest, value, f"{where}{name}.") if rest else value
        return table
    if len(path) > 1:
        inner = getattr(config, name)
        if inner is None:
            raise ConfigError(
                f"'{where}{name}' is not set, so '{'.'.join(path)}' cannot be changed",
                stage="config",
            )
        changed = _override_one(inner, path[1:], value, f"{where}{name}.")
    else:
        hint = typing.get_type_hints(type(config))[name]
        changed = _convert(hint, value, f"{where}{name}")
    return dataclasses.replace(cast(Any, config), **{name: changed})


def flatten(config: Any) -> dict[str, Any]:
    """A configuration as one table of dotted keys; sequences stay whole."""
    flat: dict[str, Any] = {}

    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in cast(dict[str, Any], value).items():
                walk(inner, f"{where}.{key}" if where else key)
        else:
            flat[where] = value

    walk(to_dict(config), "")
    return flat


def diff(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values (None where a key is absent)."""
    a, b = flatten(old), flatten(new)
    return {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}


def fingerprint(config: Any) -> str:
    """SHA-256 of a configuration, independent of the order of keys."""
    text = json.dumps(to_dict(config), sort_keys=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_yaml(values: Any) -> str:
    """A configuration or plain data as YAML, keys in their given order."""
    return yaml.safe_dump(to_dict(values), sort_keys=False, allow_unicode=True, width=100)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as plain data; tags that would build objects are refused.

    Raises:
        ConfigError: the file is missing, is no YAML table, or holds a tag.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such configuration file", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "not a plain YAML file",
            file=path,
            value=str(error).splitlines()[0],
            remedy="use plain keys and values; tags such as !!python are never read",
        ) from error
    if not isinstance(values, dict):
        raise ConfigError("expected a YAML table of options", file=path)
    return cast(dict[str, Any], values)


def load(cls: type[T], path: Path) -> T:
    """Read a configuration that was written with :func:`dump_yaml`."""
    return from_dict(cls, load_yaml(path))
