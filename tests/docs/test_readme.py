"""What the README says is true."""

import json
import re
from pathlib import Path

from benchmarks.pictures_docs import LIMIT_BYTES
from rhyme.cli import COMMANDS
from rhyme.systems import SYSTEMS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_table_of_systems_is_the_registry() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \((.+)\) \| (\w+) \|$", PAGES[0].read_text(), re.M)
    assert rows == [(e.id, e.title, e.paper, e.state) for e in SYSTEMS.values()]
    assert len(rows) == 22


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pictures_of_a_run_stand_with_what_the_run_gave() -> None:
    """``make pictures`` writes both; a caption that was left behind is found here."""
    images = ROOT / "docs" / "images"
    for name, told in json.loads((images / "report.json").read_text(encoding="utf-8")).items():
        assert (images / name).stat().st_size <= LIMIT_BYTES
        shown = [page for page in PAGES if f"images/{name})" in page.read_text(encoding="utf-8")]
        assert shown, name
        for page in shown:
            assert told in " ".join(page.read_text(encoding="utf-8").split()), (
                f"{page.name}: {name}"
            )


def test_commands_in_the_docs_exist() -> None:
    for page in PAGES:
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.S))
        for command in re.findall(r"^rhyme ([a-z-]+)", blocks, re.M):
            assert command in COMMANDS, f"{page.name}: rhyme {command}"


def test_every_page_is_in_the_contents() -> None:
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        contents = (page.parent / "index.md").read_text().splitlines()
        assert page.stem == "index" or page.stem in contents, page
    assert "systems/index" in (docs / "index.md").read_text().splitlines()


def test_the_list_of_systems_is_the_registry() -> None:
    """One line each, by family, with its state; what can be trained has a page."""
    page = (ROOT / "docs" / "systems" / "index.md").read_text()
    rows = re.findall(r"^\| (?:\[`(\w+)`\]\(\w+\.md\)|`(\w+)`) \| .+ \| (\w+) \|$", page, re.M)
    listed = {paged or bare: (state, bool(paged)) for paged, bare, state in rows}
    assert listed == {e.id: (e.state, e.state != "planned") for e in SYSTEMS.values()}


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert target in targets, f"{page.name}: make {target}"
