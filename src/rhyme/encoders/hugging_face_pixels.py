"""What a Hugging Face folder says of the pixels that its encoder wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rhyme.encoders.borrowed import nearest_interpolation
from rhyme.encoders.features import InferencePlan
from rhyme.errors import ConfigError

OF_CLIPS = frozenset({"videomae", "timesformer", "vivit"})
"""Types of networks that read clips ``[b, t, c, h, w]``."""

_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_BY_SHARE = ("ConvNext", "Levit")  # processors that crop 7/8 where their file says nothing
_WARPED = 384  # those without a size of the crop do not crop pictures from this side on


def folder_plan(folder: Path, architecture: str) -> dict[str, Any]:
    """Fields of an inference plan, from ``preprocessor_config.json`` where there is one.

    Args:
        folder: the folder.
        architecture: Hugging Face's configuration of the network as JSON.

    Raises:
        ConfigError: the file cannot be read, or asks for pixels that rhyme does not make.
    """
    path = folder / "preprocessor_config.json"
    told = _read(path)
    _refuse(told, path)
    config = json.loads(architecture)
    edge, crop = side_of(told.get("size")), side_of(told.get("crop_size"))
    side = crop or edge or side_of(config.get("image_size")) or 224
    resize = edge
    share = _share(told)
    if share and (crop or edge < _WARPED):
        resize = int(edge / share)
    fields: dict[str, Any] = {"size": side, "resize": max(resize, side), **_statistics(told)}
    fields["interpolation"] = nearest_interpolation(_RESAMPLE.get(told.get("resample", 0), ""))
    if isinstance(config.get("num_frames"), int) and config.get("model_type") in OF_CLIPS:
        fields |= {"frames": config["num_frames"], "stride": 4}
    return fields


def side_of(told: Any) -> int:
    """A side of a size as Hugging Face writes it, 0 where it says none."""
    if isinstance(told, Mapping):
        sides = cast(Mapping[str, Any], told)
        told = sides.get("height") or sides.get("shortest_edge")
    if isinstance(told, list | tuple) and told:
        told = cast(Any, told[0])
    return told if isinstance(told, int) else 0


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _unread(path, str(error)) from error
    if not isinstance(told, Mapping):
        raise _unread(path, f"a {type(told).__name__}, not a table")
    return cast(Mapping[str, Any], told)


def _unread(path: Path, said: str) -> ConfigError:
    return ConfigError(
        "what the folder says of its pixels cannot be read",
        file=path,
        stage="build encoder",
        value=said[:200],
        remedy="copy the folder again",
    )


def _refuse(told: Mapping[str, Any], path: Path) -> None:
    """Refuse pixels that no plan describes."""
    for name, value, wanted in (
        ("do_flip_channel_order", True, "colours in the order blue, green, red"),
        ("do_rescale", False, "pixels that its caller has scaled in a way that it does not tell"),
    ):
        if told.get(name) is value:
            raise ConfigError(
                f"the encoder wants {wanted}, which rhyme does not make",
                file=path,
                stage="build encoder",
                value={name: value},
                remedy="choose an encoder that reads red, green, blue, scaled by its own file",
            )


def _share(told: Mapping[str, Any]) -> float:
    """Side of the crop as a share of the shorter side, 0 where they are told as they are."""
    kind = str(told.get("image_processor_type") or told.get("feature_extractor_type") or "")
    share = _number(told.get("crop_pct")) or (0.875 if kind.startswith(_BY_SHARE) else 0.0)
    return share if 0 < share <= 1 else 0.0


def _statistics(told: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and deviation, on the [0, 1] scale, of all that is done to the bytes."""
    mean = _channels(told.get("image_mean"), InferencePlan.mean)
    std = again = _channels(told.get("image_std"), InferencePlan.std)
    if told.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if told.get("include_top"):  # the deviation is taken out once more
        std = tuple(a * b for a, b in zip(std, again, strict=True))
    gain = 255 * (_number(told.get("rescale_factor")) or 1 / 255)
    gain = gain if abs(gain - 1) > 1e-6 else 1.0
    shift = 1.0 if told.get("offset") or told.get("rescale_offset") else 0.0
    return {"mean": tuple((m + shift) / gain for m in mean), "std": tuple(s / gain for s in std)}


def _channels(told: Any, else_: tuple[float, ...]) -> tuple[float, ...]:
    if isinstance(told, list) and len(cast(list[Any], told)) == 3:
        return tuple(float(v) for v in cast(list[Any], told))
    return (_number(told),) * 3 if _number(told) else else_


def _number(told: Any) -> float:
    """A number, 0 where there is none."""
    return float(told) if isinstance(told, int | float) else 0.0
