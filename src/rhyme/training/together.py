"""A checkpoint of which every rank has a part: one folder, one manifest, one rename.

The first rank opens the folder under its temporary name, every rank writes the slices that it holds
into a file of its own, and when all have, the first rank commits the whole. A rank that fails says
so, and nothing is committed. All of it may run in the background: it talks through a group that
nothing else uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rhyme import distributed
from rhyme.training import checkpoint


def save_together(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    slices: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int,
    keep_every: int | None = None,
    spare: int | None = None,
) -> None:
    """Write a checkpoint on all ranks together, and drop the oldest ones.

    Args:
        folder: the run's ``checkpoints``, which all ranks can reach.
        step: steps done.
        tensors: on the first rank: whole tensors by flat name, as for :func:`checkpoint.save`.
        slices: this rank's rows of sliced tensors, by the same names on all ranks.
        state: on the first rank: JSON data.
        keep: newest checkpoints that stay, this one included.
        keep_every: those of every so many steps stay as well.
        spare: on the first rank: the one of this step stays as well.

    Raises:
        CheckpointError: on the first rank: the disk refuses on some rank; earlier checkpoints are
            as they were.
    """
    group, rank = distributed.saving_group(), distributed.rank()
    draft = checkpoint.Draft(folder, step)
    failure: OSError | None = None
    try:
        if rank == 0:
            draft.open()
    except OSError as error:
        failure = error
    if any(distributed.exchange(failure is not None, group)):
        if failure is not None:
            raise draft.refused(failure) from failure
        return
    listed: dict[str, dict[str, Any]] = {}
    try:
        name = f"{checkpoint.SLICES}{rank:05d}.safetensors"
        listed[name] = draft.add(name, slices)
        if rank == 0:
            listed[checkpoint.TENSORS] = draft.add(checkpoint.TENSORS, tensors)
            text = json.dumps(state, allow_nan=False, ensure_ascii=True)
            listed[checkpoint.STATE] = draft.add(checkpoint.STATE, text.encode())
    except OSError as error:
        failure = error
    cause = "" if failure is None else f"rank {rank}: {failure.strerror or failure}"
    answers = distributed.exchange((listed, cause), group)
    if rank != 0:
        return
    try:
        for _, cause in answers:
            if cause:
                raise OSError(cause)
        draft.commit({name: facts for table, _ in answers for name, facts in table.items()})
    except OSError as error:
        raise draft.refused(error) from error
    checkpoint.prune(folder, step, keep, keep_every, spare)
