"""What one does with features: tables, neighbours, probes, retrieval, cycles.

Pure functions on arrays. Which data they are run on, with which splits, and what is reported beside
them is the business of ``rhyme.evaluation``.
"""

from __future__ import annotations

from rhyme.tasks.cycle import CycleReturn, Rhyme, cycle_return, rhymes, split_groups
from rhyme.tasks.extract import encode, extract_features, extract_many
from rhyme.tasks.finetune import ImageClassifier, Tuning, fine_tune, predict_classes
from rhyme.tasks.linear import L2_GRID, LinearProbe, linear_probe
from rhyme.tasks.neighbours import Neighbours, knn_classify, nearest_rows
from rhyme.tasks.retrieval import GroupRetrieval, Retrieval, group_retrieval, retrieval
from rhyme.tasks.table import FeatureTable, Statistics, normalise, standardise

__all__ = [
    "L2_GRID",
    "CycleReturn",
    "FeatureTable",
    "GroupRetrieval",
    "ImageClassifier",
    "LinearProbe",
    "Neighbours",
    "Retrieval",
    "Rhyme",
    "Statistics",
    "Tuning",
    "cycle_return",
    "encode",
    "extract_features",
    "extract_many",
    "fine_tune",
    "group_retrieval",
    "knn_classify",
    "linear_probe",
    "nearest_rows",
    "normalise",
    "predict_classes",
    "retrieval",
    "rhymes",
    "split_groups",
    "standardise",
]
