"""What users write by the docs is understood by a strict type checker, and mistakes are seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.pages import GIVEN, PAGES, ROOT, name_of, python

PAGES_AS_TYPED = {
    "typeCheckingMode": "strict",
    "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    **dict.fromkeys(
        (
            # As in pyproject.toml: torch leaves much untyped.
            "reportUnknownMemberType",
            "reportUnknownVariableType",
            "reportUnknownArgumentType",
            "reportMissingTypeStubs",
            # Blocks name what they return, and begin with their own imports.
            "reportUnusedExpression",
            "reportUnusedImport",
            "reportDuplicateImport",
        ),
        False,
    ),
}

MISTAKES = """
import rhyme

rhyme.trian("moco", "my_videos", out="runs/mine")
rhyme.train("moco", "my_videos", outs="runs/mine")
rhyme.train("moco", "my_videos", out="runs/mine", seed="0")
rhyme.scan("my_videos", label_colum="action")
rhyme.scan("my_videos", depth="deep")
rhyme.world("world", video=3)
rhyme.load("runs/mine").embed("my_videos", evry=1.0)
rhyme.search("my.store", "a.mp4@1").hits[0].scor
rhyme.evaluate("runs/mine").rows.top1
rhyme.report("runs/mine")
rhyme.api.report("runs/mine", dat="my_videos")
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the checker says of each file."""
    checker = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    if checker is None:
        pytest.skip("no basedpyright: make setup")
    folder = tmp_path_factory.mktemp("typed")
    settings = {**PAGES_AS_TYPED, "extraPaths": [str(ROOT / "src")]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    (folder / "mistakes.py").write_text(MISTAKES)
    for page in PAGES:
        if python(page):
            text = GIVEN.get(name_of(page), "") + "\n".join(b.text for b in python(page))
            (folder / f"{name_of(page).replace('/', '_')}.py").write_text(text)
    done = subprocess.run(
        [checker, "--outputjson", "--pythonpath", sys.executable, "--project", str(folder)],
        capture_output=True,
        text=True,
    )
    said: dict[str, list[dict[str, Any]]] = {file.stem: [] for file in folder.glob("*.py")}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            said[Path(one["file"]).stem].append(one)
    return said


def test_the_python_of_the_docs_is_typed(found: dict[str, list[dict[str, Any]]]) -> None:
    assert {"README", "docs_quickstart", "docs_python"} <= found.keys()
    wrong = [
        f"{name}: {one['message']}"
        for name, errors in found.items()
        if name != "mistakes"
        for one in errors
    ]
    assert not wrong


def test_mistakes_in_the_verbs_are_seen(found: dict[str, list[dict[str, Any]]]) -> None:
    """The signatures say enough: every line of eleven has one mistake, and each is told."""
    lines = {one["range"]["start"]["line"] for one in found["mistakes"]}
    assert lines == {i for i, line in enumerate(MISTAKES.splitlines()) if "rhyme." in line}
