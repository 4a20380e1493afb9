"""A collection becomes a table of items: scan, quarantine, labels, groups, splits."""

from __future__ import annotations

from rhyme.catalog.assemble import segments
from rhyme.catalog.catalog import Catalog
from rhyme.catalog.data import cache_folder, open_data
from rhyme.catalog.lists import LIST_FORMS, OfficialLists, official_lists, relabelled
from rhyme.catalog.missing import missing_files, without_files
from rhyme.catalog.prepared import find_prepared, prepared_catalog, refusal_of
from rhyme.catalog.relabel import labelled
from rhyme.catalog.scan import scan
from rhyme.catalog.schema import Item, ItemFacts, stable_id
from rhyme.catalog.splits import Fold, assign_splits, folds
from rhyme.catalog.storage import FILE_NAME

__all__ = [
    "FILE_NAME",
    "LIST_FORMS",
    "Catalog",
    "Fold",
    "Item",
    "ItemFacts",
    "OfficialLists",
    "assign_splits",
    "cache_folder",
    "find_prepared",
    "folds",
    "labelled",
    "missing_files",
    "official_lists",
    "open_data",
    "prepared_catalog",
    "refusal_of",
    "relabelled",
    "scan",
    "segments",
    "stable_id",
    "without_files",
]
