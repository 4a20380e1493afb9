"""What one does with features: tables, neighbours, probes, retrieval, cycles.

Pure functions on arrays. Which data they are run on, with which splits, and what is reported beside
them is the business of ``rhyme.evaluation``.
"""

from __future__ import annotations

from rhyme.tasks.classifier import Aggregate, Classifier
from rhyme.tasks.cycle import CycleReturn, Rhyme, cycle_return, rhymes, split_groups
from rhyme.tasks.dense import DenseEncoder, dense_encoder
from rhyme.tasks.extract import encode, encode_parts, extract_features, extract_many
from rhyme.tasks.finetune import Tuning, fine_tune, predict_classes, usable_rows
from rhyme.tasks.linear import L2_GRID, LinearProbe, linear_probe
from rhyme.tasks.linear_norm import NormProbe, norm_probe
from rhyme.tasks.masks import (
    MaskScore,
    boundary_map,
    boundary_similarity,
    mask_score,
    region_similarity,
)
from rhyme.tasks.mstcn import (
    MultiStageTCN,
    SegmenterConfig,
    fit_segmenter,
    predict_frames,
    segmentation_loss,
)
from rhyme.tasks.neighbours import Neighbours, knn_classify, nearest_rows
from rhyme.tasks.propagation import (
    PROPAGATION_PRESETS,
    PropagationRule,
    grid_labels,
    label_map,
    propagate_labels,
)
from rhyme.tasks.retrieval import GroupRetrieval, Retrieval, group_retrieval, retrieval
from rhyme.tasks.segments import (
    OVERLAPS,
    SegmentationScore,
    Segments,
    edit_score,
    match_segments,
    score_segmentation,
    segments,
)
from rhyme.tasks.table import FeatureTable, Statistics, normalise, standardise
from rhyme.tasks.timeline import Timeline, Window, timelines, video_features

__all__ = [
    "L2_GRID",
    "OVERLAPS",
    "PROPAGATION_PRESETS",
    "Aggregate",
    "Classifier",
    "CycleReturn",
    "DenseEncoder",
    "FeatureTable",
    "GroupRetrieval",
    "LinearProbe",
    "MaskScore",
    "MultiStageTCN",
    "Neighbours",
    "NormProbe",
    "PropagationRule",
    "Retrieval",
    "Rhyme",
    "SegmentationScore",
    "SegmenterConfig",
    "Segments",
    "Statistics",
    "Timeline",
    "Tuning",
    "Window",
    "boundary_map",
    "boundary_similarity",
    "cycle_return",
    "dense_encoder",
    "edit_score",
    "encode",
    "encode_parts",
    "extract_features",
    "extract_many",
    "fine_tune",
    "fit_segmenter",
    "grid_labels",
    "group_retrieval",
    "knn_classify",
    "label_map",
    "linear_probe",
    "mask_score",
    "match_segments",
    "nearest_rows",
    "norm_probe",
    "normalise",
    "predict_classes",
    "predict_frames",
    "propagate_labels",
    "region_similarity",
    "retrieval",
    "rhymes",
    "score_segmentation",
    "segmentation_loss",
    "segments",
    "split_groups",
    "standardise",
    "timelines",
    "usable_rows",
    "video_features",
]
