"""One protocol under all encoders of an evaluation: rows as they come, and what has to be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rhyme.errors import DataError, EvaluationError
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.record import Record
from rhyme.evaluation.result import Result

__all__ = ["measure", "reason_of"]


def measure(
    protocol: Protocol,
    settings: Any,
    inputs: Mapping[str, Mapping[str, Any]],
    record: Record,
    keep: Callable[[Sequence[Result]], None] | None = None,
) -> tuple[list[Result], list[str]]:
    """The figures of a protocol, one encoder after another.

    An untrained encoder that cannot be measured, as training from it diverged, is told; the others
    keep their figures.

    Args:
        protocol: the protocol.
        settings: its settings.
        inputs: what it runs on, by encoder and by what the names of those figures end in.
        record: makes the rows.
        keep: called with the rows of each encoder as soon as they are there.

    Returns:
        The rows, figure by figure, so that those of one metric stand together; and the notes.

    Raises:
        DataError: the trained encoder, or every one, cannot be measured.
        EvaluationError: likewise.
    """
    measured: dict[str, list[Metric]] = {}
    rows: dict[str, list[Result]] = {}
    lost: dict[str, DataError | EvaluationError] = {}
    for name, views in inputs.items():
        try:
            found = [
                replace(metric, name=metric.name + ending)
                for ending, data in views.items()
                for metric in protocol.run(data, settings)
            ]
        except (DataError, EvaluationError) as error:
            if name == "trained":
                raise
            lost[name] = error
            continue
        measured[name] = found
        rows[name] = [record.row(protocol, settings, name, metric) for metric in found]
        if keep is not None:
            keep(rows[name])
    if not measured:
        raise next(iter(lost.values()))
    first = next(iter(measured.values()))
    notes = _told(protocol.id, settings, first) + _noted(protocol.id, measured)
    notes += [f"{protocol.id}: {n} has no figure: {reason_of(e)}" for n, e in lost.items()]
    return [each[place] for place in range(len(first)) for each in rows.values()], notes


def reason_of(error: DataError | EvaluationError) -> str:
    """Why something is not measured, and what helps, in one line."""
    return error.cause + (f"; {error.remedy}" if error.remedy else "")


def _told(protocol: str, settings: Any, metrics: Sequence[Metric]) -> list[str]:
    """What a protocol could not read, had to fill up, or could not do as finely as was asked."""
    notes: list[str] = []
    seen = metrics[0].details
    asked = getattr(settings, "stride", None)  # None: as the encoder wants it
    if asked is not None and seen.get("stride", 0) > asked:
        larger = "height" if hasattr(settings, "height") else "size"
        notes.append(
            f"{protocol}: cells every {seen['stride']:g} pixels ({seen['stage']}), the finest that "
            f"this encoder has, instead of {settings.stride}; other stages and larger frames: "
            f"--{protocol}.stage, --{protocol}.{larger}"
        )
    for metric in metrics:
        lost, short = (int(metric.details.get(k, 0)) for k in ("unreadable", "short_videos"))
        if lost:
            notes.append(f"{protocol} {metric.name}: {lost} test items could not be read")
        if short:
            notes.append(
                f"{protocol} {metric.name}: {short} of {metric.items} test videos are shorter than "
                "a clip"
            )
    return notes


def _noted(protocol: str, measured: Mapping[str, Sequence[Metric]]) -> list[str]:
    """The notes of the figures; those that do not hold for every encoder name theirs.

    What holds for several figures and for all of a protocol names none of them.
    """
    whose: dict[str, list[str]] = {}
    for name, metrics in measured.items():
        lines: list[str] = []
        for metric in metrics:
            for note in metric.notes:
                every = len(metrics) > 1 and all(note in other.notes for other in metrics)
                lines.append((protocol if every else f"{protocol} {metric.name}") + f": {note}")
        for line in dict.fromkeys(lines):
            whose.setdefault(line, []).append(name)
    return [
        line + ("" if len(names) == len(measured) else f" ({', '.join(names)})")
        for line, names in whose.items()
    ]
