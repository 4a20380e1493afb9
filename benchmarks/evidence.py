"""Evidence of a system: a resumable list of runs, each figure a row in ``results/``.

    make evidence SYSTEM=cycle_contrast
    python -m benchmarks.evidence --system simclr --seeds 0 1 2
    python -m benchmarks.evidence --system dual --workers 12     on a GPU, or on many cores

The runs are those of ``benchmarks/studies.py`` and of the files that build on it. A run whose rows
are there already is skipped, so the command can be stopped and started at will; ``--seconds`` ends
it. With ``--results`` and ``--runs`` elsewhere everything is made anew, and what is there stays. Of
a worker's run that fails the others know nothing. Where the command is stopped its workers
stop too: those that train save their state first, and the next call goes on from there. The tables
are printed from the rows alone.
"""

import argparse
import os
import re
import statistics
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.clips_evidence import dual_jobs
from benchmarks.cycle_evidence import cycle_jobs
from benchmarks.lsfd_evidence import lsfd_jobs
from benchmarks.machine import machine, revision
from benchmarks.overlap_evidence import cstp_jobs, overlap_rows
from benchmarks.place_evidence import place_jobs, vfs_clip_jobs, vfs_few_jobs
from benchmarks.rows import append
from benchmarks.studies import Job, gpu_picture_jobs, picture_jobs
from benchmarks.tables import table
from rhyme import api
from rhyme.evaluation import Result, append_results, read_results
from rhyme.run import read_jsonl
from rhyme.signals import StopRequest
from rhyme.workers import end_with_parent

RESULTS = Path(__file__).parent.parent / "results"
CALLS = "calls.jsonl"
"""What each call made, and how long it took."""
LOOK_S, SAVE_S = 0.5, 60.0  # between looks for a signal; for a run that is stopped to save


def done(path: Path) -> set[str]:
    """Keys of the jobs whose rows are written."""
    return {str(r.details["job"]) for r in read_results(path)} if path.is_file() else set()


def rows_of(job: Job, results: Path = RESULTS) -> Path:
    """The file of a job's rows."""
    return results / f"{job.system}_{job.study}.jsonl"


def command_of(job: Job) -> str:
    """What makes the rows of a job; those for a GPU are a part of the list by themselves."""
    only = " --only gpu" if job.study.startswith("gpu") else ""
    return f"python -m benchmarks.evidence --system {job.system}{only}"


