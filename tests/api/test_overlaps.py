"""From a run of CSTP to what its heads say of held-out clips, and to the page that shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rhyme import api
from rhyme.api.overlaps import trained_system
from rhyme.errors import ConfigError
from rhyme.run import RunFolder
from rhyme.systems.cstp import Cstp
from support.tiny_runs import catalog, trained

SMALL = {
    "train.steps": 2,
    "train.batch_size": 8,
    "train.schedule.warmup_steps": 0,
    "train.log_every": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cstp") / "run"
    changes = {**SMALL, "model.overlap.labels": "shuffled"}
    api.train("cstp_world_demo", catalog(), out=out, overrides=changes, progress=False)
    return out


def test_heads_are_asked_about_held_out_clips(run: Path) -> None:
    found = api.overlap_answers(run, passes=3, shown=2)
    assert found.items == 12
    assert found.truths["spatial"].shape == (36,)
    assert found.truths["rotation"].shape == found.told["rotation"].shape == (36, 2)
    assert {len(np.unique(v)) for v in found.truths.values()} <= {1, 2, 3, 4, 5}
    for name in found.truths:
        assert 0 <= found.balanced_accuracy(name) <= 1
        assert found.chance(name) == 1 / len(np.unique(found.truths[name]))
    assert len(found.pairs) == 2
    for pair in found.pairs:
        assert len(pair.labels) == 6
        assert all((label.drawn == label.told) == label.right for label in pair.labels)
        assert pair.frame.pixels is not None
        for clip in pair.clips:
            assert all(pair.start <= t <= pair.stop for t in clip.times)
    same = api.overlap_answers(run, passes=3)
    assert all((same.told[n] == found.told[n]).all() for n in found.told), "the same again"
    fewer = api.overlap_answers(run, passes=1, max_items=5)
    assert fewer.truths["spatial"].shape == (5,)


def test_the_weights_are_those_of_the_run(run: Path) -> None:
    folder = RunFolder.open(run)
    system = trained_system(folder)
    assert isinstance(system, Cstp)
    fresh = trained_system.__globals__["build_system"](api.resolve_recipe(folder.config))
    for name, weight in system.labels.state_dict().items():
        if name.endswith("layers.3.weight"):
            assert not torch.equal(weight, fresh.labels.state_dict()[name])
    package = api.load(run).package.module.state_dict()
    assert all(torch.equal(v, package[n]) for n, v in system.encoder.backbone.state_dict().items())


def test_the_page_shows_them(run: Path, tmp_path: Path) -> None:
    page = api.report(run, out=tmp_path / "page.html").read_text()
    assert 'id="overlaps"' in page
    assert "Balanced accuracy on held-out items" in page


def test_other_runs_have_none() -> None:
    with pytest.raises(ConfigError, match="CSTP"):
        api.overlap_answers(trained("moco"))
