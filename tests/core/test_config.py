from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from rhyme import config
from rhyme.errors import ConfigError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    name: Literal["a", "b"] = "a"
    sizes: tuple[int, int] = (1, 2)
    switch: Literal["off", "on", "auto", None] = "auto"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 3
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    names: tuple[str, ...] = ()
    table: dict[str, int] = field(default_factory=dict)


FULL = Outer(
    steps=7, inner=Inner(rate=0.5, name="b"), other=Inner(), names=("x", "y"), table={"k": 2}
)


def test_a_configuration_survives_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(config.dump_yaml(FULL))
    assert config.load(Outer, tmp_path / "c.yaml") == FULL


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"inner\.rat'") as caught:
        config.from_dict(Outer, {"inner": {"rat": 1}})
    assert "did you mean 'rate'" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"inner": {"name": "c"}}, "inner.name"),
        ({"inner": {"name": True}}, "inner.name"),
        ({"inner": {"switch": "of"}}, "inner.switch"),
        ({"inner": {"sizes": [1]}}, "inner.sizes"),
        ({"inner": {"sizes": [1, "x"]}}, "inner.sizes.1"),
        ({"inner": 3}, "inner"),
        ({"names": "xy"}, "names"),
    ],
)
def test_a_wrong_value_names_its_option(values: dict, where: str) -> None:
    with pytest.raises(ConfigError, match=where.replace(".", r"\.")):
        config.from_dict(Outer, values)


@dataclass(frozen=True, kw_only=True)
class Wide:
    width: int = 3
    share: tuple[float, float] = (0.2, 1.0)


@dataclass(frozen=True, kw_only=True)
class Either:
    form: Inner | Wide = field(default_factory=Wide)


def test_of_several_forms_the_one_that_was_meant_speaks() -> None:
    with pytest.raises(ConfigError, match=r"wrong value for 'form\.share'") as wrong:
        config.from_dict(Either, {"form": {"width": 5, "share": 3}})
    assert "2 values [float, float]" in str(wrong.value)
    with pytest.raises(UnknownName, match=r"form\.gain") as unknown:
        config.from_dict(Either, {"form": {"width": 5, "gain": 3}})
    assert "share" in str(unknown.value)


def test_a_bare_on_or_off_in_yaml_is_the_word(tmp_path: Path) -> None:
    for word in ("on", "off", "auto"):
        (tmp_path / "c.yaml").write_text(f"inner:\n  switch: {word}\n")
        assert config.load(Outer, tmp_path / "c.yaml").inner.switch == word


def test_override_changes_one_leaf_and_checks_it() -> None:
    changed = config.override(FULL, {"inner.rate": 2, "steps": 1, "other.name": "b"})
    assert changed.inner == Inner(rate=2.0, name="b")
    assert changed.steps == 1
    assert changed.other == Inner(name="b")
    assert FULL.inner.rate == 0.5
    with pytest.raises(UnknownName, match="did you mean 'steps'"):
        config.override(FULL, {"stepz": 1})
    with pytest.raises(ConfigError, match="not set"):
        config.override(Outer(), {"other.rate": 1.0})


def test_diff_and_fingerprint_see_every_leaf() -> None:
    changed = config.override(FULL, {"inner.rate": 0.25})
    assert config.diff(FULL, changed) == {"inner.rate": (0.5, 0.25)}
    assert config.fingerprint(FULL) != config.fingerprint(changed)
    again = config.from_dict(Outer, dict(reversed(config.to_dict(FULL).items())))
    assert config.fingerprint(FULL) == config.fingerprint(again)


def test_yaml_with_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "evil.yaml"
    path.write_text(f'steps: !!python/object/apply:os.system ["touch {marker}"]')
    with pytest.raises(ConfigError, match="not a plain YAML"):
        config.load(Outer, path)
    assert not marker.exists()
    path.write_text("- 1\n- 2")
    with pytest.raises(ConfigError, match="table"):
        config.load(Outer, path)
    with pytest.raises(ConfigError, match="no such"):
        config.load(Outer, tmp_path / "missing.yaml")
