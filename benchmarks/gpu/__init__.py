"""What only a GPU can show: ``python -m benchmarks.gpu [cases ...]``, or ``make gpu``.

python -m benchmarks.gpu                    all cases, rows appended to results/bench.jsonl
python -m benchmarks.gpu gpu/batch gpu/top_k  those that so begin
python -m benchmarks.gpu --quick            small and once each: does everything run and agree?
python -m benchmarks.gpu --seconds 200      begins no case after that time
python -m benchmarks.gpu.tune               block sizes beside each other, no row written
python -m benchmarks.gpu.anatomy            where the time of a step goes, no row written

Compared: see ``queue`` (a queue), ``batch`` (a batch), ``nearest`` (search and affinity), ``step``
(steps of training), ``views`` (augmentation) and ``pictures`` (both, where pictures are small).

Checked: in each case values, and gradients where there are any, against float64 or float32.

Expected: the figures of each module, fixed before anything was measured. It imports only what the
kernels, objectives and systems need; where PyAV is absent a stand-in takes its place, since no case
reads a video.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.stand_in import without_video
from benchmarks.ratio import Case

without_video()

PARTS = ("queue", "batch", "nearest", "step", "views", "pictures")


def cases(room: Path, quick: bool, asked: tuple[str, ...] = ()) -> Iterator[Case | Exception]:
    """All cases of the parts that are asked for; the error in place of what cannot be made."""
    for part in PARTS:
        whole = f"gpu/{part}"
        if asked and not any(whole.startswith(a[: len(whole)]) for a in asked):
            continue
        try:
            yield from import_module(f"benchmarks.gpu.{part}").cases(room, quick)
        except Exception as error:  # the other parts go on
            error.add_note(f"in {whole}")
            yield error
