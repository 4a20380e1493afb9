"""What settings of a protocol may be, told while they are read, before anything is measured."""

from __future__ import annotations

from typing import Any, cast

from rhyme.errors import ConfigError

__all__ = ["check_above_zero", "check_least", "check_some"]


def check_least(settings: Any, **least: float) -> None:
    """Hold settings against their least values; lists need a value, and None is left alone.

    Args:
        settings: an object with these attributes, each a number, a tuple of them, or None.
        least: the least value by name.

    Raises:
        ConfigError: naming the setting, its value and the bound.
    """
    for name, low in least.items():
        _check(settings, name, f"at least {low:g}", [v >= low for v in _values(settings, name)])


def check_above_zero(settings: Any, *names: str) -> None:
    """The same for settings that have to be above 0.

    Args:
        settings: an object with these attributes.
        names: their names.

    Raises:
        ConfigError: naming the setting and its value.
    """
    for name in names:
        _check(settings, name, "above 0", [v > 0 for v in _values(settings, name)])


def check_some(settings: Any, *names: str) -> None:
    """The same for lists that need a value.

    Args:
        settings: an object with these attributes.
        names: their names.

    Raises:
        ConfigError: naming the setting.
    """
    for name in names:
        if not getattr(settings, name):
            raise ConfigError(f"{name} needs a value", value=(), remedy="give one, or leave it out")


def _values(settings: Any, name: str) -> list[float]:
    value = getattr(settings, name)
    if isinstance(value, tuple):
        return list(cast("tuple[float, ...]", value))
    return [] if value is None else [value]


def _check(settings: Any, name: str, bound: str, right: list[bool]) -> None:
    value = getattr(settings, name)
    if not all(right) or value == ():
        what = "needs values that are" if isinstance(value, tuple) else "must be"
        raise ConfigError(
            f"{name} {what} {bound}", value=value, remedy=f"give {name} {bound}, or leave it out"
        )
