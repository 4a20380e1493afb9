"""Evidence of a system: a resumable list of runs, each figure a row in ``results/``.

    make evidence SYSTEM=cycle_contrast
    python -m benchmarks.evidence --system cycle_contrast --seeds 0 1 2

Every choice stands in this file before the runs. A run whose rows are there already is skipped, so
the command can be stopped and started at will. The tables are printed from the rows alone.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.pictures import cut_pictures
from rhyme import api
from rhyme.evaluation import append_results, compare, read_results

RESULTS = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Arm:
    """One way of training: a recipe and what is changed in it."""

    name: str
    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)


WORLD_ARMS = (
    Arm("image MoCo", "moco_world_demo"),
    Arm("intra", "cycle_contrast_world_demo", {"model.cycle_weight": 0.0}),
    Arm("intra + cycle", "cycle_contrast_world_demo"),
)
FOLDER_ARMS = (Arm("intra + cycle", "cycle_contrast_folder_cpu"),)
SIMCLR_ARMS = (
    Arm("crop + colour", "simclr_cifar10_cpu"),
    Arm("crop only", "simclr_cifar10_cpu", {"model.transform.jitter": 0.0,
                                            "model.transform.gray": 0.0}),
    Arm("no head", "simclr_cifar10_cpu", {"model.head.layers": 0, "model.head.out": 0,
                                          "model.head.last_norm": False}),
    Arm("temperature 1", "simclr_cifar10_cpu", {"model.temperature": 1.0}),
)  # fmt: skip
"""Expected of k-NN and linear: the first above the others, all above the untrained encoder, and the
backbone's feature above the head's (``top1`` above ``top1@z``)."""
MOCO_ARMS = (
    Arm("momentum .99", "moco_cifar10_cpu"),
    Arm("momentum 0", "moco_cifar10_cpu", {"model.momentum": 0.0}),
    Arm("not shuffled", "moco_cifar10_cpu", {"model.shuffle": False}),
    Arm("queue 256", "moco_cifar10_cpu", {"model.queue": 256}),
)
"""Expected of k-NN: the first above the second, and not below the other two."""


@dataclass(frozen=True)
class Job:
    """One run: an arm on a collection with a seed."""

    study: str
    arm: Arm
    seed: int
    data: Path
    options: api.DataOptions
    protocols: tuple[str, ...] = ("knn", "linear", "retrieval", "cycle")
    heads: tuple[str, ...] = ()
    system: str = "cycle_contrast"

    @property
    def key(self) -> str:
        fold = f"-fold{self.options.fold}" if self.options.fold is not None else ""
        return f"{self.study}-{self.arm.name.replace(' ', '')}{fold}-seed{self.seed}"


def world_jobs(runs: Path, seeds: list[int]) -> list[Job]:
    """Fresh worlds, data and training seed varying together; 1,000 held-out videos."""
    return [
        Job("world", arm, s, runs / f"world-{s}", api.DataOptions(label_column="appearance"))
        for s in seeds
        for arm in WORLD_ARMS
    ]


def real_jobs(data: Path, seeds: list[int]) -> list[Job]:
    """The surveillance clips by group folds, and all real clips together without labels."""
    clips = data / "action" / "surveillance_fight"
    folds = [
        api.DataOptions(
            label_column="label", group_column="scene_group", split_column="fold", fold=f
        )
        for f in ("0", "1", "2", "3")
    ]
    jobs = [
        Job("surveillance", arm, s, clips, o) for s in seeds for o in folds for arm in FOLDER_ARMS
    ]
    mixed = api.DataOptions(labels="none")
    protocols = ("retrieval", "cycle")
    jobs += [
        Job("mixed", arm, s, data / "action", mixed, protocols)
        for s in seeds
        for arm in FOLDER_ARMS
    ]
    return jobs


def picture_jobs(runs: Path, data: Path, system: str, seeds: list[int]) -> list[Job]:
    """10,000 real pictures of 32 pixels to train on, 2,000 to test on."""
    arms, head = (SIMCLR_ARMS, "z") if system == "simclr" else (MOCO_ARMS, "m")
    cut = cut_pictures(data / "images" / "cifar10", runs / "cifar10-10k", train=1000, test=200)
    return [
        Job("pictures", arm, s, cut, api.DataOptions(), ("knn", "linear"), (head,), system)
        for s in seeds
        for arm in arms
    ]


def done(path: Path) -> set[str]:
    """Keys of the jobs whose rows are written."""
    return {str(r.details["job"]) for r in read_results(path)} if path.is_file() else set()


def run(job: Job, runs: Path, out: Path) -> None:
    """Make the world if it is one, train, judge, and append the rows."""
    if job.study == "world" and not job.data.is_dir():
        api.world(job.data, counts=(1500, 250, 1000), seed=1000 + job.seed, size=30, truth="labels",
                  workers=2)  # fmt: skip
    folder = runs / job.key
    if (folder / "config.yaml").is_file():
        trained = api.resume(folder, progress=False)
    else:
        trained = api.train(
            job.arm.recipe, job.data, out=folder, seed=job.seed, overrides=job.arm.changes,
            options=job.options, progress=False,
        )  # fmt: skip
    column = job.options.label_column
    judged = api.evaluate(
        folder, protocols=job.protocols, heads=job.heads, seed=job.seed,
        options=api.DataOptions(label_column=column), record=False,
    )  # fmt: skip
    facts = {
        "job": job.key,
        "machine": machine(),
        "train_seconds": round(trained.seconds, 1),
        "changes": job.arm.changes,
        "recipe": job.arm.recipe,
    }
    # Arms of one system differ by name; a run's seed pairs it with the other arms' runs.
    rows = [
        replace(
            r,
            encoder=job.arm.name if r.encoder == "trained" else r.encoder,
            system=job.study,
            data=job.study,
            command=f"python -m benchmarks.evidence --system {job.system}",
            details={**r.details, **facts},
        )
        for r in judged.results
    ]
    append_results(out, rows)


SYSTEMS = ("cycle_contrast", "moco", "simclr")


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="cycle_contrast", choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--only", choices=["world", "real"])
    options = parser.parse_args()
    real = os.environ.get("RHYME_DATA")
    options.runs.mkdir(parents=True, exist_ok=True)
    jobs: list[Job] = []
    if options.system == "cycle_contrast" and options.only != "real":
        jobs += world_jobs(options.runs, options.seeds)
    if real and options.only != "world":
        jobs += (
            real_jobs(Path(real), options.seeds)
            if options.system == "cycle_contrast"
            else picture_jobs(options.runs, Path(real), options.system, options.seeds)
        )
    elif not real:
        print("the real data are left out: set RHYME_DATA to their folder", file=sys.stderr)
    RESULTS.mkdir(exist_ok=True)
    for number, job in enumerate(jobs, 1):
        out = RESULTS / f"{options.system}_{job.study}.jsonl"
        if job.key in done(out):
            continue
        print(f"[{number}/{len(jobs)}] {job.key}", file=sys.stderr)
        run(job, options.runs, out)
    for path in sorted(RESULTS.glob(f"{options.system}_*.jsonl")):
        print(f"\n{path.stem}\n")
        print(compare(read_results(path)).text())


if __name__ == "__main__":
    main()
