"""The command line: parsing, exit codes, JSON, help."""

import json

import pytest

from rhyme import api
from rhyme.cli import COMMANDS, run, split_overrides
from rhyme.cli.answer import table
from rhyme.cli.run_commands import _answer
from rhyme.errors import ConfigError


def test_dotted_options_are_taken_out_and_read_as_yaml() -> None:
    taken, rest = split_overrides(
        ["cycle_contrast", "--train.steps", "20", "--model.support=null", "--data", "a.b/c",
         "--train.optimizer.lr=4e-3", "--model.mask-same-group", "true"]
    )  # fmt: skip
    assert taken == {
        "train.steps": 20,
        "model.support": None,
        "train.optimizer.lr": "4e-3",
        "model.mask_same_group": True,
    }
    assert rest == ["cycle_contrast", "--data", "a.b/c"]


def test_a_list_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--protocol", "--heads"):
        assert run(["evaluate", "run", option, "a", f"{option}=b"]) == 2
        assert f"{option} A,B" in capsys.readouterr().err


def test_data_that_stand_second_are_named(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "moco", str(tmp_path), "--out", "run"]) == 2
    assert f"rhyme train moco --data {tmp_path}" in capsys.readouterr().err
    assert run(["train", "moco", str(tmp_path / "absent"), "--out", "run"]) == 2
    assert "see: rhyme train --help" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--train.steps"], ["--train.steps", "--json"]])
def test_a_dotted_option_without_a_value_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="needs a value"):
        split_overrides(arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"Example: rhyme {command}" in " ".join(capsys.readouterr().out.split())


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "cycle_contrats", "--data", "x", "--out", "y"], "did you mean 'cycle_contrast'"),
        (["train", "nerv", "--data", "x", "--out", "y"], "planned"),
        (["train", "moco", "--data", "x", "--out", "y", "--train.stepz", "3"], "'steps'"),
        (["train", "moco", "--data", "x", "--out", "y", "--train.steps", "many"], "train.steps"),
        (["train", "moco", "--data", "x", "--out", "y", "--model.temperature", "0"], "temperature"),
        (["train", "moco", "--data", "x", "--out", "y", "--train.epochs", "none"], "or null"),
        (["train", "moco"], "--data"),
        (["train", "--nonsense", "3"], "--help"),
        (["systems", "--train.steps", "3"], "dotted"),
        (["recipes", "moco_r2v2_8gpus"], "did you mean 'moco_r2v2_8gpu'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert says in capsys.readouterr().err


def test_json_is_one_document_also_for_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 22
    assert {"id", "title", "state"} <= rows[0].keys()
    assert run(["runs", "no-such-folder", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)
    assert error["error"] == "RunError"
    assert error["exit_code"] == 1
    assert error["remedy"]


def test_recipes_print_what_can_be_read_again(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    from rhyme.recipes import load_recipe, recipe

    assert run(["recipes", "cycle_contrast_world_demo"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_recipe(path) == recipe("cycle_contrast_world_demo")


def test_doctor_finds_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = {row["name"]: row["level"] for row in json.loads(capsys.readouterr().out)}
    assert found["decoder h264"] == "ok"
    assert found["torch"] == "ok"


def test_options_for_pictures_need_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (
        ("--points", "0"), ("--seed", "-3"), ("--device", "cuda:7"), ("--kinds", "video"),
        ("--data", "films"),
    ):  # fmt: skip
        assert run(["report", "runs/a", "runs/b", option, value]) == 2
        told = capsys.readouterr().err
        assert option in told
        assert "one run at a time" in told


def test_large_numbers_are_written_out() -> None:
    shown = table(["n"], [[12345.6], [-1234.5], [754.23], [0.000123456], [float("inf")]])
    (column,) = shown.columns
    assert [str(cell) for cell in column.cells] == ["12346", "-1234", "754.2", "0.0001235", "inf"]


def test_next_steps_quote_their_paths(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "my world"
    few = ("--videos", "5", "--size", "24", "--frames", "4", "--truth", "labels", "--workers", "0")
    assert run(["world", "--out", str(place), *few, "--no-sound"]) == 0
    assert f"--data '{place}' --out runs/mine" in capsys.readouterr().out
    facts = {"steps": 1, "seconds": 1.0, "loss": 1.0, "items_per_second": 1.0, "wait_share": 0.0}
    made = api.Trained(path=place, system="moco", encoder=place, held_out=1, **facts)
    answer = _answer(made)
    assert answer is not None
    assert any(line == f"judge it: rhyme evaluate '{place}'" for line in answer.show)
