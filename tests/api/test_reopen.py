"""A run that is to go on with other options: they are kept when all of them are checked."""

from __future__ import annotations

import sys

import pytest

from rhyme import api
from rhyme.errors import ConfigError
from rhyme.recipes import load_recipe, recipe, recipe_to_dict
from rhyme.run import RunFolder
from support.logs import events


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(sys.modules["rhyme.api.train"], "tell_missing", lambda *given: None)
    return RunFolder.create(tmp_path / "run", recipe_to_dict(recipe("moco_folder_cpu")))


@pytest.mark.parametrize(
    ("overrides", "ranks", "says"),
    [
        ({"train.loggers": ["tensorbord"]}, 1, "unknown logger"),
        ({"train.loggers": ["wandb"]}, 1, "not installed"),
        ({"train.workers": 1}, 7, "ranks"),
        ({"train.workers": -1}, 1, "workers"),
    ],
)
def test_options_that_do_not_fit_leave_the_run_as_it_was(run, overrides, ranks, says) -> None:
    before = run.config.read_bytes()
    with pytest.raises(ConfigError, match=says):
        api.reopen(run.path, ranks=ranks, overrides=overrides)
    assert run.config.read_bytes() == before
    assert not events(run, "changed")


def test_options_that_fit_are_kept(run) -> None:
    api.reopen(run.path, overrides={"train.workers": 1})
    assert load_recipe(run.config).train.workers == 1
    assert events(run, "changed")[0]["options"] == {"train.workers": 1}


@pytest.mark.parametrize(
    ("kept", "asked", "goes_on"),
    [
        ("cpu", None, "cpu"),
        ("auto", None, "auto"),
        ("auto", "cpu", "cpu"),
        ("cuda:77", None, "auto"),
        ("cuda:77", "cpu", "cpu"),
    ],
)
def test_a_run_goes_on_where_its_recipe_says(
    run, capsys, monkeypatch, kept, asked, goes_on
) -> None:
    recipe_of_run = run.config.read_text().replace("device: auto", f"device: {kept}")
    run.config.write_text(recipe_of_run)
    assert load_recipe(run.config).train.device == kept
    where: list[str] = []
    monkeypatch.setattr(
        sys.modules["rhyme.api.train"], "fit_run", lambda path, device, **rest: where.append(device)
    )
    api.resume(run.path, device=asked)
    assert where == [goes_on]
    assert ("cuda:77, the device of the run, is not here" in capsys.readouterr().err) == (
        kept == "cuda:77" and asked is None
    )
