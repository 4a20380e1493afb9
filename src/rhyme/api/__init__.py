"""The verbs of rhyme: the same in Python as on the command line."""

from rhyme.api.compare import compare
from rhyme.api.data import DataOptions, ReadOptions, Scanned, read_data, scan, world
from rhyme.api.demo import Demo, demo
from rhyme.api.doctor import Finding, doctor
from rhyme.api.encoder import OffTheShelf, encoder_of, run_or_shelf
from rhyme.api.estimate import Estimate, estimate
from rhyme.api.fit import Trained
from rhyme.api.judge import evaluate
from rhyme.api.launch import LaunchOptions, SlurmOptions, Submitted, submit
from rhyme.api.overlaps import OverlapAnswers, overlap_answers
from rhyme.api.overview import as_yaml, recipe, recipe_names, recipe_values, systems
from rhyme.api.package import Packaged, export_package
from rhyme.api.prepare import prepare, verify
from rhyme.api.recipe import resolve_recipe
from rhyme.api.report import report, report_runs
from rhyme.api.runs import RunLine, run_events, runs
from rhyme.api.train import new_run, reopen, resume, train
from rhyme.api.use import Embedded, Encoder, Found, Moments, embed, export, load, search

__all__ = [
    "DataOptions",
    "Demo",
    "Embedded",
    "Encoder",
    "Estimate",
    "Finding",
    "Found",
    "LaunchOptions",
    "Moments",
    "OffTheShelf",
    "OverlapAnswers",
    "Packaged",
    "ReadOptions",
    "RunLine",
    "Scanned",
    "SlurmOptions",
    "Submitted",
    "Trained",
    "as_yaml",
    "compare",
    "demo",
    "doctor",
    "embed",
    "encoder_of",
    "estimate",
    "evaluate",
    "export",
    "export_package",
    "load",
    "new_run",
    "overlap_answers",
    "prepare",
    "read_data",
    "recipe",
    "recipe_names",
    "recipe_values",
    "reopen",
    "report",
    "report_runs",
    "resolve_recipe",
    "resume",
    "run_events",
    "run_or_shelf",
    "runs",
    "scan",
    "search",
    "submit",
    "systems",
    "train",
    "verify",
    "world",
]
