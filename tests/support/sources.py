"""Batches of a catalog, for tests."""

import itertools
from typing import Any

from rhyme.catalog import Catalog
from rhyme.loading import Batch, CatalogSource, Source
from rhyme.views import ViewPlan


def take(source: Source, count: int) -> list[Batch]:
    """The next batches of a source; its stream is closed."""
    stream = source.batches()
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def make(catalog: Catalog, plan: ViewPlan, **options: Any) -> CatalogSource:
    """A source with small batches and a seed, unless told otherwise."""
    return CatalogSource(catalog, plan, **({"batch_size": 4, "seed": 3} | options))
