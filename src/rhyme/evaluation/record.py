"""What all rows of an evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rhyme.catalog import Catalog
from rhyme.config import to_dict
from rhyme.encoders import EncoderPackage
from rhyme.evaluation.inputs import shards_of
from rhyme.evaluation.pairing import SEED_OF
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.result import Result
from rhyme.evaluation.splits import SPLIT_DRAWN, Classes, Splits

__all__ = ["Record"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What all rows of an evaluation share."""

    package: EncoderPackage
    base: dict[str, Any]
    common: dict[str, Any]
    details: dict[str, Any]
    pair: str

    @classmethod
    def of(
        cls,
        package: EncoderPackage,
        catalog: Catalog,
        splits: Splits,
        classes: Classes | None,
        *,
        base: dict[str, Any],
        common: dict[str, Any],
    ) -> Record:
        """What the rows say of encoder, data and split.

        Args:
            package: the encoder.
            catalog: all items.
            splits: who trains and who is judged.
            classes: what is measured by; None without labels.
            base: name of the collection, command and commit.
            common: settings that all protocols share, ``split_seed`` among them.
        """
        number = (catalog.meta.get("lists") or {}).get("split_number")
        # the folds of a collection are one collection: the split is told by the pair key
        fingerprint = catalog.with_column("split", [None] * len(catalog)).fingerprint
        return cls(
            package=package,
            base={
                **base,
                "data_fingerprint": fingerprint,
                "system": str(package.card.get("system", "unknown")),
                "checkpoint": package.hash,
                "export": package.kind,
            },
            common={
                **common,
                "split": splits.origin,
                **({} if number is None else {"split_number": number}),
                "fold": (catalog.meta.get("fold") or {}).get("test"),
                **shards_of(catalog),
            },
            details={
                "plan": package.plan.facts(),
                **({"weights": package.extra["weights"]} if "weights" in package.extra else {}),
                **({} if "seed" in package.card else {SEED_OF: "the evaluation"}),
                "train_items": len(splits.train),
                "val_items": len(splits.val),
                "test_items": len(splits.test),
                "test_groups": len(np.unique(catalog.group_codes[splits.test])),
                SPLIT_DRAWN: splits.drawn,
                "classes": 0 if classes is None else len(classes.used),
                "classes_left_out": {} if classes is None else dict(classes.left_out),
            },
            pair=f"{fingerprint[:12]}/{splits.key}/{common['split_seed']}",
        )

    def row(self, protocol: Protocol, settings: Any, name: str, metric: Metric) -> Result:
        """A figure of one encoder; ``name`` is ``trained`` or ``untrained/<seed>``."""
        encoder, _, of = name.partition("/")
        seed = int(of) if of else int(self.package.card.get("seed", self.common["split_seed"]))
        step = self.package.card.get("step") if encoder == "trained" else None
        details = self.details if step is None else {**self.details, "step": step}
        own = cast(dict[str, Any], to_dict(settings))
        shared = {k: v for k, v in self.common.items() if own.get(k) is None}
        return Result(
            **self.base,
            protocol=protocol.id,
            settings={**own, **shared},
            metric=metric.name,
            value=metric.value,
            seed=seed,
            pair=f"{self.pair}/seed{seed}",
            items=metric.items,
            encoder=encoder,
            chance=metric.chance,
            details={**details, **cast(dict[str, Any], to_dict(metric.details))},
        )
