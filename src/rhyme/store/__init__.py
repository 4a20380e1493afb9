"""Embeddings of a collection: write them, add to them, search them, look at what was found.

Example:
    >>> write_store("my.store", "runs/mine/encoder", catalog)
    >>> store = open_store("my.store")
    >>> hits = store.search(("my_videos/a.mp4", 12.5), k=10, exclude_same_group=True)
    >>> contact_sheet(hits, "sheet.png", query=("my_videos/a.mp4", 12.5), store=store)
"""

from __future__ import annotations

from rhyme.store.layout import StoreInfo
from rhyme.store.query import parse_query, readable_time
from rhyme.store.search import Hit, Store, open_store
from rhyme.store.sheet import contact_sheet
from rhyme.store.write import StoreSummary, write_store

__all__ = [
    "Hit",
    "Store",
    "StoreInfo",
    "StoreSummary",
    "contact_sheet",
    "open_store",
    "parse_query",
    "readable_time",
    "write_store",
]
