"""Run logs beside ``metrics.jsonl``: the same figures, never the end of a run."""

import sys
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rhyme.errors import ConfigError
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import check_loggers
from rhyme.training.loggers import Loggers, flat

ROW = {
    "step": 3,
    "epoch": 0,
    "loss": 1.5,
    "parts": {"intra": 1.0},
    "monitors": {"std/m": 0.9},
    "eta": 7.0,
}
FLAT = {"epoch": 0.0, "loss": 1.5, "parts/intra": 1.0, "monitors/std/m": 0.9}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.event("data", items=3)
    return folder


class Tracker(ModuleType):
    """Stands in for wandb or trackio, which share an interface."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = type(sys.__spec__)(name, None)
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.broken = False

    def init(self, **options: Any) -> None:
        self.begun.append(options)

    def log(self, figures: dict[str, float], step: int) -> None:
        if self.broken:
            raise OSError("no network")
        self.rows.append((step, figures))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch) -> Tracker:
    module = Tracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


def scalars(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_a_row_is_flattened_by_path() -> None:
    assert flat(ROW) == FLAT
    assert flat({"step": 1, "probes": {"cycle": {"step": 0.5}}}) == {"probes/cycle/step": 0.5}


def test_tensorboard_holds_the_figures_and_forgets_steps_that_are_done_again(run) -> None:
    first = Loggers(["tensorboard"], run)
    for step in (1, 2, 3):
        first.log({**ROW, "step": step, "loss": float(step)})
    first.close()
    assert scalars(run)["loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert set(scalars(run)) == set(FLAT)
    again = Loggers(["tensorboard"], run, step=2)
    again.log({**ROW, "step": 3, "loss": 30.0})
    again.close()
    assert scalars(run)["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_tensorboard_forgets_the_steps_of_a_run_that_died_before_its_first_checkpoint(run) -> None:
    for factor in (1, 10):
        loggers = Loggers(["tensorboard"], run)
        for step in (1, 2):
            loggers.log({**ROW, "step": step, "loss": float(step * factor)})
        loggers.close()
    assert scalars(run)["loss"] == [(1, 10.0), (2, 20.0)]


def test_trackers_get_the_figures_and_one_identity_for_all_parts_of_a_run(run, tracker) -> None:
    for part in (0, 3):
        loggers = Loggers([tracker.__name__], run, step=part)
        loggers.log({**ROW, "step": part + 1})
        loggers.close()
    assert tracker.rows == [(1, FLAT), (4, FLAT)]
    assert tracker.finished == 2
    assert tracker.begun[0] == tracker.begun[1]
    assert tracker.begun[0]["project"] == "rhyme"


def test_wandb_starts_offline(run, monkeypatch) -> None:
    module = Tracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    Loggers(["wandb"], run)
    monkeypatch.setenv("WANDB_MODE", "online")
    Loggers(["wandb"], run)
    assert [begun["mode"] for begun in module.begun] == ["offline", "online"]


def test_a_logger_that_fails_is_given_up_with_an_event(run, tracker) -> None:
    loggers = Loggers([tracker.__name__, "tensorboard"], run)
    tracker.broken = True
    loggers.log({**ROW, "step": 1})
    tracker.broken = False
    loggers.log({**ROW, "step": 2})
    loggers.close()
    (event,) = [e for e in read_jsonl(run.events) if e["event"] == "logger_failed"]
    assert event["logger"] == tracker.__name__
    assert event["reason"] == "OSError: no network"
    assert tracker.rows == []
    assert [step for step, _ in scalars(run)["loss"]] == [1, 2]


def test_loggers_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)tensorbord.*tensorboard"):
        check_loggers(["tensorbord"])
    with pytest.raises(ConfigError, match=r"rhyme-ssl\[wandb\]"):
        check_loggers(["wandb"])


def test_a_run_hands_its_rows_over(bench) -> None:
    bench.trainer(loggers=("tensorboard",)).fit()
    rows = [row for row in read_jsonl(bench.run.metrics) if "loss" in row]
    assert rows
    seen = scalars(bench.run)
    assert seen["loss"] == [(row["step"], pytest.approx(row["loss"])) for row in rows]
    assert [step for step, _ in seen["parts/square"]] == [row["step"] for row in rows]
