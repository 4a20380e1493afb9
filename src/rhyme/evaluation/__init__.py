"""Judging encoders: protocols on held-out groups, beside the untrained encoder and chance.

Example:
    >>> done = evaluate("runs/mine/encoder", catalog, protocols=("knn", "cycle"))
    >>> append_results("runs/mine/results.jsonl", done.results)
"""

from __future__ import annotations

from rhyme.evaluation.compare import Comparison, ComparisonLine, Difference, compare
from rhyme.evaluation.evaluate import Evaluation, evaluate
from rhyme.evaluation.protocol import PROTOCOLS, Metric, Protocol, SplitData, load_protocol
from rhyme.evaluation.result import Result, append_results, read_results
from rhyme.evaluation.seen import TrainedOn, train_facts
from rhyme.evaluation.splits import (
    Classes,
    Splits,
    fold_splits,
    group_hashes,
    make_splits,
    usable_classes,
)

__all__ = [
    "PROTOCOLS",
    "Classes",
    "Comparison",
    "ComparisonLine",
    "Difference",
    "Evaluation",
    "Metric",
    "Protocol",
    "Result",
    "SplitData",
    "Splits",
    "TrainedOn",
    "append_results",
    "compare",
    "evaluate",
    "fold_splits",
    "group_hashes",
    "load_protocol",
    "make_splits",
    "read_results",
    "train_facts",
    "usable_classes",
]
