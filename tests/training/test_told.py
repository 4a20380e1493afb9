"""What a run tells while it goes: rows, probes, estimates, alarms."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from rhyme.errors import DataError
from rhyme.run import read_jsonl
from rhyme.signals import Preempted
from rhyme.training import ScheduleConfig, TrainConfig
from support.logs import events, rows


def test_rows_have_their_fields(bench):
    bench.trainer().fit()
    found = rows(bench.run)
    assert [row["step"] for row in found] == [2, 4, 6, 7]
    assert [row["epoch"] for row in found] == [0, 1, 2, 2]
    for row in found:
        assert set(row) == {
            "step",
            "epoch",
            "loss",
            "parts",
            "diagnostics",
            "monitors",
            "lr",
            "lrs",
            "grad_norm",
            "items_per_s",
            "wait_share",
            "seconds",
            "eta",
        }
        assert row["parts"]["square"] == pytest.approx(row["loss"])
        assert set(row["monitors"]) == {"std/hidden", "rank/hidden", "sine/hidden"}
        assert row["items_per_s"] > 0
    assert found[-1]["eta"] == 0
    assert found[0]["seconds"] <= found[-1]["seconds"]


def test_a_row_is_the_mean_over_its_window(bench):
    seen = []

    class Noting(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            seen.append(float(output.loss.detach()))
            return output

    bench.trainer(Noting(), steps=4).fit()
    assert [row["loss"] for row in rows(bench.run)] == pytest.approx(
        [(seen[0] + seen[1]) / 2, (seen[2] + seen[3]) / 2]
    )


def test_waiting_for_data_is_measured(bench):
    class Slow(bench.Numbers):
        def batches(self):
            for batch in super().batches():
                time.sleep(0.03)
                yield batch

    result = bench.trainer(source=Slow(), checkpoint_every=None).fit()
    assert result.wait_share > 0.5
    assert rows(bench.run)[1]["wait_share"] > 0.5


def test_probes_are_written_and_their_failure_is_an_event(bench):
    def failing(system):
        raise DataError("too few groups")

    def probe(system):
        system.eval()
        return {"rate": float(system.applied)}

    system = bench.Line()
    bench.trainer(
        system, probe_every=3, keywords={"probes": {"cycle": probe, "knn": failing}}
    ).fit()
    found = [row for row in read_jsonl(bench.run.metrics) if "probes" in row]
    assert [(r["step"], r["probes"]) for r in found] == [
        (3, {"cycle": {"rate": 3.0}}),
        (6, {"cycle": {"rate": 6.0}}),
        (7, {"cycle": {"rate": 7.0}}),
    ]
    assert [e["reason"] for e in events(bench.run, "probe_failed")] == [
        "DataError: too few groups"
    ] * 3
    assert system.training, "a probe that evaluates does not leave the system so"


def test_the_time_is_estimated_after_the_first_steps(bench, capsys):
    bench.trainer(keywords={"progress": True}).fit()
    told = capsys.readouterr()
    assert told.out == ""
    assert "for 3 more steps" in told.err
    assert "step 7/7" in told.err
    assert events(bench.run, "estimate")[0]["step"] == 4


def test_collapse_raises_the_alarm(bench):
    class Collapsed(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            return dataclasses.replace(output, embeddings={"z": torch.ones(4, 8)})

    bench.trainer(Collapsed(), log_every=1, collapse_logs=3).fit()
    (event,) = events(bench.run, "collapse")
    assert (event["embedding"], event["step"]) == ("z", 3)


def test_a_gradient_of_zero_is_told_once(bench, capsys):
    class Still(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            return dataclasses.replace(output, loss=output.loss * (context.step == 0))

    bench.trainer(Still(), keywords={"progress": True}, log_every=1, collapse_logs=3).fit()
    (event,) = events(bench.run, "no_gradient")
    assert (event["step"], event["rows"]) == (4, 3)
    assert capsys.readouterr().err.count("nothing is learned") == 1


def test_deterministic_mode_ends_with_the_run(bench):
    inside = []

    class Looking(bench.Line):
        def training_step(self, batch, context):
            inside.append(torch.are_deterministic_algorithms_enabled())
            return super().training_step(batch, context)

    bench.trainer(Looking(), deterministic=True).fit()
    assert all(inside)
    assert not torch.are_deterministic_algorithms_enabled()


def test_train_config_defaults_are_valid():
    assert TrainConfig(steps=1).optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"warmup_steps": 3}, False),
        ({"warmup_steps": 4}, True),
        ({"warmup_epochs": 10.0}, True),
        ({"warmup_share": 0.5}, False),
        ({}, False),
    ],
)
def test_a_warm_up_that_the_run_does_not_outlast_is_told_once(
    bench, capsys, schedule, told
) -> None:
    bench.trainer(steps=4, schedule=ScheduleConfig(**schedule), keywords={"progress": True}).fit()
    assert len(events(bench.run, "warmup_unfinished")) == told
    assert ("before its warm-up does" in capsys.readouterr().err) == told


@pytest.mark.parametrize("groups", [12, 4])
def test_the_mask_that_setup_decided_on_is_told_at_every_start(bench, capsys, groups):
    class Masking(bench.Line):
        def setup(self, context):
            self.mask_same_group = context.groups < 10

    def part(resume: bool, stop: bool) -> None:
        source = bench.Numbers()
        source.groups = groups
        keywords = {"progress": True, "stop": (lambda step: step == 3) if stop else None}
        bench.trainer(Masking(), source, keywords=keywords).fit(resume=resume)

    with pytest.raises(Preempted):
        part(resume=False, stop=True)
    state = "on" if groups == 4 else "off"
    line = f"same-group mask: {state} (12 items of {groups} groups)\n"
    assert capsys.readouterr().err.startswith(line)
    part(resume=True, stop=False)
    assert capsys.readouterr().err.count(line) == 1
    facts = {"active": groups == 4, "items": 12, "groups": groups}
    found = events(bench.run, "same_group_mask")
    assert [{name: row[name] for name in facts} for row in found] == [facts, facts]


def test_nothing_is_told_of_a_mask_where_there_are_no_negatives(bench, capsys):
    bench.trainer(keywords={"progress": True}).fit()
    assert "mask" not in capsys.readouterr().err
    assert not events(bench.run, "same_group_mask")
