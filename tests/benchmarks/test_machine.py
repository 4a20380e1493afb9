from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import machine


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, in the place of this one."""
    for name in ("code.py", "results/rows.jsonl", "docs/page.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("RHYME_COMMIT", raising=False)
    return tmp_path


def test_a_commit_is_dirty_by_its_code_and_not_by_rows_and_pages(checkout: Path) -> None:
    clean = machine.revision()
    assert len(clean) == 12
    for name in ("results/rows.jsonl", "results/new.jsonl", "docs/page.md"):
        (checkout / name).write_text("second\n")
    assert machine.revision() == clean
    (checkout / "code.py").write_text("second\n")
    assert machine.revision() == f"{clean}-dirty"


def test_code_that_was_never_added_is_a_change_too(checkout: Path) -> None:
    (checkout / "new.py").touch()
    assert machine.revision().endswith("-dirty")


def test_a_copy_without_history_is_told_its_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHYME_COMMIT", "abc")
    assert machine.revision() == "abc"
