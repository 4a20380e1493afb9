"""What a command answers: a document for machines and the same for people."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rhyme.errors import RhymeError, printable
from rhyme.notices import tell


@dataclasses.dataclass(kw_only=True)
class Answer:
    """The answer of a command.

    Attributes:
        document: what ``--json`` prints, one JSON document.
        show: what a person reads: strings and rich tables, printed in order.
        exit_code: 0 done, 1 failed, 3 done with quarantined files.
    """

    document: Any
    show: Sequence[Any] = ()
    exit_code: int = 0


def plain(value: Any) -> Any:
    """Any of rhyme's results as JSON-ready data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    return value


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str | None = None,
    *,
    right: Sequence[str] = (),
) -> Table:
    """A table for people; cells are escaped, numbers and the columns ``right`` stand right."""
    built = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        number = bool(cells) and all(isinstance(c, int | float) for c in cells)
        number = number or column in right
        built.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        built.add_row(*(Text(_cell(value)) for value in row))
    return built


def _cell(value: Any) -> str:
    if isinstance(value, float):
        value = 0.0 if abs(value) < 1e-12 else value  # what is left of a difference of equals
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return printable(", ".join(f"{name} {_cell(one)}" for name, one in pairs))
    return "" if value is None else printable(str(value))


@contextlib.contextmanager
def answering(*, listing: bool) -> Generator[None]:
    """Within it standard output is written, to the last letter.

    Args:
        listing: nothing but a list is shown: a reader that goes (``| head``) has had its fill.

    Raises:
        RhymeError: nobody got the answer.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not (listing and isinstance(error, BrokenPipeError)):
            raise RhymeError(
                f"the answer could not be written: {error.strerror or error}",
                file="standard output",
                remedy="the work itself is done; give the output a reader, or a file on a disk "
                "with room",
            ) from error


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # to who knows what was written; rich itself would end the process


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Print an answer on standard output."""
    if as_json:
        sys.stdout.write(json.dumps(plain(answer.document)) + "\n")
        sys.stdout.flush()
        return
    # A pipe or a log has no width: rows stay whole there.
    console = _Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    for part in answer.show:
        console.print(part if isinstance(part, Table) else Text(str(part)))


def print_error(error: RhymeError, *, as_json: bool) -> None:
    """Print a foreseen failure: on standard error, and as the document under ``--json``."""
    if as_json:
        with contextlib.suppress(OSError):  # a full disk behind a pipe; standard error says it
            sys.stdout.write(json.dumps(error.facts()) + "\n")
            sys.stdout.flush()
    tell(f"rhyme: {error}".encode("utf-8", "backslashreplace").decode())
