"""The studies behind the evidence of systems of clips: data, arms, budgets, expectations.

Every choice stands here before the runs; ``benchmarks/evidence.py`` runs them.

DUAL on *order-sprites*: videos of the generated world that show two movements, whose eight classes
differ in the order of the movements alone. What a network sees is 16 frames of 24 pixels. Whether a
clip's feature holds order is exactly what shuffle-rank is about.

Five seeds. Cost on one core: about 25 minutes a seed of the world (600 steps of .1 s with clip
contrast alone to .2 s with all terms, and 40 s to judge), 30 minutes for the real clips.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.studies import FIVE, SUPERVISED_CLIPS, THREE, Arm, Job
from rhyme.api import DataOptions

RECIPE = "dual_world_demo"
PUBLISHED = {"model.w_clip": 0.125}

DUAL_ARMS = (
    Arm("A clip", RECIPE, {"model.mode": "clip"}),
    Arm("B clip+sr", RECIPE, {"model.mode": "clip-sr"}),
    Arm("C clip+sr+tc", RECIPE),
    Arm("A' clip+tc", RECIPE, {"model.mode": "clip-tc"}),
    Arm("D random calibration", RECIPE, {"model.mode": "clip-sr", "model.calibration": "random"}),
    Arm("B published", RECIPE, {"model.mode": "clip-sr", **PUBLISHED}),
    Arm("C published", RECIPE, PUBLISHED),
    Arm("A' published", RECIPE, {"model.mode": "clip-tc", **PUBLISHED}),
)
"""Untrained rows (E) and the supervised network stand beside them; *published* is ``w_clip`` = 1/8.

The study is void, not failed, if the supervised network (``finetune``, untrained row) does not tell
more than 90 % of the held-out movements apart.

Expected on held-out videos, at both weights, as means over the seeds:

1. ``ranking_accuracy`` of B and C far above one half; of D about one half, and so not above it; of
   E below it.
2. ``linear`` and ``recall_at_1`` on ``motion``: B above A and C above A; A above E. The claim fails
   if B is not above A. Nothing is claimed of C against B.
3. ``intra_variance``: B and C above A.
4. ``coherence_margin``: C above B.
5. ``colour``: nothing is claimed; printed for the price, if there is one.
"""

PRICED = ("A clip", "B clip+sr", "C clip+sr+tc")
"""Arms of the first three seeds that are asked for the palette too."""

DUAL_BUDGET: dict[str, Any] = {"train.steps": 600, "train.probe_every": 600}
WORLD: dict[str, Any] = {
    "counts": (1500, 100, 600),
    "size": 30,
    "frames": 24,
    "truth": "labels",
    "sound": False,
}
"""24 frames of which a clip takes 16: two clips of a video differ, and both show the change."""
ONE_CLASS = {"retrieval": {"ks": (1, 5), "group": False}}


def sprites_jobs(runs: Path) -> list[Job]:
    """Order-sprites: a world a seed; movement first, then what else is in the features."""
    jobs: list[Job] = []
    for seed in FIVE:
        data = runs / f"sprites-{seed}"
        shared: dict[str, Any] = {
            "seed": seed,
            "data": data,
            "system": "dual",
            "budget": DUAL_BUDGET,
            "frames_per_item": 1,
            "world": {**WORLD, "seed": 2000 + seed},
        }
        motion = DataOptions(label_column="motion")
        trained = [
            Job(
                study="sprites", arm=arm, options=motion, settings=ONE_CLASS,
                protocols=("linear", "retrieval", "segments"),
                untrained=(seed,) if arm.name.startswith("C clip") else (), **shared,
            )
            for arm in DUAL_ARMS
        ]  # fmt: skip
        jobs += trained
        jobs += [
            replace(
                job, study="sprites-colour", options=DataOptions(label_column="colour"),
                protocols=("linear",), settings={}, trained_as=job.key,
            )
            for job in trained
            if job.arm.name in PRICED and seed in THREE
        ]  # fmt: skip
        jobs += [
            replace(
                job, arm=Arm("finetuned", RECIPE), protocols=("finetune",),
                settings=SUPERVISED_CLIPS, trained_as=job.key,
            )
            for job in trained
            if job.arm.name.startswith("C clip") and seed in THREE
        ]  # fmt: skip
    return jobs


REAL_RECIPE = "dual_folder_cpu"
REAL_ARMS = (
    Arm("A clip", REAL_RECIPE, {"model.mode": "clip"}),
    Arm("C clip+sr+tc", REAL_RECIPE),
)
"""Expected: ``ranking_accuracy`` of C above one half on surveillance clips, whose held-out scenes
are other places; C's k-NN and linear figures not below A's beyond the spread over folds. On
Weizmann's four movements everything that sees differences of frames is right, so only the ranking
says something there; waving and bending are periodic, which is hard to order."""
REAL_BUDGET: dict[str, Any] = {
    "train.steps": 120,
    "train.batch_size": 16,
    "train.probe_every": 120,
    "train.schedule.warmup_steps": 10,
    "model.transform.size": 32,
    "model.transform.resize": (37, 49),
    "data.cache_size": 40,
}
REAL_SUPERVISED = {"finetune": {**SUPERVISED_CLIPS["finetune"], "epochs": 12, "flip": 0.5}}


def real_clips_jobs(data: Path) -> list[Job]:
    """Surveillance clips by folds of scenes, Weizmann's by persons; the supervised network last."""
    folds = [
        ("surveillance", data / "action" / "surveillance_fight",
         DataOptions(label_column="label", group_column="scene_group", split_column="fold", fold=f))
        for f in ("0", "1", "2", "3")
    ] + [
        ("weizmann", data / "action" / "weizmann4_64px",
         DataOptions(label_column="label", group_column="person", split_column="person", fold=f))
        for f in ("1", "4", "7")
    ]  # fmt: skip
    jobs: list[Job] = []
    for study, folder, options in folds:
        trained = [
            Job(
                study=study, arm=arm, seed=0, data=folder, options=options, system="dual",
                protocols=("knn", "linear", "segments"), budget=REAL_BUDGET, untrained=(0,),
                settings={"knn": {"levels": ("video",)}},
            )
            for arm in REAL_ARMS
        ]  # fmt: skip
        jobs += trained
        jobs.append(
            replace(
                trained[-1], arm=Arm("finetuned", REAL_RECIPE), protocols=("finetune",),
                settings=REAL_SUPERVISED, trained_as=trained[-1].key,
            )
        )  # fmt: skip
    return jobs


def dual_jobs(runs: Path, data: Path | None, only: str | None) -> list[Job]:
    """All runs of DUAL's evidence.

    Args:
        runs: where worlds and runs lie.
        data: folder of the real collections; None leaves them out.
        only: ``"world"`` or ``"real"`` for a part of it.
    """
    jobs = sprites_jobs(runs) if only in (None, "world") else []
    return jobs + (real_clips_jobs(data) if data is not None and only in (None, "real") else [])
