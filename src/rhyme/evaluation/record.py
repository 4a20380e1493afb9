"""What all rows of an evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from rhyme.config import to_dict
from rhyme.encoders import EncoderPackage
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.result import Result

__all__ = ["Record"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What all rows of an evaluation share."""

    package: EncoderPackage
    base: dict[str, Any]
    common: dict[str, Any]
    details: dict[str, Any]
    pair: str

    def row(self, protocol: Protocol, settings: Any, name: str, metric: Metric) -> Result:
        """A figure of one encoder; ``name`` is ``trained`` or ``untrained/<seed>``."""
        encoder, _, of = name.partition("/")
        seed = int(of) if of else int(self.package.card.get("seed", self.common["split_seed"]))
        return Result(
            **self.base,
            protocol=protocol.id,
            settings={**cast(dict[str, Any], to_dict(settings)), **self.common},
            metric=metric.name,
            value=metric.value,
            seed=seed,
            pair=f"{self.pair}/seed{seed}",
            items=metric.items,
            encoder=encoder,
            chance=metric.chance,
            details={**self.details, **cast(dict[str, Any], to_dict(metric.details))},
        )
