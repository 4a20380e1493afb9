"""The lists of runs behind the tables: their options exist, and their data can be cut."""

import zipfile
from pathlib import Path

import pytest

from benchmarks import evidence
from benchmarks.pictures import cut_pictures
from rhyme.api import resolve_recipe
from rhyme.recipes import recipe


@pytest.mark.parametrize("arms", [evidence.WORLD_ARMS, evidence.SIMCLR_ARMS, evidence.MOCO_ARMS])
def test_arms_differ_from_their_recipe_in_what_they_name(arms) -> None:
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        changed = resolve_recipe(arm.recipe, arm.changes)
        assert (changed != recipe(arm.recipe)) == bool(arm.changes)
    budgets = {resolve_recipe(arm.recipe, arm.changes).train for arm in arms}
    assert len(budgets) == 1


def test_jobs_of_pictures(tmp_path: Path) -> None:
    source = tmp_path / "images" / "cifar10"
    source.mkdir(parents=True)
    for split in ("train", "test"):
        with zipfile.ZipFile(source / f"{split}.zip", "w") as file:
            for name in ("cat", "dog"):
                for k in (0, 999, 1000):
                    file.writestr(f"{split}/{name}/{k:04d}.jpg", bytes([k % 256]))
    jobs = evidence.picture_jobs(tmp_path, tmp_path, "simclr", [0, 1])
    assert len({job.key for job in jobs}) == len(jobs) == 2 * len(evidence.SIMCLR_ARMS)
    assert {(job.system, job.heads) for job in jobs} == {("simclr", ("z",))}
    cut = jobs[0].data
    with zipfile.ZipFile(cut / "train.zip") as file:
        assert file.namelist() == [
            f"train/{c}/{k:04d}.jpg" for c in ("cat", "dog") for k in (0, 999)
        ]
    with zipfile.ZipFile(cut / "test.zip") as file:
        assert file.namelist() == ["test/cat/0000.jpg", "test/dog/0000.jpg"]
    assert cut_pictures(tmp_path / "gone", cut) == cut, "what is there is kept"
    assert {job.system for job in evidence.picture_jobs(tmp_path, tmp_path, "moco", [0])} == {
        "moco"
    }
