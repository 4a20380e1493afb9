"""Maps of features for a report: principal components, then t-SNE, of trained and untrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError
from rhyme.report import EmbeddingMaps, FeatureMap
from rhyme.tasks import FeatureTable, nearest_rows, normalise
from rhyme.tasks.table import Float

COMPONENTS, PERPLEXITY, LEAST, NEAR = 50, 30.0, 12, 10


def feature_maps(
    tables: Mapping[str, FeatureTable],
    labels: Sequence[str],
    *,
    seed: int = 0,
    points: int = 600,
) -> EmbeddingMaps:
    """The same frames in the plane, once an encoder.

    Args:
        tables: features of equal items and frames, by the encoder's name.
        labels: class of each item, empty where it has none.
        seed: of t-SNE, and of the items where there are more than points.
        points: most frames; of each item equally many.

    Raises:
        DataError: fewer frames than a map needs, or features that are all alike.
    """
    first = next(iter(tables.values()))
    items = np.arange(len(first))
    if len(items) > points:
        items = np.sort(np.random.default_rng([seed, 5]).permutation(len(items))[:points])
    each = min(first.frames_per_item, max(1, points // len(items)))
    taken = np.linspace(0, first.frames_per_item - 1, 2 * each + 1)[1::2].round().astype(int)
    count = len(items) * each
    if count < LEAST:
        raise DataError(
            f"a map needs {LEAST} frames", stage="report", value=count,
            remedy="hold out more videos",
        )  # fmt: skip
    named = [labels[i] for i in items.tolist() for _ in range(each)]
    group = np.repeat(first.group[items], each)
    perplexity = min(PERPLEXITY, (count - 1) // 4)
    parts = min(COMPONENTS, count - 1, first.dim)
    return EmbeddingMaps(
        maps=[
            _map(
                name,
                normalise(table.features[items][:, taken].reshape(count, -1)),
                named,
                group,
                (parts, perplexity, seed),
            )
            for name, table in tables.items()
        ],
        labels=named,
        videos=len(items),
        components=parts,
        perplexity=perplexity,
        seed=seed,
    )


def _map(
    name: str,
    rows: Float,
    labels: Sequence[str],
    group: NDArray[np.int64],
    how: tuple[int, float, int],
) -> FeatureMap:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE, trustworthiness

    parts, perplexity, seed = how
    if float(rows.std(axis=0).max()) < 1e-6:
        raise DataError(f"all features are alike ({name.lower()})", stage="report")
    pca = PCA(parts, random_state=seed)
    low = pca.fit_transform(rows)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    points = tsne.fit_transform(low)
    near = min(NEAR, (len(rows) - 1) // 2)
    return FeatureMap(
        name=name,
        points=points,
        kept=float(pca.explained_variance_ratio_.sum()),
        faithful=float(trustworthiness(rows, points, n_neighbors=near)),
        same_class=_same_class(rows, labels, group),
    )


def _same_class(rows: Float, labels: Sequence[str], group: NDArray[np.int64]) -> float | None:
    """Share of labelled frames whose nearest frame of another group is of their class."""
    found = nearest_rows(rows, rows, 1, bank_groups=group, query_groups=group).rows[:, 0]
    asked = [i for i, hit in enumerate(found.tolist()) if labels[i] and hit >= 0]
    if not asked:
        return None
    return sum(labels[i] == labels[int(found[i])] for i in asked) / len(asked)
