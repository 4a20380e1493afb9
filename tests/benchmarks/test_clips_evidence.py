"""DUAL's list of runs: arms differ in what they name, every job has its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import clips_evidence
from benchmarks.clips_evidence import DUAL_ARMS, REAL_ARMS, dual_jobs
from rhyme.api import resolve_recipe
from rhyme.evaluation import load_protocol
from rhyme.recipes import recipe
from rhyme.synthetic import WorldConfig


@pytest.mark.parametrize(
    ("arms", "budget"),
    [(DUAL_ARMS, clips_evidence.DUAL_BUDGET), (REAL_ARMS, clips_evidence.REAL_BUDGET)],
)
def test_arms_differ_from_their_recipe_in_what_they_name(arms, budget) -> None:
    models = []
    for arm in arms:
        changed = resolve_recipe(arm.recipe, {**budget, **arm.changes})
        models.append(changed.model)
        assert changed.train == resolve_recipe(arm.recipe, budget).train, "one budget for all"
        assert changed.data == resolve_recipe(arm.recipe, budget).data
    assert len({arm.name for arm in arms}) == len(set(map(repr, models))) == len(arms)
    assert recipe(arms[0].recipe).system == "dual"


def test_what_the_specification_asks_for_is_there() -> None:
    models = {a.name: resolve_recipe(a.recipe, a.changes).model for a in DUAL_ARMS}
    balances = {(m.mode, m.w_clip, m.calibration) for m in models.values()}
    assert balances == {
        ("clip", 1.0, "recorded"),
        *(("clip-" + m, w, "recorded") for m in ("sr", "tc", "sr-tc") for w in (1.0, 0.125)),
        ("clip-sr", 1.0, "random"),
    }
    train = resolve_recipe(clips_evidence.RECIPE, clips_evidence.DUAL_BUDGET).train
    assert train.batch_size == 32
    assert train.steps <= 800


def test_every_job_has_a_key_a_protocol_and_data(tmp_path: Path) -> None:
    jobs = dual_jobs(tmp_path, tmp_path, None)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(jobs)
    assert {job.seed for job in jobs if job.world} == {0, 1, 2, 3, 4}
    for place, job in enumerate(jobs):
        if job.trained_as is not None:
            assert keys.index(job.trained_as) < place, "judged after it was trained"
        for name in (*job.protocols, *job.settings):
            load_protocol(name)
        if job.world is not None:
            config = WorldConfig(**job.world)
            assert config.size == 30
            assert config.frames > resolve_recipe(job.arm.recipe, {}).model.frames
    assert {job.study for job in jobs if "finetune" in job.protocols} == {
        "sprites", "surveillance", "weizmann"
    }  # fmt: skip
    assert not any(job.world for job in dual_jobs(tmp_path, tmp_path, "real"))
    assert all(job.world for job in dual_jobs(tmp_path, None, None))
