"""CSTP's list of runs: arms differ in what they name, every job has its key."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import overlap_evidence
from benchmarks.overlap_evidence import BUDGET, CSTP_ARMS, RECIPE, cstp_jobs
from rhyme.api import resolve_recipe
from rhyme.evaluation import load_protocol
from rhyme.synthetic import WorldConfig


def test_arms_differ_in_what_they_name() -> None:
    found = {a.name: resolve_recipe(a.recipe, {**BUDGET, **a.changes}) for a in CSTP_ARMS}
    assert len({repr(one.model) for one in found.values()}) == len(CSTP_ARMS) == 6
    whole = resolve_recipe(RECIPE, BUDGET)
    assert all(one.train == whole.train and one.data == whole.data for one in found.values())
    assert (whole.train.batch_size, whole.model.transform.size) == (32, 24)
    assert (whole.train.steps or 0) <= 800
    told = {n: {k for k, w in one.model.weights.items() if w > 0} for n, one in found.items()}
    pair = {"spatial", "temporal"}
    assert told.pop("BYOL") == set()
    assert told.pop("all four heads") == {*pair, "pace", "rotation"}
    assert all(names == pair for names in told.values())
    assert found["STOR"].model.byol_weight == 0
    assert all(m.model.byol_weight == 0.1 for n, m in found.items() if n != "STOR")
    assert found["shuffled labels"].model.overlap.labels == "shuffled"
    released = found["released loader"].model.overlap
    assert (released.sampler, released.second) == ("released", "first")


def test_every_overlap_has_room_in_the_world() -> None:
    model = resolve_recipe(RECIPE, BUDGET).model
    longest = (model.frames - 1) * model.overlap.paces[0]
    shift = model.overlap.shifts(model.frames)[0].max()
    assert overlap_evidence.WORLD["frames"] > longest + shift
    slowest = (model.frames - 1) * model.overlap.paces[-1]
    assert overlap_evidence.WORLD["frames"] > slowest, "every pace occurs"
    assert (np.diff(model.overlap.shifts(model.frames), axis=1) > 0).all(), "all rates differ"
    assert (model.frames - 1) * model.stride < overlap_evidence.WORLD["frames"]


def test_every_job_has_a_key_a_protocol_and_data(tmp_path: Path) -> None:
    jobs = cstp_jobs(tmp_path)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(jobs) == 3 * 7
    for place, job in enumerate(jobs):
        if job.trained_as is not None:
            assert keys.index(job.trained_as) < place
        for name in (*job.protocols, *job.settings):
            load_protocol(name)
        assert job.world is not None
        assert WorldConfig(**job.world).frames == 32
