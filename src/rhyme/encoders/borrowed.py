"""What encoders of other libraries share."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from torch import Tensor, nn

from rhyme.errors import ConfigError, DataError

OPTIONS = ("stem", "dilations", "zero_init_residual")
"""Options of a backbone that these encoders do not have."""


class Borrowed:
    """A backbone around a network of another library.

    Attributes:
        net: the network.
    """

    net: nn.Module

    @property
    def inner(self) -> nn.Module:
        """The network, under whose names the weights of its authors are stored."""
        return self.net


def nearest_interpolation(told: str) -> Literal["bilinear", "bicubic"]:
    """What a library's name of an interpolation comes closest to; without one, bilinear."""
    return "bicubic" if told in ("bicubic", "lanczos") else "bilinear"


def library(name: str) -> Any:
    """An optional library, whose extra has its name.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"these encoders need {name}, which is not installed",
            stage="build encoder",
            remedy=f"pip install 'rhyme-ssl[{name}]'",
        ) from error


def switch_off_chance(net: nn.Module) -> None:
    """Set every probability of dropping something to zero."""
    for part in net.modules():
        for name in ("p", "drop_prob"):
            if isinstance(vars(part).get(name), float):
                setattr(part, name, 0.0)


def unreadable(name: str, pixels: Tensor, error: Exception, side: int = 0) -> DataError:
    """The error of an encoder that cannot read pixels of a size.

    Args:
        name: the encoder.
        pixels: what it was given.
        error: what its library said.
        side: side of the only pictures that it reads; 0 where that is not known.
    """
    said = str(error).strip().splitlines()
    side = 0 if tuple(pixels.shape[-2:]) == (side, side) else side
    why = f"it is built for {side} x {side}" if side else said[0][:200] if said else ""
    return DataError(
        f"'{name}' cannot read {pixels.shape[-2]} x {pixels.shape[-1]} pixels: "
        + (why or type(error).__name__),
        stage="encode",
        value=tuple(pixels.shape),
        remedy=f"give the size that it is made for: --size {side or 224}"
        + ("" if side else ", or another that it reads"),
    )