def watched(log: Sequence[dict[str, Any]], name: str) -> float | None:
    """A figure of a training from its logged steps.

    Args:
        log: rows of ``metrics.jsonl``, in order.
        name: ``"rise"``: by how much the loss rose at most above its first value within the first
            epoch, 0 where it never did, None where fewer than three of its steps were logged; else
            ``"loss"`` or a diagnostic or monitor of that name, as the mean over the last tenth of
            the logged steps; with ``"first "`` before it, of the first one alone.
    """
    steps = [row for row in log if "loss" in row]
    if name.startswith("first "):
        return watched(steps[:1], name.removeprefix("first "))
    if name == "rise":
        first = [row["loss"] for row in steps if row["epoch"] == steps[0]["epoch"]]
        return max(first) - first[0] if len(first) > 2 else None
    tail = steps[-max(1, len(steps) // 10) :]
    return statistics.fmean(
        row["loss"] if name == "loss" else {**row["diagnostics"], **row["monitors"]}[name]
        for row in tail
    )


def training_rows(job: Job, folder: Path, like: Result) -> list[Result]:
    """What the log of the training says, as rows of a protocol named ``training``."""
    if not job.watched:
        return []
    log = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    some = log[:: max(1, len(log) // 12)]
    steps = {"loss_by_step": {row["step"]: round(row["loss"], 3) for row in some}}
    rang = sum(event["event"] == "collapse" for event in read_jsonl(folder / "events.jsonl"))
    known = {"loss", "rise", "alarms", *log[-1]["diagnostics"], *log[-1]["monitors"]}
    return [
        replace(
            like, protocol="training", metric=metric, value=value, chance=None,
            items=0, settings={"split_seed": job.seed}, details=steps if name == "loss" else {},
        )
        for metric, name in job.watched.items()
        if name.removeprefix("first ") in known
        if (value := rang if name == "alarms" else watched(log, name)) is not None
    ]  # fmt: skip


def prepare(job: Job, workers: int = 1) -> None:
    """Make the world that a job needs, if it needs one and it is not there."""
    if job.world is not None and not job.data.is_dir():
        api.world(job.data, workers=workers, **job.world)


def run(job: Job, runs: Path) -> list[Result]:
    """Train, judge, and return the rows; what is trained already is judged alone."""
    prepare(job)
    folder = runs / (job.trained_as or job.key)
    facts: dict[str, Any] = {
        "job": job.key,
        "machine": machine(),
        "changes": {**job.budget, **job.arm.changes},
        "recipe": job.arm.recipe,
    }
    if job.trained_as is None:
        if (folder / "config.yaml").is_file():
            trained = api.resume(folder, progress=False)
        else:
            trained = api.train(
                job.arm.recipe, job.data, out=folder, seed=job.seed, overrides=facts["changes"],
                options=job.options, progress=False,
            )  # fmt: skip
        facts["train_seconds"] = round(trained.seconds, 1)
    column = job.options.label_column
    if job.judged_on is not None:  # the rows' own counts are of what is judged
        column = None
        read = [e for e in read_jsonl(folder / "events.jsonl") if e["event"] == "data"]
        facts |= {"trained_data": job.data.name, "trained_items": read[-1]["train_items"]}
    judged = api.evaluate(
        folder, job.judged_on, protocols=job.protocols, settings=job.settings, heads=job.heads,
        seed=job.seed, untrained_seeds=job.untrained, frames_per_item=job.frames_per_item,
        options=api.DataOptions(label_column=column), record=False,
    )  # fmt: skip
    if judged.skipped:
        raise SystemExit(f"{job.key}: {judged.skipped}")
    # Arms of one system differ by name; a run's seed pairs it with the other arms' runs.
    own = next(row for row in judged.results if row.encoder == "trained")
    return [
        replace(
            r,
            encoder=job.arm.name if r.encoder == "trained" else r.encoder,
            system=job.study,
            data=job.study,
            command=command_of(job),
            details={**r.details, **facts},
        )
        for r in (
            *judged.results,
            *training_rows(job, folder, own),
            *overlap_rows(job, folder, own),
        )
    ]


class Line:
    """Jobs that may begin: in the order given, each once the encoder that it judges is trained.

    Args:
        jobs: all that are to be run; what another one trains may be among them, or be there.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting = list(jobs)
        self.untrained = {job.key for job in jobs if job.trained_as is None}

    def take(self) -> Job | None:
        """The first that may begin; None where there is none at present, or none at all."""
        for job in self.waiting:
            if job.trained_as not in self.untrained:
                self.waiting.remove(job)
                return job
        return None

    def ended(self, job: Job) -> None:
        """A job has written its rows; one that has not keeps back what would judge its encoder."""
        self.untrained.discard(job.key)


def one_by_one(jobs: Sequence[Job], runs: Path, until: float) -> Iterator[tuple[Job, list[Result]]]:
    """Each job with its rows, in this process; the first that fails ends the command."""
    line = Line(jobs)
    while time.monotonic() < until and (job := line.take()) is not None:
        yield job, run(job, runs)
        line.ended(job)


def beside(
    jobs: Sequence[Job], runs: Path, workers: int, until: float
) -> Iterator[tuple[Job, list[Result]]]:
    """The same from several processes, each world once it is needed. One that fails is told.

    Args:
        jobs: what is to be run.
        runs: where runs lie.
        workers: processes; each computes with OMP_NUM_THREADS, by default its share of the cores.
        until: no job begins after this reading of :func:`time.monotonic`.

    Raises:
        SystemExit: a signal asked to stop; the workers are stopped.
    """
    share = max((os.cpu_count() or 1) // workers, 1)
    threads = int(os.environ.get("OMP_NUM_THREADS", share))
    line, running = Line(jobs), dict[Future[list[Result]], Job]()
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), started, (threads,)) as pool,
        stopped_too(pool),
        StopRequest() as request,
    ):
        while True:
            while not request.name and len(running) < workers and time.monotonic() < until:
                if (job := line.take()) is None:
                    break
                try:
                    prepare(job, workers)
                except Exception:
                    failed(job)
                    continue
                if time.monotonic() < until:
                    running[pool.submit(run, job, runs)] = job
            if not running and not request.name:
                return
            for done in wait(running, LOOK_S, FIRST_COMPLETED).done:
                job = running.pop(done)
                try:
                    rows = done.result()
                except (Exception, SystemExit):
                    if not request.name:
                        failed(job)
                    continue
                line.ended(job)
                yield job, rows
            if request.name:
                raise SystemExit(f"stopped by {request.name}: the same command goes on")


def started(threads: int) -> None:
    """How a worker begins: on so many threads, and to end where this process is killed."""
    end_with_parent()
    torch.set_num_threads(threads)


@contextmanager
def stopped_too(pool: ProcessPoolExecutor) -> Generator[None]:
    """Stop the workers of a pool where the work around them is; without it they end their jobs."""
    try:
        yield
    except BaseException:
        processes = list((pool._processes or {}).values())  # `terminate_workers` is of Python 3.14
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        until = time.monotonic() + SAVE_S
        for process in processes:
            process.join(max(until - time.monotonic(), 0.0))
            process.kill()
        raise


def failed(job: Job) -> None:
    """Tell of a job that the exception at hand has ended."""
    print(f"FAILED {job.key}\n{traceback.format_exc(limit=-3)}", file=sys.stderr)


def jobs_of(system: str, runs: Path, data: Path | None, only: str | None) -> list[Job]:
    """The runs of a system; those on real data only where there are any."""
    jobs: list[Job] = []
    if system == "cycle_contrast":
        jobs += cycle_jobs(runs, data, only)
    elif system == "cstp":
        jobs += cstp_jobs(runs) if only in (None, "world") else []
    elif system == "dual":
        jobs += dual_jobs(runs, data, only)
    elif system == "lsfd":
        jobs += lsfd_jobs(runs, only)
    elif system in ("densecl", "vfs"):
        jobs += place_jobs(runs, system) if only in (None, "world") else []
        if system == "vfs" and data is not None and only in (None, "real"):
            jobs += vfs_few_jobs(data) + vfs_clip_jobs(data)
    elif data is not None:
        jobs += (gpu_picture_jobs if only == "gpu" else picture_jobs)(runs, data, system)
    if data is None and only != "world" and system not in GENERATED:
        print("the real data are left out: set RHYME_DATA to their folder", file=sys.stderr)
    return jobs


SYSTEMS = ("cstp", "cycle_contrast", "densecl", "dual", "lsfd", "moco", "simclr", "vfs")
GENERATED = ("cstp", "densecl", "lsfd")
"""Systems whose evidence needs no real data."""


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="cycle_contrast", choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", help="only runs of these seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="trained ones")
    parser.add_argument("--results", type=Path, default=RESULTS, help="rows; elsewhere: all anew")
    parser.add_argument("--only", choices=["world", "real", "gpu"], help="a part of the list")
    parser.add_argument("--workers", type=int, default=0, help="processes beside each other")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no run after that time")
    options = parser.parse_args()
    if options.only == "gpu" and not torch.cuda.is_available():
        print(f"{options.system}: not measured on a GPU, there is none here", file=sys.stderr)
        return
    os.environ["RHYME_COMMIT"] = revision()  # rows that are written on the way change no code
    real = os.environ.get("RHYME_DATA")
    options.runs.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(options.system, options.runs, Path(real) if real else None, options.only)
    jobs = [job for job in jobs if options.seeds is None or job.seed in options.seeds]
    options.results.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if job.key not in done(rows_of(job, options.results))]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there", file=sys.stderr)
    began = time.monotonic()
    until = began + options.seconds
    found = (
        beside(missing, options.runs, options.workers, until)
        if options.workers
        else one_by_one(missing, options.runs, until)
    )
    number = 0
    for number, (job, rows) in enumerate(found, 1):
        append_results(rows_of(job, options.results), rows)
        print(f"[{number}/{len(missing)}] {job.key}", file=sys.stderr, flush=True)
    left, seconds = len(missing) - number, round(time.monotonic() - began)
    if number:
        call = {"system": options.system, "runs": number, "left": left, "seconds": seconds}
        told = {"workers": options.workers, "commit": revision(), "machine": machine()}
        append(options.results / CALLS, [call | told])
        print(f"{number} runs in {seconds / 60:.0f} minutes", file=sys.stderr)
    if left:
        print(f"{left} runs are left: the same command goes on with them", file=sys.stderr)
    for path in sorted(options.results.glob(f"{options.system}_*.jsonl")):
        text = re.sub("</?(?:details|summary)>", "", table(read_results(path)))  # a page folds
        print(f"\n# {path.stem}\n\n{text}")


if __name__ == "__main__":
    main()
