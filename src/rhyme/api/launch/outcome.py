"""How a rank ended, as a small file that the process which started it reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rhyme.api.fit import Trained
from rhyme.errors import RhymeError, from_facts
from rhyme.run import atomic_write

Outcome = Trained | RhymeError


def write(folder: Path, rank: int, outcome: Outcome) -> None:
    """Keep how a rank ended."""
    if isinstance(outcome, RhymeError):
        facts: dict[str, Any] = {"failure": outcome.facts()}
    else:
        facts = {"done": dataclasses.asdict(outcome)}
    atomic_write(folder / f"{rank}.json", json.dumps(facts, default=str))


def read(folder: Path, rank: int) -> Outcome | None:
    """How a rank ended; None while it has not said."""
    try:
        facts = json.loads((folder / f"{rank}.json").read_text())
    except FileNotFoundError:
        return None
    if "failure" in facts:
        return from_facts(facts["failure"])
    done: dict[str, Any] = facts["done"]
    done.update({name: Path(done[name]) for name in ("path", "encoder")})
    return Trained(**done)


def forget(folder: Path, rank: int) -> None:
    """Drop what an earlier start has left."""
    (folder / f"{rank}.json").unlink(missing_ok=True)


def common(folder: Path, ranks: int) -> Outcome | None:
    """How all of them ended: what the leader says, or else the failure that another one has met."""
    found = [read(folder, rank) for rank in range(ranks)]
    failures = [f for f in found if isinstance(f, RhymeError)]
    return found[0] or (failures[0] if failures else None)


def errors_of(folder: Path, rank: int) -> Path:
    """What a rank has to say beside: its standard error, where that is not shown."""
    return folder / f"{rank}.err"
