"""How a folder is read is said where it is scanned; a catalog of it refuses to be told again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rhyme import api
from rhyme.api.data import read_source
from rhyme.errors import ConfigError
from support.tiny_runs import videos


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog file of a folder of two films."""
    room = tmp_path_factory.mktemp("films")
    videos(room / "films", 2)
    return api.scan(room / "films", out=room / "films.catalog", depth="header", workers=0).path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", "none"),
        ("group_column", "place"),
        ("split_column", "fold"),
        ("kinds", "video"),
        ("path_column", "clip"),
        ("spacing", 2.0),
        ("segment", 2.0),
    ],
)
def test_an_option_of_the_scan_is_refused_for_a_catalog(
    catalog: Path, name: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}") as refused:
        read_source(catalog, api.DataOptions(**{name: value}))
    assert refused.value.remedy
    assert refused.value.file == str(catalog)


def test_without_such_options_the_catalog_is_read(catalog: Path) -> None:
    assert len(read_source(catalog)) == len(read_source(catalog, api.DataOptions())) == 2
