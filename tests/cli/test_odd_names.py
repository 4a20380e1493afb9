"""Files and folders with names that shells, tables, pages and templates stumble over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_runs import MOCO, contents, flags, rhyme, world

NAMES = [
    "a@3.mp4",
    "b [bold red].mp4",
    "<img src=x onerror=alert(1)>.mp4",
    "new\nline.mp4",
    'quote".mp4',
    "it's.mp4",
    "ümlaut 視頻.mp4",
    "-dash.mp4",
    "{{7*7}}.mp4",
    "comma,semi;.mp4",
    "\x1b[31mred.mp4",
    "%s %d.mp4",
    "UPPER.MP4",
    ".hidden start.mp4",
] + [f"plain{i}.mp4" for i in range(6)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folder, a run on it and a store of it."""
    place = tmp_path_factory.mktemp("odd")
    folder, run, store = place / "clips [red] <b>", place / "run <i>", place / "store {x}"
    folder.mkdir()
    films = sorted((world() / "videos").rglob("*.mp4"))
    for name, film in zip(NAMES, films, strict=False):
        shutil.copy(film, folder / name)
    with open(os.fsencode(folder) + b"/bad\xff.mp4", "wb") as file:  # noqa: PTH123 - bytes
        file.write(films[30].read_bytes())
    trained = rhyme(
        "train", "moco_world_demo", "--data", folder, "--out", run, "--json", *flags(MOCO)
    )
    assert trained.code == 3, trained.err
    assert trained.document["quarantined"] == 1
    events = (run / "events.jsonl").read_text()
    assert "not valid UTF-8" in events
    embedded = rhyme("embed", run, "--data", folder, "--store", store, "--json")
    assert embedded.code == 3, embedded.err
    return folder, run, store


def test_every_name_is_found_again(odd: tuple[Path, Path, Path]) -> None:
    folder, _, store = odd
    kept = {p.name for p in folder.iterdir() if not p.name.startswith(".")} - {"bad\udcff.mp4"}
    found = rhyme("search", store, "--query", f"{folder / 'a@3.mp4'}@0.5", "-k", "99", "--json")
    assert found.code == 0, found.err
    assert kept <= {Path(hit["path"]).name for hit in found.document["hits"]}


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_query_may_have_an_odd_name(name: str, odd: tuple[Path, Path, Path]) -> None:
    folder, _, store = odd
    for query in (folder / name, f"{folder / name}@0.5"):
        found = rhyme("search", store, "--query", query, "-k", "1", "--exclude-same-group")
        assert found.code == 0, found.err


def test_nothing_reaches_the_terminal_or_the_page_unescaped(odd: tuple[Path, Path, Path]) -> None:
    folder, run, store = odd
    shown = rhyme("search", store, "--query", folder / "it's.mp4", "-k", "99")
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out
    assert "[bold red]" in shown.out
    assert all(line.strip() != "line.mp4" for line in shown.out.splitlines())
    judged = rhyme("evaluate", run)
    assert judged.code == 3, judged.err
    assert rhyme("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "<img src=x" not in page
    assert "<b>" not in page.split("<main", 1)[0].split("<style", 1)[0]
    assert "\x1b" not in page


@pytest.mark.slow
def test_an_ascii_terminal_is_enough(odd: tuple[Path, Path, Path]) -> None:
    folder, _, store = odd
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = ["search", str(store), "--query", str(folder / "it's.mp4"), "-k", "99"]
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", "from rhyme.cli import main; main()", *command, *more],
            capture_output=True,
            env={**os.environ, **ascii_only, "OMP_NUM_THREADS": "1"},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert "mlaut" in done.stdout.decode("ascii")
    names = {Path(hit["path"]).name for hit in json.loads(done.stdout)["hits"]}
    assert "ümlaut 視頻.mp4" in names


def test_the_folder_itself_is_never_written_to(odd: tuple[Path, Path, Path]) -> None:
    folder, _, _ = odd
    assert len(contents(folder)) == len(NAMES) + 1
