"""CycleContrast's list of runs: arms differ in what they name, every job has its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cycle_evidence
from benchmarks.cycle_evidence import KEPT_ARMS, LONG_ARMS, LONG_BUDGET, cycle_jobs
from rhyme.api import resolve_recipe
from rhyme.evaluation import load_protocol
from rhyme.synthetic import WorldConfig


@pytest.mark.parametrize(("arms", "budget"), [(LONG_ARMS, LONG_BUDGET), (KEPT_ARMS, {})])
def test_arms_differ_in_what_they_name(arms, budget) -> None:
    made = {arm.name: resolve_recipe(arm.recipe, {**budget, **arm.changes}) for arm in arms}
    assert len({repr(one.model) for one in made.values()}) == len(made) == len(arms)
    assert len({repr(one.train) for one in made.values()}) == 1, "one budget for all"
    assert len({repr(one.data) for one in made.values()}) == 1
    assert len({one.model.queue for one in made.values()}) == 1


def test_the_controls_keep_all_of_the_cycle_but_its_meaning() -> None:
    models = {
        a.name: resolve_recipe(a.recipe, {**LONG_BUDGET, **a.changes}).model for a in LONG_ARMS
    }
    whole = models["intra + cycle"]
    assert (whole.cycle_queue, whole.support, whole.cycle_weight) == (4096, 1024, 1.0)
    assert (whole.temperature, whole.neighbour_temperature, whole.queue) == (0.2, 0.1, 4096)
    assert whole.mask_same_group is True
    for name in ("shuffled values", "uniform weights", "no mask"):
        control = models[name]
        assert (control.cycle_weight, control.support) == (whole.cycle_weight, whole.support)
    assert models["shuffled values"].neighbour_values == "shuffled"
    assert models["uniform weights"].neighbour_temperature == 1e4
    assert models["no mask"].mask_same_group is False
    assert models["intra"].cycle_weight == 0.0


def test_every_job_has_a_key_a_protocol_and_data(tmp_path: Path) -> None:
    jobs = cycle_jobs(tmp_path, tmp_path, None)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(jobs)
    asked = {a.name: len(a.seeds) for a in LONG_ARMS}
    assert sum(count == 5 for count in asked.values()) == 6, "the six arms that claims rest on"
    for place, job in enumerate(jobs):
        if job.trained_as is not None:
            assert keys.index(job.trained_as) < place
        for name in (*job.protocols, *job.settings):
            load_protocol(name)
        if job.world is not None:
            WorldConfig(**job.world)
    kept = {job.data: job.world for job in jobs if job.study == "kept"}
    assert {world["palette_keep"] for world in kept.values() if world} == {1.0}
    long_kept = [job for job in jobs if job.study == "long-kept"]
    assert kept == {job.data: job.world for job in long_kept}, "two recipes on the same worlds"
    assert all(job.budget == LONG_BUDGET for job in long_kept)
    fresh = [job.seed for job in jobs if job.study == "long-again" and job.untrained]
    assert fresh == [5, 6, 7, 8, 9]
    worlds = {(job.study, job.seed): job.world for job in jobs if job.world}
    changing = ("world", "long", "long-again")
    seeds = [world["seed"] for (study, _), world in worlds.items() if study in changing]
    assert len(set(seeds)) == len(seeds), "no world serves two studies of changing palettes"
    untrained = [job.untrained for job in jobs if job.study == "long" and job.untrained]
    assert sorted(untrained)[:5] == [(0,), (0,), (1,), (1,), (2,)], "once a seed, and the ceilings'"
    assert {job.study for job in cycle_jobs(tmp_path, tmp_path, "real")} == {
        "davis", "mixed", "surveillance"
    }  # fmt: skip
    assert cycle_evidence.cycle_jobs(tmp_path, None, "real") == []


def test_a_gpu_gets_both_collections_from_resnet18_at_128_to_resnet50_at_224(tmp_path) -> None:
    jobs = cycle_jobs(tmp_path, tmp_path, "gpu")
    studies = list(dict.fromkeys(job.study for job in jobs))
    assert studies == ["gpu", "gpu-surveillance", "gpu-large", "gpu-large-surveillance"]
    assert len({job.key for job in jobs}) == len(jobs)
    for job in jobs:
        made = resolve_recipe(job.arm.recipe, {**job.budget, **job.arm.changes})
        name, size = ("resnet50", 224) if "large" in job.study else ("resnet18", 128)
        assert (made.model.backbone.name, made.model.transform.size) == (name, size)
        assert made.data.cache_size >= size
        if job.world is not None:
            assert WorldConfig(**job.world).size == made.data.cache_size
