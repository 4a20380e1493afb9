"""``rhyme compare``: runs sorted into arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhyme import api
from rhyme.evaluation import Result, append_results
from rhyme.run import RunFolder
from support.tiny_runs import refused, rhyme

VALUES = {0.0: (0.50, 0.60), 0.1: (0.58, 0.66)}
"""k-NN by weight of the cycle term and seed."""


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of two configurations of one system, and one run of another system."""
    made: list[Path] = []
    todo = [
        *(("cycle_contrast", w, s, v) for w, vs in VALUES.items() for s, v in enumerate(vs)),
        ("moco", None, 0, 0.4),
    ]
    for system, weight, seed, value in todo:
        config = {
            "system": system,
            "model": {"queue": 64} | ({} if weight is None else {"cycle_weight": weight}),
            "train": {"seed": seed, "steps": 9},
        }
        run = RunFolder.create(tmp_path / f"{system}-{weight}-{seed}", config)
        rows = [
            Result(
                system=system, checkpoint=f"{system}{weight}", data="clips", data_fingerprint="f",
                protocol="knn", metric="top1", value=figure, seed=seed, pair=f"f/{seed}", items=9,
                encoder=encoder,
            )
            for encoder, figure in (("trained", value), ("untrained", 0.3))
        ]  # fmt: skip
        append_results(run.results, rows)
        made.append(run.path)
    return made


def test_two_configurations_of_one_system_are_two_arms(runs: list[Path]) -> None:
    found = {line.arm: line for line in api.compare(runs).lines}
    assert set(found) == {
        "cycle_contrast cycle_weight 0.0", "cycle_contrast cycle_weight 0.1",
        "cycle_contrast untrained", "moco", "moco untrained",
    }  # fmt: skip
    for weight, values in VALUES.items():
        line = found[f"cycle_contrast cycle_weight {weight}"]
        assert (line.mean, line.n) == (pytest.approx(sum(values) / 2), 2)
        assert line.difference is not None
        assert line.difference.mean == pytest.approx(sum(values) / 2 - 0.3), "against untrained"


def test_seeds_of_one_configuration_are_one_arm(runs: list[Path]) -> None:
    found = {line.arm: line.n for line in api.compare(runs[:2]).lines}
    assert found == {"cycle_contrast": 2, "cycle_contrast untrained": 2}


def test_the_command_takes_an_arm_as_baseline(runs: list[Path]) -> None:
    done = rhyme("compare", *runs, "--baseline", "cycle_contrast cycle_weight 0.0", "--json")
    assert done.code == 0, done.err
    lines = {line["arm"]: line for line in done.document["lines"]}
    gain = lines["cycle_contrast cycle_weight 0.1"]["difference"]
    assert (gain["mean"], gain["n"], gain["paired"]) == (pytest.approx(0.07), 2, True)
    refused(rhyme("compare", *runs, "--baseline", "cycle_contrast"), 2, "cycle_weight")
