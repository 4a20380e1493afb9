"""Real ranks on this machine: one answer, one fate, and what signals and kills do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from rhyme.api.fit import Trained
from rhyme.api.launch import LaunchOptions, local, outcome
from rhyme.run import read_jsonl
from rhyme.signals import StopRequest
from rhyme.training import checkpoint
from support.tiny_runs import MOCO, Outcome, catalog, flags, rhyme, train, trained

TWO = ("--launch", "local", "--ranks", "2")
NO_PROBE = ("--train.probe-every", "100", "--split", "all")
SCRIPT = str(Path(__file__).parents[1] / "support" / "faulty_rank.py")


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Ranks that meet trouble of a kind."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda kind: monkeypatch.setattr(local, "RANK", (sys.executable, SCRIPT, kind))


def two_ranks(out: Path, *more: object) -> Outcome:
    return train("moco", out, *TWO, *NO_PROBE, *more)


def events(run: Path) -> list[str]:
    return [row["event"] for row in read_jsonl(run / "events.jsonl")]


def weights(run: Path) -> dict[str, bytes]:
    """All state after the last step, by name."""
    tensors = checkpoint.read(run / "checkpoints" / "step-00000006").tensors
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


@cache
def undisturbed() -> Path:
    """A run of two ranks that nothing happened to."""
    from support.tiny_runs import _place

    out = _place() / "two-ranks"
    done = two_ranks(out, "--json")
    assert done.code == 0, done.err
    return out


def test_the_shuffle_that_is_active_is_told_where_a_run_starts(tmp_path) -> None:
    assert active_shuffle(trained("moco")) == ["none (norm_groups 1)"]
    done = train("moco", tmp_path / "run", "--model.backbone.norm-groups", "2")
    assert "shuffle-BN: local, 2 groups" in done.err
    assert done.err.count("same-group mask: on (") == 1
    two = two_ranks(tmp_path / "two", "--model.backbone.norm-groups", "2", "--json")
    assert two.code == 0, two.err
    assert active_shuffle(tmp_path / "two") == ["across 2 ranks, 2 groups"]


def active_shuffle(run: Path) -> list[str]:
    rows = read_jsonl(run / "events.jsonl")
    return [row["active"] for row in rows if row["event"] == "shuffle_bn"]


def test_a_signal_to_one_rank_saves_and_the_run_goes_on_alone(tmp_path, troubled, capfd) -> None:
    """Two real ranks; the last one gets SIGTERM. One process goes on from what they saved."""
    troubled("stop")
    run = tmp_path / "run"
    done = two_ranks(run, "--json")
    assert done.code == 75
    assert done.document["error"] == "Preempted"
    assert "after step 3 of 6" in done.document["cause"]
    assert done.err.count("the state is saved") == 1
    assert checkpoint.steps_on_disk(run / "checkpoints") == [2, 3]
    assert events(run)[-1] == "preempted"
    shown = capfd.readouterr().err
    assert shown.count("training on cpu") == 1, "only the leader shows progress"
    assert "Traceback" not in shown
    resumed = rhyme("train", "--resume", run, "--json")
    assert resumed.code == 0, resumed.err
    alone = tmp_path / "alone"
    assert train("moco", alone, *NO_PROBE).code == 0
    losses = [[r["loss"] for r in read_jsonl(p / "metrics.jsonl")] for p in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(losses[0]) == 6
    assert (run / "encoder").is_dir()
    assert not (run / ".frames").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--train.batch-size", "7"), 2, "multiple of the number of ranks"),
        (("--ranks", "0"), 2, "from 1"),
        (("--launch", "torchrun", "--ranks", "2"), 2, "--nproc-per-node"),
        (("--launch", "local"), 2, "--ranks 2"),
        (("--launch", "torchrun"), 2, "torchrun --nproc-per-node"),
        (("--ranks", "2", "--train.steps", "no"), 2, "steps"),
        (("--ranks", "2", "--data", "nowhere"), 1, "nowhere"),
        (("--ranks", "2", "--slurm.nodes", "2"), 2, "--launch slurm"),
        (("--launch", "slurm", "--slurm.hours", "0"), 2, "hours"),
        (("--launch", "slurm", "--slurm.node", "2"), 2, "arguments"),
    ],
)
def test_what_the_user_got_wrong_is_found_before_ranks_start(
    tmp_path, monkeypatch, options, code, said
) -> None:
    monkeypatch.setattr(local, "RANK", ("false",))
    ranks = ("--ranks", "2") if options[0] == "--train.batch-size" else ()
    done = train("moco", tmp_path / "run", *ranks, *options)
    assert done.code == code, done.err
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_several_tasks_of_srun_are_no_ranks_by_themselves(tmp_path, monkeypatch) -> None:
    for name, value in (("STEP_ID", "0"), ("PROCID", "1"), ("NTASKS", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    done = train("moco", tmp_path / "run")
    assert done.code == 2
    for word in ("srun has started 2", "--launch slurm --slurm.ranks 2", "torchrun"):
        assert word in done.err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert LaunchOptions().resolved() == "alone"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert LaunchOptions().resolved() == "torchrun"


def test_other_commands_refuse_to_be_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    leader = rhyme("evaluate", "runs/mine")
    assert leader.code == 2
    assert "one of 2 ranks" in leader.err
    monkeypatch.setenv("RANK", "1")
    other = rhyme("embed", "runs/mine", "--data", "a", "--out", "b")
    assert (other.code, other.err) == (2, ""), "the leader has said it"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stop", "user-signal"])
def test_a_stopped_run_ends_with_the_same_bits(tmp_path, troubled, kind) -> None:
    troubled(kind)
    run = tmp_path / "run"
    assert two_ranks(run).code == 75
    troubled("nothing")
    assert rhyme("train", "--resume", run, *TWO).code == 0
    assert weights(run) == weights(undisturbed())


@pytest.mark.slow
def test_a_killed_rank_is_replaced_and_the_bits_are_the_same(tmp_path, troubled) -> None:
    troubled("killed")
    run = tmp_path / "run"
    done = two_ranks(run, "--json")
    assert done.code == 0, done.err
    assert done.document["steps"] == 6
    assert "rank 1 was ended by SIGKILL" in done.err
    assert events(run).count("restarted") == 1
    troubled("nothing")
    assert weights(run) == weights(undisturbed())


@pytest.mark.slow
def test_a_rank_that_always_dies_ends_the_run(tmp_path, troubled) -> None:
    troubled("always-killed")
    done = two_ranks(tmp_path / "run", "--restarts", "1", "--json")
    assert done.code == 1
    assert "rank 1 was ended by SIGKILL, after 1 restarts" in done.document["cause"]
    assert "--resume" in done.document["remedy"]


@pytest.mark.parametrize(("leader", "says"), [
    ("import time; time.sleep(60)", "rank 0 still ran 0.3 s after another one had ended"),
    ("import os; os.kill(os.getpid(), 9)", "rank 0 was ended by SIGKILL"),
    ("raise SystemExit(5)", "rank 0 ended with code 5"),
])  # fmt: skip
def test_a_leader_that_hangs_or_dies_after_another_rank_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader: str, says: str
) -> None:
    if "sleep" in leader:
        monkeypatch.setattr(local, "END_S", 0.3)
    job = local._Job(run=tmp_path, ranks=2, device="cpu", folder=tmp_path, words=[])
    trained = Trained(
        path=tmp_path, system="moco", steps=1, seconds=1.0, loss=1.0, items_per_second=1.0,
        wait_share=0.0, encoder=tmp_path, held_out=1,
    )  # fmt: skip
    outcome.write(tmp_path, 1, trained)
    for rank, words in enumerate((leader, "pass")):
        with outcome.errors_of(tmp_path, rank).open("wb") as errors:
            job.processes.append(
                subprocess.Popen([sys.executable, "-c", words], stderr=errors,
                                 start_new_session=True)
            )  # fmt: skip
    with StopRequest() as request:
        death = job.wait(request)
    assert isinstance(death, local._Death)
    assert (death.rank, death.how) == (0, says)
    assert not job.processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "cause"),
    [
        ("data", "DataError", "items cannot be decoded"),
        ("nan", "TrainingError", "not finite at step 3"),
        ("disk", "CheckpointError", "No space left"),
    ],
)
def test_trouble_on_one_rank_is_told_once_and_not_tried_again(
    tmp_path, troubled, capfd, kind, error, cause
) -> None:
    troubled(kind)
    began = time.monotonic()
    done = two_ranks(tmp_path / "run", "--json")
    assert time.monotonic() - began < 150, "the start of Python included"
    assert done.code == 1
    assert done.document["error"] in (error, "RhymeError")
    assert cause in done.document["cause"]
    assert done.err.count(cause) == 1
    assert "restarted" not in events(tmp_path / "run")
    assert "Traceback" not in capfd.readouterr().err


def command(*arguments: object) -> list[str]:
    return [sys.executable, *(str(a) for a in arguments)]


def long_run(out: Path) -> list[str]:
    """A command that trains for longer than any test waits."""
    values = {**MOCO, "train.steps": 5000, "train.probe_every": 5000, "train.checkpoint_every": 500}
    data = ["moco_world_demo", "--data", str(catalog()), "--out", str(out), "--split", "all"]
    return ["train", *data, *flags(values)]


def until(what: Callable[[], object], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def below(parent: int) -> set[int]:
    """Processes that a process has started, and those that they have started."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, fields = int(status.parent.name), status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found |= {number} | below(number)
    return found


