"""Rules of the house that no linter knows."""

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "rhyme"
FILES = sorted(SOURCE.rglob("*.py"))


def test_only_distributed_talks_to_torch_distributed() -> None:
    talks = re.compile(
        r"torch\.distributed|from torch import distributed|import torch\.distributed"
    )
    code = {f: re.sub(r'""".*?"""|#[^\n]*', "", f.read_text(), flags=re.S) for f in FILES}
    found = {f for f, text in code.items() if talks.search(text)}
    others = {f.name for f in found if f.parent.name != "distributed"}
    assert others <= {"board.py", "parallel.py"}


def test_files_are_short() -> None:
    assert len(FILES) > 50
    long = {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_nothing_unpickles() -> None:
    """Pickle is read only from rhyme's own pipes."""
    reads = [f.relative_to(SOURCE) for f in FILES if "pickle.load" in f.read_text()]
    assert {str(f.parent) for f in reads} <= {"workers"}


def test_no_global_generator_below_the_loop() -> None:
    draws = re.compile(r"np\.random\.(seed|rand|randn|randint|permutation|choice)\(")
    assert [f.name for f in FILES if draws.search(f.read_text())] == []


def test_no_length_of_time_is_read_from_the_wall_clock() -> None:
    """It jumps, by a time server or in a machine that was asleep; `perf_counter` does not."""
    reads = re.compile(r"\btime\.time(_ns)?\b|\bfrom time import\b")
    assert [f.name for f in FILES if reads.search(f.read_text())] == []
