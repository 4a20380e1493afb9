"""What a protocol is, and which ones there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from rhyme.config import from_dict, to_dict
from rhyme.encoders import EncoderPackage
from rhyme.errors import ConfigError, EvaluationError, UnknownName, nearest
from rhyme.evaluation.pixels import unlabelled
from rhyme.tasks import FeatureTable
from rhyme.tasks.table import Integer

__all__ = [
    "PROTOCOLS",
    "Metric",
    "Protocol",
    "Reads",
    "SplitData",
    "load_protocol",
    "parse_settings",
]

PROTOCOLS: dict[str, str] = {
    "knn": "rhyme.evaluation.knn:PROTOCOL",
    "linear": "rhyme.evaluation.linear:PROTOCOL",
    "retrieval": "rhyme.evaluation.retrieval:PROTOCOL",
    "cycle": "rhyme.evaluation.cycle:PROTOCOL",
    "transfer": "rhyme.evaluation.transfer:PROTOCOL",
    "linear_sgd": "rhyme.evaluation.linear_sgd:PROTOCOL",
    "linear_stored": "rhyme.evaluation.linear_stored:PROTOCOL",
    "finetune": "rhyme.evaluation.finetune:PROTOCOL",
    "semi_supervised": "rhyme.evaluation.semi_supervised:PROTOCOL",
    "correspondence": "rhyme.evaluation.correspondence:PROTOCOL",
    "propagation": "rhyme.evaluation.propagation:PROTOCOL",
    "segments": "rhyme.evaluation.segments:PROTOCOL",
    "segmentation": "rhyme.evaluation.segmentation:PROTOCOL",
    "cells": "rhyme.evaluation.cells:PROTOCOL",
}
"""Protocols by id, each as ``"module:attribute"``; imported when one is run."""

Reads = Literal["features", "pixels", "frames", "videos"]


@dataclass(frozen=True, kw_only=True)
class SplitData:
    """Features of the three splits under one encoder, with labels where there are any.

    Attributes:
        train: the bank: what probes are fitted on.
        val: what choices are made on.
        test: what is measured; its groups are held out.
        labels: class code an item by split name, -1 where it has none; None without labels.
        classes: names of the classes by code.
        seed: seed of the evaluation.
    """

    train: FeatureTable
    val: FeatureTable
    test: FeatureTable
    labels: Mapping[str, Integer] | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0

    def labelled(self, split: str) -> tuple[FeatureTable, Integer]:
        """The labelled items of a split, and their codes.

        Args:
            split: ``"train"``, ``"val"``, ``"test"``, or ``"train+val"``, where nothing is chosen.

        Raises:
            EvaluationError: without labels, or without a labelled item in the split.
        """
        if self.labels is None:
            raise EvaluationError(
                "the protocol needs labels",
                stage="evaluate",
                remedy="give a label column (scan with labels.csv)",
            )
        if split == "train+val":
            table = self.train.join(self.val)
            codes = np.concatenate([self.labels["train"], self.labels["val"]])
            # as the catalog has them: which of them were set aside for validation changes nothing
            order = np.argsort(table.index, kind="stable")
            table, codes = table.select(order), codes[order]
        else:
            table, codes = getattr(self, split), self.labels[split]
        known = codes >= 0
        if not known.any():
            raise unlabelled(split)
        return table.select(np.flatnonzero(known)), codes[known]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a protocol.

    Attributes:
        name: metric id; higher is better.
        value: the figure.
        items: rows it is a mean over.
        chance: the figure of a guess on the same rows, where it is known.
        details: what else was found: choices made, sizes, parts.
        notes: what a reader has to be told of it, a line each.
    """

    name: str
    value: float
    items: int
    chance: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to measure an encoder.

    Attributes:
        id: its key in :data:`PROTOCOLS`.
        title: one line on it.
        settings: a frozen dataclass whose defaults are the protocol.
        run: ``(data, settings) -> metrics``, raising a :class:`~rhyme.errors.RhymeError` where
            the data cannot serve it.
        needs_labels: whether it is skipped without labels.
        reads: ``"features"`` runs on a :class:`SplitData`, ``"pixels"`` trains on the
            :class:`~rhyme.evaluation.pixels.Pixels` of the labelled items, ``"frames"`` runs on a
            :class:`~rhyme.evaluation.frames.FrameData` of the test items, ``"videos"`` on a
            :class:`~rhyme.evaluation.videos.VideoData` of the training and test items.
        fits: whether it fits something on frames, and so needs a split.
        check: ``(package, settings, options)``, called before anything is measured, with what
            stands before the names of the user's options (``"--knn."``): raises an
            :class:`~rhyme.errors.EvaluationError` where the encoder cannot serve the protocol,
            which is skipped then, and a :class:`~rhyme.errors.ConfigError` where the settings do
            not fit the encoder.
        presets: published settings by name, for settings that have a ``preset``; what is changed
            is changed of the preset that is named.
    """

    id: str
    title: str
    settings: type[Any]
    run: Callable[[Any, Any], list[Metric]]
    needs_labels: bool
    reads: Reads = "features"
    fits: bool = False
    check: Callable[[EncoderPackage, Any, str], None] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


def load_protocol(name: str) -> Protocol:
    """A protocol by id.

    Args:
        name: the id.

    Raises:
        UnknownName: there is none of that id, with the nearest one that exists.
    """
    if name not in PROTOCOLS:
        raise UnknownName(
            f"unknown protocol '{name}'", stage="evaluate", remedy=nearest(name, PROTOCOLS)
        )
    module, _, attribute = PROTOCOLS[name].partition(":")
    return cast(Protocol, getattr(importlib.import_module(module), attribute))


def parse_settings(protocol: Protocol, changes: Mapping[str, Any]) -> Any:
    """The protocol's settings with some changed.

    Args:
        protocol: the protocol.
        changes: new values by name; ``preset`` names the published settings that they change.

    Raises:
        UnknownName: a name, or a preset, that it does not have.
        ConfigError: a value of another type or out of range, or values that do not go together.
    """
    preset: Mapping[str, Any] = {}
    if protocol.presets and "preset" in changes:
        name = str(changes["preset"])
        if name not in protocol.presets:
            raise UnknownName(
                f"'{protocol.id}' has no preset '{name}'",
                stage="evaluate",
                remedy=nearest(name, protocol.presets),
            )
        preset = protocol.presets[name]
    # together and not one by one: some settings only fit with others
    values = {**to_dict(protocol.settings()), **preset, **changes}
    try:
        return from_dict(protocol.settings, values, where=f"{protocol.id}.")
    except ConfigError as error:
        error.stage = f"settings of {protocol.id}"
        raise
