"""What happens to a checkpoint that lacks, bends or adds an item, or that is another run's."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import pytest
import torch

from contracts import bandit
from resume.harness import state_hashes
from resume.test_systems import CONFIG, make_source
from rhyme.errors import CheckpointError
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import OptimizerConfig, Preempted, Trainer, checkpoint
from support.tiny_systems import BUILT, build_tiny, memories


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after step 3, with momentum and a replay memory in its state."""
    config = dataclasses.replace(bandit.CONFIG, device="cpu")
    run = RunFolder.create(tmp_path / "run", config)

    def trainer(seed=1, source=None, config=config, stop=None):
        torch.manual_seed(seed)
        system = bandit.SYSTEM()
        return Trainer(system, source or bandit.SOURCE(0), config, run, progress=False, stop=stop)

    with pytest.raises(Preempted):
        trainer(stop=lambda step: step == 3).fit()
    return run, trainer


def rewritten(run, tensors, state):
    """Replace the checkpoint by one with other content and valid checksums."""
    shutil.rmtree(run.checkpoints)
    checkpoint.save(run.checkpoints, 3, tensors, state, keep=1)


def held(run):
    path = checkpoint.newest(run.checkpoints)
    assert path is not None
    return checkpoint.read(path)


def test_the_schema_lists_every_item(stopped):
    run, _ = stopped
    saved = held(run)
    items = saved.state["items"]
    assert set(saved.tensors) == {name for name in items if not name.endswith(":value")}
    assert {"system/value.weight", "system/played", "source/memory"} <= set(items)
    assert "optimizer/all/value.weight/momentum_buffer" in items
    assert {"trainer/step:value", "trainer/batches:value", "source/position:value"} <= set(items)
    assert {facts["role"] for facts in items.values()} == {"replicated"}


def test_removing_any_item_is_detected_and_named(stopped):
    run, trainer = stopped
    saved = held(run)
    names = list(saved.state["items"])
    assert len(names) >= 12
    for name in names:
        tensors, state = dict(saved.tensors), copy.deepcopy(saved.state)
        if name.endswith(":value"):
            part, _, key = name.removesuffix(":value").partition("/")
            del state["values"][part][key]
        else:
            del tensors[name]
        rewritten(run, tensors, state)
        with pytest.raises(CheckpointError, match="missing") as caught:
            trainer().fit(resume=True)
        assert name in str(caught.value.value)


@pytest.mark.parametrize("name", BUILT)
def test_removing_any_item_of_any_system_is_detected_and_named(name, tmp_path, monkeypatch):
    """Weights, momentum copies, queues, both moments of the optimiser, position of the source."""
    config = dataclasses.replace(CONFIG, steps=3, device="cpu")
    run = RunFolder.create(tmp_path / "run", config)

    def trainer(seed):
        system = build_tiny(name, seed, torch.float32)
        return Trainer(system, make_source(system), config, run, progress=False)

    trainer(0).fit()
    saved = held(run)
    items = saved.state["items"]
    assert set(items) == set(saved.tensors) | {
        f"{part}/{key}:value" for part, table in saved.state["values"].items() for key in table
    }
    kinds = {"exp_avg", "exp_avg_sq", "running_mean", "trainer", "source"}
    kinds |= {f"{memory}." for memory in memories(trainer(0).system)}
    assert all(any(kind in item for item in items) for kind in kinds)
    fresh = trainer(1)
    fresh.system.setup(fresh._context())
    before = state_hashes(fresh)
    for item in items:
        tensors, state = dict(saved.tensors), copy.deepcopy(saved.state)
        if item.endswith(":value"):
            part, _, key = item.removesuffix(":value").partition("/")
            del state["values"][part][key]
        else:
            del tensors[item]
        lacking = dataclasses.replace(saved, tensors=tensors, state=state)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "read", lambda path, lacking=lacking: lacking)
            with pytest.raises(CheckpointError, match="missing") as caught:
                fresh.saver.restore(saved.path)
        assert item in str(caught.value.value)
    assert state_hashes(fresh) == before, "a refused checkpoint left something behind"


