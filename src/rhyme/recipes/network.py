"""Another backbone in a recipe: what was said of the old network does not go over to it.

A recipe says of its backbone which network it is, with which strides, stem and widths; these suit
that network alone. Weights of another one, off the shelf, are made for its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rhyme.config import to_dict
from rhyme.encoders.backbone_config import NETWORK_OPTIONS, BackboneConfig, kind_of

_PLACE = "model.backbone"
_UNSAID: dict[str, Any] = {
    name: value for name, value in to_dict(BackboneConfig()).items() if name in NETWORK_OPTIONS
}


def left_behind(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a recipe's network that fall back to the own ones of another.

    Nothing does where the new name is of the same kind (ResNet-50 for ResNet-18), whose options
    mean the same, nor where the whole backbone is given.

    Args:
        values: the recipe as plain data, before its backbone changes.
        changes: dotted options that the user gives.

    Returns:
        Dotted option to the recipe's value.
    """
    if f"{_PLACE}.name" not in changes or {"model", _PLACE} & changes.keys():
        return {}
    backbone = dict(values.get("model") or {}).get("backbone")
    if not isinstance(backbone, Mapping):
        return {}
    said = cast(Mapping[str, Any], backbone)
    name = str(changes[f"{_PLACE}.name"])
    if kind_of(name) in (kind_of(str(said.get("name"))), name):  # of one kind, or unknown
        return {}
    return {
        f"{_PLACE}.{option}": said[option]
        for option, unsaid in _UNSAID.items()
        if f"{_PLACE}.{option}" not in changes and said.get(option, unsaid) != unsaid
    }


def without_nulls(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options where ``null`` stands for the network's own value of one."""
    backbone = model.get("backbone")
    if not isinstance(backbone, Mapping):
        return dict(model)
    said = cast(Mapping[str, Any], backbone)
    kept = {k: v for k, v in said.items() if v is not None or k not in NETWORK_OPTIONS}
    return {**model, "backbone": kept}
