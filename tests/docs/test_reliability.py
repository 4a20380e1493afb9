"""Each promise of the page on reliability names a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(\w+): (test_\w+)`", PAGE)
    assert len(named) > 25
    for room, name in named:
        files = (ROOT / "tests" / room).glob("test_*.py")
        defined = [re.search(rf"^def {name}\(", file.read_text(), re.M) for file in files]
        assert any(defined), f"tests/{room}: {name}"


def test_every_row_names_a_test() -> None:
    _, *sections = PAGE.split("\n## ")
    for section in sections:
        rows = re.findall(r"^\| (?!what |---).*", section, re.M)
        assert all(": test_" in row for row in rows)


def test_exit_codes_are_those_of_the_errors() -> None:
    from rhyme import errors
    from rhyme.training import Preempted

    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    raised = {k.exit_code for k in kinds if issubclass(k, errors.RhymeError)}
    assert codes == raised | {0, 3, Preempted.exit_code}
