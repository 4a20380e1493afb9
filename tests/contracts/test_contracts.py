"""Five kinds of systems that share nothing but the contracts run under the one loop."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from resume.harness import assert_bit_equal_resume
from rhyme.loading.batch import Source
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import Trainer, load_part

NAMES = ("graph", "adversarial", "bandit", "zipped", "tokens")
MINIS = [Path(__file__).parent / f"{name}.py" for name in NAMES]


@pytest.fixture(params=NAMES)
def mini(request):
    return importlib.import_module(f"contracts.{request.param}")


def make_system(mini, seed):
    torch.manual_seed(seed)
    return mini.SYSTEM()


def train(mini, folder):
    run = RunFolder.create(folder, mini.CONFIG)
    trainer = Trainer(make_system(mini, 1), mini.SOURCE(0), mini.CONFIG, run, progress=False)
    return trainer, trainer.fit()


@pytest.mark.parametrize("path", MINIS, ids=lambda p: p.stem)
def test_a_system_fits_in_sixty_lines(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60


def test_runs_and_exports(mini, tmp_path):
    before = make_system(mini, 1).state_dict()
    trainer, result = train(mini, tmp_path / "run")
    assert isinstance(mini.SOURCE(0), Source)
    assert result.steps == 6
    assert torch.isfinite(torch.tensor(result.final_loss))
    after = trainer.system.state_dict()
    weights = [n for n, p in trainer.system.named_parameters() if p.requires_grad]
    assert all(not torch.equal(before[n], after[n]) for n in weights if "bias" not in n)
    rows = read_jsonl(trainer.run.metrics)
    assert rows[-1]["step"] == 6
    assert rows[-1]["loss"] == result.final_loss

    export = trainer.system.exports()[mini.EXPORT]
    loaded = load_part(trainer.run.path / "exports" / mini.EXPORT, mini.MODULE())
    with torch.no_grad():
        assert torch.equal(loaded(*mini.EXAMPLE), export.module.eval()(*mini.EXAMPLE))
    about = json.loads((trainer.run.path / "exports" / mini.EXPORT / "export.json").read_text())
    assert about["kind"] == export.kind


def test_resumes_bit_equal_at_every_step(mini, tmp_path):
    assert_bit_equal_resume(
        lambda seed: make_system(mini, seed), lambda: mini.SOURCE(0), mini.CONFIG, tmp_path
    )
