"""LSFD's list of runs: arms differ in what they name, every job can be judged."""

from __future__ import annotations

from pathlib import Path

from benchmarks.lsfd_evidence import BUDGET, LSFD_ARMS, lsfd_jobs
from rhyme.api import resolve_recipe
from rhyme.evaluation import load_protocol
from rhyme.evaluation.protocol import parse_settings
from rhyme.synthetic import BACKGROUNDS, WorldConfig


def test_arms_are_those_of_the_specification() -> None:
    found = [resolve_recipe(arm.recipe, {**BUDGET, **arm.changes}) for arm in LSFD_ARMS]
    models = {arm.name: r.model for arm, r in zip(LSFD_ARMS, found, strict=True)}
    assert len(set(map(repr, models.values()))) == len(LSFD_ARMS) == 5
    assert all(r.train == found[0].train and r.data == found[0].data for r in found)
    assert (found[0].train.batch_size, found[0].train.steps <= 800) == (32, True)
    assert found[0].model.transform.size == 24
    assert models["without L_n"].w_n == models["without L_s"].w_s == 0
    assert not models["undivided"].divided
    assert (models["mean"].aggregator, models["full"].aggregator) == ("mean", "linear")


def test_every_job_can_be_judged(tmp_path: Path) -> None:
    jobs = lsfd_jobs(tmp_path)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(jobs) == 27
    assert sum(job.trained_as is None for job in jobs) == 15
    assert all(job.trained_as in keys[:i] for i, job in enumerate(jobs) if job.trained_as)
    assert {job.seed for job in jobs} == {0, 1, 2}
    assert BACKGROUNDS == 20
    for job in jobs:
        config = WorldConfig(**job.world)
        assert config.clips == 0
        assert config.untrimmed > 0
        for name in job.protocols:
            parse_settings(load_protocol(name), job.settings.get(name, {}))
        whole = job.arm.name in ("undivided", "finetuned")
        assert bool(job.heads) != whole, "an undivided feature has no parts"
    assert lsfd_jobs(tmp_path, "real") == []
