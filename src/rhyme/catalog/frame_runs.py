"""Pictures of a folder that are the frames of a video."""

from __future__ import annotations

import os
import re
from collections import defaultdict

from rhyme.catalog.candidates import Candidate
from rhyme.media import R2V2_SPACING

_R2V2 = re.compile(r"([\w-]{11})_(\d{6})\.jpe?g", re.IGNORECASE | re.ASCII)
_NUMBERED = re.compile(r"(\d+)\.\w+", re.ASCII)


def frame_runs(
    prefix: str, folder: str, pictures: list[tuple[str, os.stat_result]]
) -> tuple[list[Candidate], list[Candidate]]:
    """Frame folders among the pictures of one folder, and the pictures left over.

    Args:
        prefix: the folder's path below the collection, with ``/``; empty for the collection itself.
        folder: its name.
        pictures: names with what the system says of each file.
    """
    by_id: dict[str, list[tuple[str, os.stat_result]]] = defaultdict(list)
    rest: list[tuple[str, os.stat_result]] = []
    for name, facts in pictures:
        match = _R2V2.fullmatch(name)
        if match and match[1][:2] == folder:
            by_id[match[1]].append((name, facts))
        else:
            rest.append((name, facts))
    frames = [_run(prefix + id_, prefix, run, r2v2=True) for id_, run in sorted(by_id.items())]
    numbers = [_NUMBERED.fullmatch(name) for name, _ in rest]
    if len(rest) >= 2 and all(numbers):
        rest.sort(key=lambda pair: (int(pair[0].split(".")[0]), pair[0]))
        frames.append(_run(prefix.rstrip("/") or ".", prefix, rest))
        rest = []
    return frames, [picture(prefix, name, facts) for name, facts in rest]


def _run(
    path: str, prefix: str, run: list[tuple[str, os.stat_result]], *, r2v2: bool = False
) -> Candidate:
    return Candidate(
        path=path,
        kind="frames",
        files=tuple(prefix + name for name, _ in run),
        size=sum(facts.st_size for _, facts in run),
        mtime_ns=run[0][1].st_mtime_ns,
        spacing=R2V2_SPACING if r2v2 else 0.04,
        r2v2=r2v2,
    )


def picture(prefix: str, name: str, facts: os.stat_result) -> Candidate:
    """A picture that is an item by itself."""
    return Candidate(
        path=prefix + name, kind="image", size=facts.st_size, mtime_ns=facts.st_mtime_ns
    )