def alive(processes: set[int]) -> set[int]:
    states: set[int] = set()
    for number in processes:
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        states |= {number} if fields[0] != "Z" else set()
    return states


@pytest.fixture
def running(tmp_path: Path):
    """Two ranks in the middle of a long run, and the command that has started them."""
    run = tmp_path / "run"
    started = subprocess.Popen(
        command("-m", "rhyme", *long_run(run), *TWO, "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: len(read_jsonl(run / "metrics.jsonl")) > 2)
        yield started, run
    finally:
        left = below(started.pid) | {started.pid}
        for number in alive(left):
            os.kill(number, signal.SIGKILL)
        started.communicate()


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves(running) -> None:
    started, run = running
    ranks = below(started.pid)
    started.send_signal(signal.SIGUSR1)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 75, err
    assert json.loads(out)["error"] == "Preempted"
    assert len(checkpoint.steps_on_disk(run / "checkpoints")) == 1
    assert not alive(ranks)


@pytest.mark.slow
def test_a_second_interrupt_ends_all_at_once(running) -> None:
    started, _ = running
    ranks = below(started.pid)
    for number in ranks:
        os.kill(number, signal.SIGSTOP)  # so that the first one is not enough
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    time.sleep(1)
    os.killpg(started.pid, signal.SIGINT)
    started.communicate(timeout=20)
    assert started.returncode == 130
    assert not alive(ranks)


@pytest.mark.slow
def test_ranks_end_with_the_one_that_started_them(running) -> None:
    started, _ = running
    ranks = below(started.pid)
    assert len(ranks) >= 2
    started.kill()
    started.wait()
    until(lambda: not alive(ranks), 5.0)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_torchrun_starts_ranks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        "train", "moco_world_demo", "--data", str(catalog()), "--out", str(run), "--json",
        *flags(MOCO), *NO_PROBE,
    ]  # fmt: skip
    first = subprocess.run(
        command(*TORCHRUN, "-m", "rhyme", *words), capture_output=True, text=True, timeout=300,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("\n") == 1
    assert json.loads(first.stdout)["steps"] == 6
    assert weights(run) == weights(undisturbed())
    # The folder exists now: the leader finds it out, and nobody waits for it.
    began = time.monotonic()
    again = subprocess.run(
        command(*TORCHRUN, "-m", "rhyme", *words), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert again.returncode != 0
    assert again.stderr.count("the run folder exists and is not empty") == 1
    assert json.loads(again.stdout)["error"] == "RunError"
    assert time.monotonic() - began < 150, "the start of Python included"


@pytest.mark.slow
def test_torchrun_starts_a_run_again_after_a_kill(tmp_path: Path, troubled) -> None:
    troubled("nothing")  # for the environment
    run = tmp_path / "run"
    words = [
        "train", "moco_world_demo", "--data", str(catalog()), "--out", str(run), "--json",
        *flags(MOCO), *NO_PROBE,
    ]  # fmt: skip
    done = subprocess.run(
        command(*TORCHRUN, "--max-restarts", "1", SCRIPT, "killed", "--", *words),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resumed" in events(run)
    assert weights(run) == weights(undisturbed())


@pytest.mark.slow
def test_a_job_is_queued_again_after_a_signal(tmp_path: Path) -> None:
    """Submitit's local cluster: the signal that SLURM sends before the time limit."""
    run = tmp_path / "run"
    words = [*long_run(run), "--launch", "slurm", "--slurm.cluster", "local"]
    words += ["--slurm.ranks", "2", "--slurm.gpus", "0", "--json", "--device", "cpu"]
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(command("-m", "rhyme", *words), stdout=out, check=True, timeout=120)
    answer = json.loads((tmp_path / "out").read_text())
    assert answer["logs"] == str(run / "slurm")
    job = int(answer["job"])
    try:
        until(lambda: len(read_jsonl(run / "metrics.jsonl")) > 2)
        for number in below(job):
            os.kill(number, signal.SIGUSR2)
        until(lambda: events(run).count("resumed") == 1)
        rows = len(read_jsonl(run / "metrics.jsonl"))
        until(lambda: len(read_jsonl(run / "metrics.jsonl")) > rows + 2)
    finally:
        for number in below(job) | {job}:
            os.kill(number, signal.SIGKILL)
    assert events(run).count("preempted") == 1
