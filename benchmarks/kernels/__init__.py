"""The kernels against plain PyTorch and the best public implementations, a module each.

Compared: see ``product`` (what all stand on), ``queue`` (contrast with a queue), ``batch``
(contrast within a batch), ``nearest`` (exact nearest neighbours) and ``window`` (affinity between
the frames of a video).

Checked: in each case values, and gradients where there are any.

Expected: the figures of each module, fixed before anything was measured.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from benchmarks.kernels import batch, nearest, product, queue, window
from benchmarks.ratio import Case


def cases(room: Path, quick: bool) -> Iterator[Case]:
    return chain.from_iterable(
        part.cases(room, quick) for part in (product, queue, batch, nearest, window)
    )
