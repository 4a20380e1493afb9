"""What encoders of other libraries share."""

from __future__ import annotations

import importlib
from typing import Any

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


def unreadable(name: str, pixels: Tensor, error: Exception) -> DataError:
    """The error of an encoder that cannot read pixels of a size."""
    said = str(error).strip().splitlines()
    return DataError(
        f"'{name}' cannot read {pixels.shape[-2]} x {pixels.shape[-1]} pixels: "
        + (said[0][:200] if said else type(error).__name__),
        stage="encode",
        value=tuple(pixels.shape),
        remedy="give the size that it was made for, e.g. --size 224",
    )
