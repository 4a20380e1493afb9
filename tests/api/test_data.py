"""How a folder is read is said where it is scanned; a catalog of it refuses to be told again."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import pytest

from rhyme import api
from rhyme.api.data import read_source
from rhyme.catalog import Catalog
from rhyme.encoders import InferencePlan, build_backbone, save_package
from rhyme.errors import ConfigError, DataError, RhymeError, UnknownName
from support.tiny_runs import videos


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog file of a folder of two films."""
    room = tmp_path_factory.mktemp("films")
    videos(room / "films", 2)
    return api.scan(room / "films", out=room / "films.catalog", depth="header", workers=0).path


@pytest.mark.parametrize(("start", "folder"), [("", "."), ("inner", ".."), ("inner", "./..")])
def test_the_folder_that_one_stands_in_is_scanned(
    start: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos(tmp_path / "clips", 1)
    (tmp_path / "clips" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "clips" / start)
    found = api.scan(folder, depth="header")
    assert found.path == tmp_path / "clips.catalog.arrow"
    assert Catalog.open(found.path).root == tmp_path / "clips"


def test_beside_the_root_of_the_file_system_is_nothing() -> None:
    with pytest.raises(ConfigError, match="nothing lies beside"):
        api.scan("/")


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
    for data in (catalog, Catalog.open(catalog)):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}") as refused:
            read_source(data, api.DataOptions(**{name: value}))
        assert refused.value.remedy
        assert refused.value.file == str(catalog)


def test_a_catalog_in_hand_is_read_as_its_file_is(catalog: Path, tmp_path: Path) -> None:
    rows = len(Catalog.open(catalog))
    two = Catalog.open(catalog).with_column("label:kind", ["a", "b"][:rows])
    two = two.with_column("label:place", ["c", "c"][:rows]).with_meta(label_column="kind")
    for data in (two, two.save(tmp_path / "two.arrow").path):
        assert data is not None
        assert read_source(data).label_column == "kind"
        assert read_source(data, api.DataOptions(label_column="place")).label_column == "place"
        with pytest.raises(UnknownName, match="label column"):
            read_source(data, api.DataOptions(label_column="plaice"))
        with pytest.raises(RhymeError, match=r"lists"):
            read_source(data, api.DataOptions(labels="ucf101:/nowhere"))


def test_every_verb_refuses_options_beside_a_catalog(catalog: Path, tmp_path: Path) -> None:
    data, options = Catalog.open(catalog), api.DataOptions(kinds="nonsense")
    for verb in (
        lambda: api.train("moco", data, out=tmp_path / "run", options=options, progress=False),
        lambda: api.prepare(
            data, out=tmp_path / "shards", size=24, options=options, progress=False
        ),
        lambda: api.load(package(tmp_path)).embed(data, options=options),
        lambda: api.evaluate(package(tmp_path), data, options=options, protocols="cycle"),
    ):
        with pytest.raises(ConfigError, match="--kinds says how a folder is scanned"):
            verb()


def test_embedding_what_holds_no_frame_names_files_and_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    with wave.open(str(folder / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    encoder = api.load(package(tmp_path))
    for data in (folder / "a.wav", folder):
        with pytest.raises(DataError, match=r"none of the items gives a frame: a\.wav: ") as caught:
            encoder.embed(data)
        assert caught.value.remedy
        assert "\n" not in caught.value.cause


def package(room: Path) -> Path:
    if not (room / "encoder").exists():
        plan = InferencePlan(size=24, resize=24)
        save_package(room / "encoder", build_backbone("small", seed=0), plan)
    return room / "encoder"


def test_without_such_options_the_catalog_is_read(catalog: Path) -> None:
    assert len(read_source(catalog)) == len(read_source(catalog, api.DataOptions())) == 2
