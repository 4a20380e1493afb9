"""What shows that an embedding is alive: its spread, its rank, and an alarm for its collapse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.errors import DataError, TrainingError
from rhyme.memory import MomentumEncoder

_PAIRED = 512  # rows that are compared with each other: 130,816 pairs
_MADE_BY_FEW = 0.4  # .05 to .36 in VFS's collapse, seldom under .5 on real clips in batches of 16


@torch.no_grad()
def embedding_std(embeddings: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of the normalised embeddings.

    Embeddings spread evenly over the sphere have ``1/√d``; collapsed ones have 0 (arXiv 2011.10566,
    section 4.1).

    Args:
        embeddings: ``[b, d]``, ``b ≥ 2``; fewer rows have no spread and give 0.

    Returns:
        A scalar in float32.
    """
    rows = torch.nn.functional.normalize(embeddings.detach().float(), dim=1)
    return rows.std(dim=0, correction=0).mean()


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007).

    Args:
        embeddings: ``[b, d]``; they are normalised and not centred, so that a collapse to one
            direction gives 1.

    Returns:
        A scalar in ``[1, min(b, d)]``; not a number where the embeddings are not finite.
    """
    rows = torch.nn.functional.normalize(embeddings.detach().float(), dim=1)
    if not bool(torch.isfinite(rows).all()):
        return torch.tensor(float("nan"))
    values = torch.linalg.svdvals(rows)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.exp(torch.special.entr(share).sum())


@torch.no_grad()
def median_sine(embeddings: Tensor) -> Tensor:
    """Median over pairs of rows of the sine of the angle between their lines.

    Rows in random directions of many dimensions have about 1. It is near 0 where more than seven
    rows in ten lie on one line, whatever the others do: the spread that a few rows keep up, such
    as those which a batch norm at the end of a head scales far away from all others, does not
    count. Frames of one item are so few of all pairs that they do not reach the median.

    Args:
        embeddings: ``[b, d]``, ``b ≥ 2``; of more than 512, as many evenly spaced ones are read.

    Returns:
        A scalar in ``[0, 1]``; not a number where the embeddings are not finite.
    """
    rows = torch.nn.functional.normalize(embeddings.detach().float(), dim=1)
    rows = rows[:: -(-len(rows) // _PAIRED)]
    first, second = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    cosine = (rows @ rows.T)[first, second].abs().median()
    return (1 - cosine.square()).clamp_min(0).sqrt()


def watch(embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """Monitors of all embeddings of a step over the global batch, as a row's entries.

    Called on all ranks together: spread and rank of a few rows would depend on how many they are.

    Returns:
        ``std/<name>`` times ``√d`` (1 is an even spread), ``rank/<name>`` and ``sine/<name>``, the
        median over pairs of rows.
    """
    row: dict[str, float] = {}
    everywhere = distributed.exchange(list(embeddings))
    for name in (n for n in everywhere[0] if all(n in names for names in everywhere)):
        rows = embeddings[name].flatten(0, -2)
        with suppress(DataError):  # as many rows on every rank, as a rule; else this rank's
            rows = distributed.gather(rows)
        if len(rows) < 2:  # one row has neither spread nor rank
            continue
        row[f"std/{name}"] = float(embedding_std(rows)) * rows.shape[-1] ** 0.5
        row[f"rank/{name}"] = float(effective_rank(rows))
        row[f"sine/{name}"] = float(median_sine(rows))
    return row


def key_distances(system: nn.Module) -> dict[str, float]:
    """How far each momentum encoder is behind its online encoder, as a row's entries.

    Called on all ranks together: FSDP shares parameters among them.

    Returns:
        ``key_distance``, ``‖θ_q − θ_k‖ / ‖θ_q‖`` over all parameters; with the module's path behind
        it where there are several. Nothing without a momentum encoder.
    """
    copies = {n: m for n, m in system.named_modules() if isinstance(m, MomentumEncoder)}
    return {
        "key_distance" if len(copies) == 1 else f"key_distance/{name}": float(
            copy.parameter_distance()
        )
        for name, copy in copies.items()
    }


class CollapseAlarm:
    """Counts looks at which an embedding has collapsed to a point or to a line.

    To a point: ``std · √d`` lies below the limit. To a line, in both directions of which the rows
    may still be spread: the effective rank exceeds 1 by less than the limit. To either, but for a
    few rows: the median sine of pairs lies below three limits and below two fifths of what the
    spread makes one expect.

    The last is what a batch norm at the end of a projector leaves of a collapse (VFS and SimSiam
    without stop-gradient). It gives every dimension its variance back, so that a few rows lie far
    from all others, ``std · √d`` stays near .5 and the effective rank, which counts the rounding of
    the many, anywhere from 2 to 20. Neither figure, nor its fall, tells that from the first steps
    of a healthy contrast, where rank and spread are as low for a while. Their ratio to the median
    does: the sine is √2 times a small spread in which all rows have their part, at any size of it,
    and far less than that where a few rows make it.

    Args:
        limit: the limit; 0 turns the alarm off.
        rows: looks in a row below it that raise the alarm, once until the embedding recovers.
    """

    def __init__(self, limit: float, rows: int) -> None:
        self.limit = limit
        self.rows = rows
        self.below: dict[str, int] = {}

    def see(self, monitors: Mapping[str, float]) -> list[str]:
        """Take the monitors of a row; returns the names whose alarm rings now."""
        ringing: list[str] = []
        for key, value in monitors.items():
            kind, _, name = key.partition("/")
            if kind != "std":
                continue
            room = min(value, monitors.get(f"rank/{name}", math.inf) - 1)
            sine = monitors.get(f"sine/{name}", math.inf)
            few = sine < min(3 * self.limit, _MADE_BY_FEW * math.sqrt(2) * value)
            low = room < self.limit or few
            self.below[name] = self.below.get(name, 0) + 1 if low else 0
            if self.below[name] == self.rows:
                ringing.append(name)
        return ringing

    def state_dict(self) -> dict[str, Any]:
        """Rows counted so far."""
        return {"below": dict(self.below)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue counting."""
        self.below = {str(name): int(count) for name, count in state["below"].items()}


def collapse_error(names: Iterable[str], step: int) -> TrainingError:
    """The end of a run whose embeddings have collapsed."""
    return TrainingError(
        f"the embedding has collapsed at step {step}; the state is saved",
        stage="train",
        value=sorted(names) or "on another rank",
        remedy="lower train.optimizer.lr, look at temperature and momentum, or go on all the same "
        "with: rhyme train --resume RUN",
    )
