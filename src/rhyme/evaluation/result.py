"""One measured figure: everything needed to read it, repeat it and pair it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from rhyme.config import to_dict
from rhyme.errors import EvaluationError
from rhyme.evaluation.pairing import Measured, is_untrained, repetition
from rhyme.run import append_jsonl, read_jsonl

__all__ = ["Result", "append_results", "read_results"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A figure of one encoder: a row of ``results.jsonl``, one row a seed.

    Attributes:
        system: id of the system that the encoder came from.
        checkpoint: hash of the encoder package; for an untrained encoder that of the package whose
            architecture it has.
        export: kind of the export.
        data: name of the collection.
        data_fingerprint: fingerprint of its catalog with the split column left empty, so that the
            folds of one collection share it.
        protocol: protocol id.
        settings: all settings of protocol and evaluation, equal for rows that may be compared.
        metric: metric id.
        value: the figure; higher is better.
        seed: seed of the encoder: of its training, or of its fresh weights. Of an encoder that has
            none, since it was not trained here, that of the evaluation; ``details`` say so.
        pair: rows of equal pair, protocol and metric differ in the encoder alone.
        items: rows (videos or frames) the figure is a mean over.
        encoder: ``"trained"``, ``"untrained"``, or another name for another encoder.
        chance: the figure of a guess on the same rows, where it is known.
        details: what the protocol found beside the figure (choices, sizes, parts).
        command: command line that made it.
        commit: revision of the code.
        created: time it was measured, UTC, ISO 8601.
    """

    system: str
    checkpoint: str
    data: str
    data_fingerprint: str
    protocol: str
    metric: str
    value: float
    seed: int
    pair: str
    items: int
    export: str = "encoder"
    encoder: str = "trained"
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chance: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    command: str = ""
    commit: str = ""
    created: str = field(default_factory=_now)

    @property
    def arm(self) -> str:
        """What is compared: the system, with the encoder's name where it is not the trained one."""
        return self.system if self.encoder == "trained" else f"{self.system} {self.encoder}"

    @property
    def untrained(self) -> bool:
        """Whether the encoder has fresh weights."""
        return is_untrained(self.encoder)

    @property
    def repetition(self) -> str:
        """What it was measured on: collection, split and seed, the encoder's own left out."""
        return repetition(self.pair, self.seed)

    @property
    def measured(self) -> Measured:
        """The figure with what it is paired by."""
        return Measured.of(
            self.pair, self.seed, self.value, encoder=self.encoder, details=self.details
        )

    def to_row(self) -> dict[str, Any]:
        """The row as plain data for a JSON line."""
        return cast(dict[str, Any], to_dict(self))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Result:
        """Read a row back; unknown keys, which a later version may write, are passed over.

        Args:
            row: plain data.

        Raises:
            EvaluationError: a key is missing or has a value that cannot be.
        """
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name in row:
                values[f.name] = row[f.name]
            elif f.default is MISSING and f.default_factory is MISSING:
                raise EvaluationError(
                    f"the row has no '{f.name}'", stage="results", value=sorted(row)
                )
        try:
            # strict JSON has no NaN: the file holds the word
            values["value"] = float(values["value"])
            if values.get("chance") is not None:
                values["chance"] = float(values["chance"])
            values["seed"], values["items"] = int(values["seed"]), int(values["items"])
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"a number of the row cannot be read: {error}", stage="results", value=dict(row)
            ) from error
        return cls(**values)


def append_results(path: str | Path, results: Iterable[Result]) -> None:
    """Append rows to a JSONL file, one line each.

    Args:
        path: the file, made if need be.
        results: the rows.
    """
    for result in results:
        append_jsonl(path, result.to_row())


def read_results(path: str | Path) -> list[Result]:
    """All rows of a JSONL file; a torn last line is left out, a missing file has none.

    Args:
        path: the file.

    Raises:
        EvaluationError: a row is no result.
    """
    try:
        return [Result.from_row(row) for row in read_jsonl(path)]
    except EvaluationError as error:
        error.file = str(path)
        raise
