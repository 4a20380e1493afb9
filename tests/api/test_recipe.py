"""Which recipe a run has: its file, its options, and what may change when it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from rhyme.api.recipe import settle_recipe
from rhyme.errors import ConfigError
from rhyme.recipes import load_recipe, recipe_to_dict
from rhyme.recipes import recipe as named
from rhyme.run import read_jsonl
from support.tiny_runs import OVERRIDES, flags, refused, rhyme, trained, videos


@pytest.fixture
def own(tmp_path: Path) -> Path:
    values = recipe_to_dict(named("moco"))
    values["train"] |= {"seed": 7, "device": "cuda"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_seed_and_device_of_a_file_hold_unless_they_are_given(own: Path) -> None:
    found = settle_recipe(own)
    assert (found.train.seed, found.train.device) == (7, "cuda")
    found = settle_recipe(own, seed=0, device="cpu")
    assert (found.train.seed, found.train.device) == (0, "cpu")
    found = settle_recipe(own, {"train.seed": 3}, device="cpu")
    assert (found.train.seed, found.train.device) == (3, "cpu")
    assert settle_recipe("moco").train.seed == 0
    assert settle_recipe("moco", {"train.seed": 3}, seed=3).train.seed == 3
    with pytest.raises(ConfigError, match=r"two values for train\.seed") as caught:
        settle_recipe("moco", {"train.seed": 3}, seed=4)
    assert "--train.seed or --seed" in str(caught.value.remedy)


def test_a_run_takes_its_seed_from_its_file(own: Path, tmp_path: Path) -> None:
    videos(tmp_path / "films", 16)
    given = ["--data", tmp_path / "films", *flags(OVERRIDES["moco"]), "--device", "cpu"]
    done = rhyme("train", own, "--out", tmp_path / "run", *given)
    assert done.code == 0, done.err
    assert load_recipe(tmp_path / "run" / "config.yaml").train.seed == 7
    other = rhyme("train", own, "--out", tmp_path / "other", *given, "--seed", "0")
    assert other.code == 0, other.err
    rows = [read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in ("run", "other")]
    assert rows[0]["loss"] != rows[1]["loss"]


def test_a_resumed_run_may_change_what_touches_no_number(tmp_path: Path) -> None:
    run = tmp_path / "moco"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "encoder")
    done = rhyme("train", "--resume", run, "--train.log_every", "3", "--json")
    assert done.code == 0, done.err
    assert load_recipe(run / "config.yaml").train.log_every == 3
    (changed,) = [row for row in read_jsonl(run / "events.jsonl") if row["event"] == "changed"]
    assert changed["options"] == {"train.log_every": 3}
    before = (run / "config.yaml").read_bytes()
    for name in ("train.batch_size", "model.queue"):
        given = rhyme("train", "--resume", run, f"--{name}", "8")
        refused(given, 2, "keeps its recipe", name, "train.log_every")
    refused(rhyme("train", "--resume", run, "--train.workers", "-3"), 2, "workers")
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["simclr", "lsfd", "moco", "cycle_contrast", "dual", "densecl"])
def test_data_that_leave_nothing_to_contrast_with_are_refused(name: str, tmp_path: Path) -> None:
    """One film cut into items: under the same-group mask no item is another's negative."""
    videos(tmp_path / "films", 1)
    one = ["--data", tmp_path / "films", "--split", "all", "--segment", "1"]
    given = ["--train.batch_size", "2", "--train.steps", "2"]
    done = rhyme("train", name, *one, *given, "--out", tmp_path / "run")
    refused(done, 1, "nothing to contrast with", "--model.mask_same_group false")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_item_has_no_negatives(tmp_path: Path) -> None:
    videos(tmp_path / "films", 6)
    given = ["--data", tmp_path / "films", "--train.batch_size", "1", "--train.steps", "2"]
    refused(rhyme("train", "simclr", *given, "--out", tmp_path / "run"), 2, "--train.batch_size 2")
    assert not (tmp_path / "run").exists()


def test_the_start_names_both_lengths(tmp_path: Path) -> None:
    videos(tmp_path / "films", 16)
    given = [
        "--data",
        tmp_path / "films",
        *flags(OVERRIDES["moco"]),
        "--train.steps",
        "9",
        "--train.epochs",
        "1",
    ]
    done = rhyme("train", "moco", *given, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "9 steps or 1 epochs, whichever ends first, of" in done.err


def test_a_short_file_has_the_name_of_the_file_and_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("system: moco\ntrain: {steps: 5, batch_size: 8}\n")
    found = load_recipe(path)
    assert (found.name, found.system, found.train.steps) == ("mine", "moco", 5)
    path.write_text("train: {steps: 5, batch_size: 8}")
    with pytest.raises(ConfigError, match="is missing") as caught:
        load_recipe(path)
    assert caught.value.file == str(path)
    assert "rhyme recipes" in str(caught.value.remedy)
