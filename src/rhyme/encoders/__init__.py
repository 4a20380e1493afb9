"""Encoders: views to features; backbones, heads, and the packages that leave a run."""

from __future__ import annotations

from rhyme.encoders.aggregate import Aggregation, Aggregator
from rhyme.encoders.backbone import Backbone, ClipBackbone, build_backbone, cell_geometry, seeded
from rhyme.encoders.backbone_config import BACKBONES, BackboneConfig
from rhyme.encoders.card import render_card
from rhyme.encoders.cell_places import map_channels
from rhyme.encoders.compose import EncoderWithHeads
from rhyme.encoders.features import Features, InferencePlan
from rhyme.encoders.heads import HEAD_PRESETS, Head, HeadConfig, build_head, unit
from rhyme.encoders.norm import (
    GroupBatchNorm,
    GroupBatchNorm1d,
    GroupBatchNorm2d,
    GroupBatchNorm3d,
)
from rhyme.encoders.package import EncoderPackage, load_package, save_package, untrained
from rhyme.encoders.parts import in_parts
from rhyme.encoders.shelf import open_shelf, recommended_plan
from rhyme.encoders.weights import LoadReport, load_state_file

__all__ = [
    "BACKBONES",
    "HEAD_PRESETS",
    "Aggregation",
    "Aggregator",
    "Backbone",
    "BackboneConfig",
    "ClipBackbone",
    "EncoderPackage",
    "EncoderWithHeads",
    "Features",
    "GroupBatchNorm",
    "GroupBatchNorm1d",
    "GroupBatchNorm2d",
    "GroupBatchNorm3d",
    "Head",
    "HeadConfig",
    "InferencePlan",
    "LoadReport",
    "build_backbone",
    "build_head",
    "cell_geometry",
    "in_parts",
    "load_package",
    "load_state_file",
    "map_channels",
    "open_shelf",
    "recommended_plan",
    "render_card",
    "save_package",
    "seeded",
    "unit",
    "untrained",
]
