"""Every command that the README or the docs show can be typed as it stands."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rhyme.api import DataOptions, LaunchOptions
from rhyme.api.recipe import resolve_recipe
from rhyme.cli import COMMANDS, run
from rhyme.cli.answer import Answer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: str) -> list[str]:
    """Lines that begin with ``rhyme`` in the shell blocks of a page, continued lines joined."""
    blocks = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", page, re.S | re.M)
    shell = [text for language, text in blocks if language in ("", "bash", "sh", "console")]
    text = "\n".join(shell).replace("\\\n", " ")
    return re.findall(r"^(?:\$ )?(rhyme .+)$", text, re.M)


def inline(page: str) -> list[str]:
    """Whole commands in running text, such as ``rhyme train moco``."""
    return re.findall(r"`(rhyme [^`]*)`", page)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Commands are parsed and kept, never run."""
    kept: list[Any] = []

    def keep(self: Any, overrides: Any = None) -> Answer:
        if overrides and hasattr(self, "recipe"):
            resolve_recipe(self.recipe, overrides)  # a mistyped dotted option fails here
        kept.append(self)
        return Answer(document=None)

    for target, _ in COMMANDS.values():
        module, name = target.split(":")
        monkeypatch.setattr(getattr(importlib.import_module(module), name), "__call__", keep)
    return kept


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_can_be_parsed(
    page: Path, parsed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = commands(page.read_text())
    for command in found:
        arguments = shlex.split(command, comments=True)[1:]
        assert run(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
    asked_for_help = sum("--help" in command for command in found)
    assert len(parsed) == len(found) - asked_for_help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_text_name_real_options(page: Path) -> None:
    for command in inline(page.read_text()):
        name = command.split()[1]
        if name.isupper():  # `rhyme COMMAND --help`
            continue
        assert name in COMMANDS, command
        module, attribute = COMMANDS[name][0].split(":")
        fields = set(getattr(importlib.import_module(module), attribute).__dataclass_fields__)
        if "reading" in fields:  # a group of flags of its own
            fields |= set(DataOptions.__dataclass_fields__)
        if "launching" in fields:
            fields |= set(LaunchOptions.__dataclass_fields__)
        for option in re.findall(r"--([a-z-]+)(?![\w.-])", command):
            assert option == "help" or option.replace("-", "_") in fields, command


def test_options_of_the_ablations_exist() -> None:
    """Dotted options that a system's page lists, those of a span together, fit its small recipe."""
    seen = 0
    for page in (ROOT / "docs" / "systems").glob("*.md"):
        for text in re.findall(r"`(--(?:model|train|data)\.[^`]+)`", page.read_text()):
            words = shlex.split(text)
            values = zip(words[::2], words[1::2], strict=True)
            resolve_recipe(page.stem, {key[2:]: _read(value) for key, value in values})
            seen += 1
    assert seen > 10


def _read(value: str) -> Any:
    import yaml

    return yaml.safe_load(value)


def test_a_mistyped_option_is_found(parsed: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        "rhyme embed runs/mine --data x --stor y",
        "rhyme train moco --data x --out y --train.stepz 3",
        "rhyme serch my.store",
    ):
        assert run(shlex.split(wrong)[1:]) == 2, wrong
    assert parsed == []
    capsys.readouterr()


def test_blocks_are_read_as_meant() -> None:
    page = "```bash\nrhyme a \\\n  --b  # why\nmake x\n```\n```python\nrhyme b\n```\n"
    page += "```{note}\nrhyme c\n```\n```sh\nrhyme d\n```\n"
    found = [command.split() for command in commands(page)]
    assert found == [["rhyme", "a", "--b", "#", "why"], ["rhyme", "d"]]