def test_removing_an_item_from_the_schema_too_is_detected(stopped):
    run, trainer = stopped
    saved = held(run)
    required = [n for n in saved.state["items"] if not n.startswith("optimizer/all/")]
    for name in required:
        tensors, state = dict(saved.tensors), copy.deepcopy(saved.state)
        del state["items"][name]
        part, _, key = name.removesuffix(":value").partition("/")
        tensors.pop(name, None)
        if name.endswith(":value") or name == "source/memory":
            state["values"][part].pop(key, None)
        if name == "source/memory":
            del state["items"]["source/memory:value"]
        rewritten(run, tensors, state)
        with pytest.raises(CheckpointError, match=r"missing|superfluous"):
            trainer().fit(resume=True)


def test_a_superfluous_item_is_named(stopped):
    run, trainer = stopped
    saved = held(run)
    rewritten(run, {**saved.tensors, "system/ghost": torch.ones(1)}, saved.state)
    with pytest.raises(CheckpointError, match="superfluous") as caught:
        trainer().fit(resume=True)
    assert caught.value.value == "system/ghost"


def test_an_altered_value_is_named(stopped):
    run, trainer = stopped
    saved = held(run)
    state = copy.deepcopy(saved.state)
    state["values"]["source"]["position"] = 99
    rewritten(run, saved.tensors, state)
    with pytest.raises(CheckpointError) as caught:
        trainer().fit(resume=True)
    assert caught.value.value == "source/position:value"


def test_another_shape_or_type_is_named(stopped):
    run, trainer = stopped
    saved = held(run)
    for name, tensor in (
        ("system/value.weight", torch.zeros(4, 6)),
        ("system/value.weight", torch.zeros(3, 6, dtype=torch.float64)),
    ):
        state = copy.deepcopy(saved.state)
        state["items"][name]["shape"] = list(tensor.shape)
        state["items"][name]["dtype"] = str(tensor.dtype).removeprefix("torch.")
        rewritten(run, {**saved.tensors, name: tensor}, state)
        with pytest.raises(CheckpointError) as caught:
            trainer().fit(resume=True)
        assert "value.weight" in str(caught.value)


def test_another_configuration_is_refused_with_the_difference(stopped):
    _, trainer = stopped
    other = dataclasses.replace(
        bandit.CONFIG, device="cpu", optimizer=OptimizerConfig(name="sgd", lr=0.2), log_every=1
    )
    with pytest.raises(CheckpointError, match="configuration") as caught:
        trainer(config=other).fit(resume=True)
    assert caught.value.value == ["train.optimizer.lr: 0.1 -> 0.2"]


def test_options_that_touch_no_number_may_change(stopped):
    _, trainer = stopped
    other = dataclasses.replace(bandit.CONFIG, device="cpu", log_every=1, workers=2, keep=7)
    assert trainer(config=other).fit(resume=True).steps == 6


def test_another_catalog_is_refused(stopped):
    _, trainer = stopped
    source = bandit.SOURCE(0)
    source.fingerprint = "0" * 64
    with pytest.raises(CheckpointError, match="catalog") as caught:
        trainer(source=source).fit(resume=True)
    assert "fingerprint" in str(caught.value.value)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(stopped):
    run, trainer = stopped
    config = dataclasses.replace(bandit.CONFIG, device="cpu", checkpoint_every=1, keep=3)
    with pytest.raises(Preempted):
        trainer(config=config, stop=lambda step: step == 5).fit(resume=True)
    file = run.checkpoints / "step-00000005" / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    assert trainer(seed=4).fit(resume=True).steps == 6
    kinds = [(e["event"], e.get("step")) for e in read_jsonl(run.events)]
    assert ("checkpoint_damaged", None) in kinds
    assert ("resumed", 4) in kinds


def test_a_fresh_start_never_overwrites_checkpoints(stopped):
    _, trainer = stopped
    with pytest.raises(CheckpointError, match="already"):
        trainer().fit()
