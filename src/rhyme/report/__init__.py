"""Reports: a run or a collection as one self-contained HTML page, and the model card.

The room draws plain data (:class:`ReportData`), which can be had from the text files of a run, or
from a file of result rows, alone.
"""

import sys

from rhyme.errors import RoomLikeAVerb
from rhyme.report.card import model_card
from rhyme.report.collect import collect, collect_results
from rhyme.report.data import (
    ClipPair,
    Frame,
    ReportData,
    Rhyme,
    RunFacts,
    SeenClip,
    SegmentStrip,
    Strip,
    Told,
)
from rhyme.report.findings import ClassShare, EmbeddingMaps, FeatureMap
from rhyme.report.page import render, write_report
from rhyme.report.several import render_runs, write_runs_report

__all__ = [
    "ClassShare",
    "ClipPair",
    "EmbeddingMaps",
    "FeatureMap",
    "Frame",
    "ReportData",
    "Rhyme",
    "RunFacts",
    "SeenClip",
    "SegmentStrip",
    "Strip",
    "Told",
    "collect",
    "collect_results",
    "model_card",
    "render",
    "render_runs",
    "write_report",
    "write_runs_report",
]

sys.modules[__name__].__class__ = RoomLikeAVerb
