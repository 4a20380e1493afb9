"""The lists of runs behind the tables: their options exist, and their data can be cut."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import cycle_evidence, evidence, place_evidence, studies
from benchmarks.cycle_evidence import SWEEP, cycle_jobs
from benchmarks.evidence import Line, beside, command_of, main, one_by_one, watched
from benchmarks.pictures import cut_pictures
from benchmarks.tables import table
from rhyme.api import DataOptions, resolve_recipe
from rhyme.evaluation import load_protocol, read_results
from rhyme.evaluation.protocol import parse_settings
from rhyme.recipes import recipe
from rhyme.run import read_jsonl
from rhyme.synthetic import WorldConfig


@pytest.mark.parametrize(
    "arms",
    [
        *(cycle_evidence.WORLD_ARMS, studies.SIMCLR_ARMS, studies.MOCO_ARMS),
        *(place_evidence.DENSE_ARMS, place_evidence.SCENE_ARMS, place_evidence.VFS_ARMS),
    ],
)
def test_arms_differ_from_their_recipe_in_what_they_name(arms) -> None:
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        changed = resolve_recipe(arm.recipe, arm.changes)
        assert (changed != recipe(arm.recipe)) == bool(arm.changes)
    # an arm of more frames a video takes fewer videos, and one that collapses must not be stopped
    budgets = {
        replace(made.train, batch_size=made.train.batch_size * getattr(made.model, "frames", 2),
                collapse_stop=False)
        for made in (resolve_recipe(arm.recipe, arm.changes) for arm in arms)
    }  # fmt: skip
    assert len(budgets) == 1


def test_jobs_of_pictures(tmp_path: Path) -> None:
    source = tmp_path / "images" / "cifar10"
    source.mkdir(parents=True)
    for split in ("train", "test"):
        with zipfile.ZipFile(source / f"{split}.zip", "w") as file:
            for name in ("cat", "dog"):
                for k in (0, 999, 1000):
                    file.writestr(f"{split}/{name}/{k:04d}.jpg", bytes([k % 256]))
    jobs = studies.picture_jobs(tmp_path, tmp_path, "simclr")
    assert len({job.key for job in jobs}) == len(jobs)
    labels = [job for job in jobs if job.study == "labels"]
    assert [(job.arm, job.seed) for job in labels] == [(jobs[0].arm, s) for s in range(3)]
    for name, changes in labels[0].settings.items():
        parse_settings(load_protocol(name), changes)
    jobs = [job for job in jobs if job.study == "pictures"]
    runs = [job for job in jobs if job.trained_as is None]
    assert len(runs) == sum(len(arm.seeds) for arm in studies.SIMCLR_ARMS)
    assert {job.trained_as for job in jobs[len(runs) :]} <= {job.key for job in runs}
    assert {(job.system, job.heads) for job in runs} == {("simclr", ("z",))}
    untrained = [seed for job in runs for seed in job.untrained]
    assert untrained == [0, 1, 2, 3, 4], "once a seed, of that seed"
    cut = jobs[0].data
    with zipfile.ZipFile(cut / "train.zip") as file:
        assert file.namelist() == [f"train/{c}/0000.jpg" for c in ("cat", "dog")]
    with zipfile.ZipFile(cut / "test.zip") as file:
        assert file.namelist() == ["test/cat/0000.jpg", "test/dog/0000.jpg"]
    assert cut_pictures(tmp_path / "gone", cut) == cut, "what is there is kept"
    moco = studies.picture_jobs(tmp_path, tmp_path, "moco")
    assert {job.system for job in moco} == {"moco"}
    assert len({job.key for job in moco}) == len(moco)
    equal = [job for job in moco if job.study == "equal"]
    arms = studies.MOCO_EQUAL_ARMS
    assert [(job.seed, job.arm) for job in equal] == [(s, arm) for s in range(3) for arm in arms]
    made = [resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes}) for job in equal[:4]]
    changed = [(getattr(found.model, "shuffle", None), found.train.epochs) for found in made]
    assert changed == [(True, 8), (False, 8), (True, 12), (True, 16)]
    rates = [job for job in moco if job.study == "labels-rates"]
    assert [job.trained_as for job in rates] == [job.key for job in equal if job.arm is arms[0]]
    assert parse_settings(load_protocol("linear_sgd"), rates[0].settings["linear_sgd"])


@pytest.mark.parametrize("system", ["densecl", "vfs"])
def test_jobs_of_places(tmp_path: Path, system: str) -> None:
    jobs = place_evidence.place_jobs(tmp_path, system)
    assert len({job.key for job in jobs}) == len(jobs)
    jobs = [job for job in jobs if job.study.startswith("world")]
    assert {job.data for job in jobs} == {tmp_path / f"places-{s}" for s in range(5)}
    assert len({job.world["seed"] for job in jobs}) == 5
    trained = [job for job in jobs if job.trained_as is None]
    again = [job for job in jobs if job.trained_as is not None]
    assert [seed for job in trained for seed in job.untrained] == [0, 1, 2, 3, 4]
    assert {job.trained_as for job in again} <= {job.key for job in trained}
    assert len(again) == 10, "two arms of five seeds"
    assert {len({job.protocols for job in some}) for some in (trained, again)} == {1}
    for job in jobs:
        made = resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
        assert made.train.epochs is None
        for name, changes in job.settings.items():
            parse_settings(load_protocol(name), changes)


def test_jobs_of_scenes(tmp_path: Path) -> None:
    jobs = [job for job in place_evidence.place_jobs(tmp_path, "densecl") if job.study == "scenes"]
    assert len(jobs) == 5 + 5 + 5 * 3
    assert [seed for job in jobs for seed in job.untrained] == [0, 1, 2, 3, 4]
    assert len({(job.data, job.seed, str(job.world)) for job in jobs}) == 5, "a world a seed"
    for job in jobs:
        WorldConfig(**job.world)
        made = resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
        assert made.train.steps == 600
        for name, changes in job.settings.items():
            parse_settings(load_protocol(name), changes)
    warmed = {job.arm.changes.get("model.dense_warmup_steps") for job in jobs}
    assert warmed == {None, place_evidence.SCENE_WARMUP}


def test_jobs_of_few_clips(tmp_path: Path) -> None:
    jobs = place_evidence.vfs_few_jobs(tmp_path)
    assert len({job.key for job in jobs}) == len(jobs) == 2 * 3
    assert {(job.seed, job.options.fold) for job in jobs} == {(0, "1"), (1, "4"), (2, "7")}
    for job in jobs:
        made = resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
        assert made.train.batch_size < 28, "as many clips as the persons of a fold leave"
        assert not made.train.collapse_stop, "runs to its end, with an alarm or without"
    assert [job.untrained for job in jobs[::2]] == [(0,), (1,), (2,)]


def test_jobs_of_the_long_study(tmp_path: Path) -> None:
    jobs = [j for j in place_evidence.place_jobs(tmp_path, "vfs") if j.study.startswith("long")]
    trained = {job.key: job for job in jobs if job.trained_as is None}
    stages = [job for job in jobs if job.trained_as is not None]
    assert len(trained) == 5 + 5 + 4 * 3
    assert [seed for job in trained.values() for seed in job.untrained] == [0, 1, 2, 3, 4]
    assert {job.study for job in stages} == {"long-layer3", "long-stride8"}
    for job in stages:
        judged = trained[job.trained_as or ""]
        assert (judged.seed, judged.data, judged.arm) == (job.seed, job.data, job.arm)
    for job in trained.values():
        made = resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
        assert made.train.steps == recipe(job.arm.recipe).train.steps, "as long as it says"


def test_jobs_of_masks_on_real_clips(tmp_path: Path) -> None:
    cycle = cycle_evidence.mixed_jobs(tmp_path)
    dense = place_evidence.vfs_clip_jobs(tmp_path)
    for jobs in (cycle, dense):
        trained = {job.key: job for job in jobs if job.trained_as is None}
        again = [job for job in jobs if job.trained_as is not None]
        assert len(trained) == len(again) == len({job.key for job in again})
        for job in again:
            made = trained[job.trained_as or ""]
            assert (made.seed, made.arm, made.data) == (job.seed, job.arm, job.data)
        masks = [job for job in jobs if job.protocols == ("propagation",)]
        assert {job.judged_on for job in masks} == {tmp_path / "vos" / "davis2016_val_240p"}
        for study in {job.study for job in masks}:
            fresh = [seed for job in masks if job.study == study for seed in job.untrained]
            assert fresh == sorted({job.seed for job in masks}), "untrained beside each seed"
        for job in jobs:
            resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
            for name, changes in job.settings.items():
                parse_settings(load_protocol(name), changes)


@pytest.mark.parametrize("system", sorted({*evidence.SYSTEMS} - {"moco", "simclr"}))
def test_parts_of_a_list(tmp_path: Path, system: str) -> None:
    """Worlds and real clips make up the list; what wants a GPU stands by itself."""
    keys = {
        only: [job.key for job in evidence.jobs_of(system, tmp_path, tmp_path, only)]
        for only in (None, "world", "real", "gpu")
    }
    assert sorted(keys[None]) == sorted(keys["world"] + keys["real"])
    assert not set(keys["gpu"]) & set(keys[None])


def test_jobs_of_one_gpu(tmp_path: Path) -> None:
    for system in ("simclr", "moco"):
        (job,) = studies.gpu_picture_jobs(tmp_path, tmp_path, system)
        assert recipe(job.arm.recipe).needs_gpu
        assert recipe(job.arm.recipe).train.epochs == 200
        assert not job.budget
        assert command_of(job) == f"python -m benchmarks.evidence --system {system} --only gpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the runs would begin")
def test_without_a_gpu_its_runs_are_not_begun(tmp_path: Path, monkeypatch, capsys) -> None:
    runs = str(tmp_path / "runs")
    monkeypatch.setattr(
        "sys.argv", ["evidence", "--system", "moco", "--only", "gpu", "--runs", runs]
    )
    main()
    assert "not measured on a GPU" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_is_there_is_printed_as_the_pages_show_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("RHYME_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["evidence", "--system", "moco", "--runs", str(tmp_path)])
    main()
    printed = capsys.readouterr().out
    rows = read_results(evidence.RESULTS / "moco_pictures.jsonl")
    lines = [line for line in table(rows).splitlines() if line.startswith("| ")]
    assert any("momentum 0 − momentum .99" in line for line in lines)
    assert set(lines) <= set(printed.splitlines())
    assert "<" not in printed


def test_a_call_leaves_what_it_made_and_how_long_that_took(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["evidence", "--system", "vfs", "--results", str(tmp_path),
                                     "--runs", str(tmp_path / "runs")])  # fmt: skip
    made = evidence.jobs_of("vfs", tmp_path / "runs", None, None)
    monkeypatch.delenv("RHYME_DATA", raising=False)
    monkeypatch.delenv("RHYME_COMMIT", raising=False)
    monkeypatch.setattr(evidence, "one_by_one", lambda jobs, *_: ((job, []) for job in jobs[:2]))
    main()
    (call,) = read_jsonl(tmp_path / evidence.CALLS)
    assert (call["system"], call["runs"], call["left"]) == ("vfs", 2, len(made) - 2)
    assert call["seconds"] >= 0
    assert call["commit"]
    said = capsys.readouterr().err
    assert "2 runs in 0 minutes" in said
    assert f"{len(made) - 2} runs are left" in said


def test_a_job_begins_once_its_encoder_is_trained(tmp_path: Path) -> None:
    world = studies.Job("world", studies.Arm("one", "vfs_world_demo"), 0, tmp_path, DataOptions())
    first, second = world, replace(world, seed=1)
    judged = replace(world, study="judged", trained_as=first.key)
    line = Line([first, judged, second])
    assert line.take() is first
    assert line.take() is second, "what it would judge is not there yet"
    assert line.take() is None
    line.ended(second)
    assert line.take() is None
    line.ended(first)
    assert line.take() is judged
    assert Line([judged]).take() is judged, "whose training is done is judged all the same"
    line = Line([first, judged, second])
    line.ended(line.take() or second)
    assert line.take() is judged, "it stands before the next training"


def test_what_time_leaves_out_is_neither_a_seed_nor_a_control_of_the_question(
    tmp_path: Path,
) -> None:
    jobs = cycle_jobs(tmp_path, tmp_path, None)
    order = list(dict.fromkeys("sweep" if job.arm in SWEEP else job.study for job in jobs))
    asked = ["long", "surveillance", "long-kept", "long-again"]
    assert order == [*asked, "kept", "world", "sweep", "mixed", "davis"]
    trained = [job for job in jobs if job.trained_as is None]
    for study, folds in (("long", 1), ("surveillance", 4)):
        runs = [(j.arm.name, j.seed) for j in trained if j.study == study and j.arm not in SWEEP]
        assert len(runs) == 6 * 5 * folds, "six arms of five seeds"
        assert len(set(runs)) == 6 * 5
    assert cycle_jobs(tmp_path, None, "world") == [
        job for job in jobs if job.study not in ("surveillance", "mixed", "davis")
    ]


def test_workers_find_what_one_process_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tiny runs and a judging of the first beside each other; one that fails stands alone."""
    world = {"counts": (12, 6, 6), "seed": 5, "size": 24, "sound": False, "truth": "labels"}
    job = studies.Job(
        "tiny", studies.Arm("one", "moco_world_demo"), 0, tmp_path / "world",
        DataOptions(label_column="appearance"), ("linear",), system="moco", untrained=(),
        budget={"train.steps": 2, "train.batch_size": 4, "train.probe_every": None}, world=world,
    )  # fmt: skip
    other = replace(job, arm=studies.Arm("two", "moco_world_demo"))
    again = replace(job, study="again", trained_as=job.key)
    broken = replace(job, arm=studies.Arm("broken", "moco_world_demo", {"model.queue": -1}))
    jobs = [job, broken, other, again]
    there = {j.key: rows for j, rows in beside(jobs, tmp_path / "there", 2, 1e18)}
    assert set(there) == {job.key, other.key, again.key}
    assert f"FAILED {broken.key}" in capsys.readouterr().err
    here = {j.key: rows for j, rows in one_by_one([job, other, again], tmp_path / "here", 1e18)}
    for key, rows in here.items():
        assert [r.value for r in rows] == pytest.approx([r.value for r in there[key]], abs=0.05)
        assert {r.encoder for r in rows} == {r.encoder for r in there[key]}
    away = replace(again, study="away", judged_on=tmp_path / "other", protocols=("cycle",))
    evidence.prepare(replace(job, data=tmp_path / "other", world={**world, "seed": 6}))
    for told in (row.details for row in evidence.run(away, tmp_path / "here")):
        assert (told["trained_data"], told["trained_items"]) == ("world", 12)
    for way in (partial(beside, workers=1), one_by_one):
        assert not list(way([other], tmp_path / "late", until=0.0)), "no run begins after its time"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_the_command(tmp_path: Path, number: signal.Signals) -> None:
    """Those that train save first, if the command was asked to stop and not killed."""
    root = Path(evidence.__file__).parents[1]
    command = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("endless_evidence.py"), tmp_path],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )  # fmt: skip
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        workers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        command.send_signal(number)
        _, told = command.communicate(timeout=60)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    if number == signal.SIGKILL:
        assert not list(tmp_path.glob("*.saved"))
    else:
        assert len(list(tmp_path.glob("*.saved"))) == 2
        assert told == f"stopped by {number.name}: the same command goes on\n"


def wait_for(state: Callable[[], bool], seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_a_training_tells() -> None:
    def row(epoch: int, loss: float, accuracy: float) -> dict[str, object]:
        told = {"diagnostics": {"accuracy": accuracy}, "monitors": {"std/z": 1.0}}
        return {"epoch": epoch, "loss": loss, **told}

    log = [row(0, 5.0, 0.0), row(0, 7.0, 0.1), row(1, 9.0, 0.2), row(1, 3.0, 0.6)]
    assert watched([log[0], *log], "rise") == 2.0, "of the first epoch alone"
    assert watched([log[2], *log[2:]], "rise") == 0.0
    assert watched(log, "rise") is None, "an epoch of which two steps were logged tells nothing"
    assert watched(log, "loss") == 3.0
    assert watched([*log, row(2, 1.0, 0.0)] * 10, "accuracy") == pytest.approx(0.18)
    assert watched(log, "std/z") == 1.0
    assert watched(log, "first accuracy") == 0.0
