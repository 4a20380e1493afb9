"""The protocol on segments, and the strips of a report, on a tiny run of DUAL."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rhyme import api
from rhyme.api.segment_pictures import draw_segments
from rhyme.catalog import Catalog, scan
from rhyme.encoders import Features, Head, HeadConfig, InferencePlan
from rhyme.errors import ConfigError, EvaluationError, UnknownName
from rhyme.evaluation.frames import FrameData
from rhyme.evaluation.segments import PROTOCOL, Settings, run
from support.tiny_runs import catalog, rhyme, trained


class Halves(torch.nn.Module):
    """An encoder that knows the mean level of each half of a clip, in order."""

    reads_clips = True

    def forward(self, clips: Tensor) -> Features:
        return Features(pooled=clips.unflatten(1, (2, -1)).mean(dim=(2, 3, 4, 5)))


class Angles(torch.nn.Module):
    """A series head whose vectors are the halves' levels as directions; or constants."""

    config = HeadConfig(layers=1, out=4, blocks=2)

    def __init__(self, constant: bool = False) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, features: Tensor) -> Tensor:
        level = features * 5
        if self.constant:
            level = torch.tensor([0.0, 1.5]).expand_as(level)
        return torch.stack([level.cos(), level.sin()], dim=-1).flatten(1)


def data(head: torch.nn.Module | None, encoder: torch.nn.Module | None = None) -> FrameData:
    plan = InferencePlan(size=24, resize=30, frames=8, stride=1)
    items = Catalog.open(catalog()).select(split="test")
    heads: dict[str, Head] = {} if head is None else {"series": head}  # type: ignore[dict-item]
    return FrameData(encoder=encoder or Halves(), plan=plan, catalog=items, heads=heads)


def figures(head: torch.nn.Module | None) -> dict[str, float]:
    return {m.name: m.value for m in run(data(head), Settings())}


def test_an_encoder_that_sees_each_segment_is_right_and_a_constant_wrong() -> None:
    found = run(data(Angles()), Settings())
    accuracy = next(m for m in found if m.name == "ranking_accuracy")
    assert accuracy.value == 1
    assert accuracy.chance == 0.5
    assert accuracy.items == 12 * 4
    assert figures(Angles(constant=True))["ranking_accuracy"] == 0
    assert figures(Angles(constant=True))["coherence_margin"] == pytest.approx(0, abs=1e-6)
    assert figures(Angles())["coherence_margin"] > 0
    assert 0 < figures(Angles())["intra_variance"] < 1


def test_without_a_series_head_only_the_variance_is_measured() -> None:
    (metric,) = run(data(None), Settings())
    assert metric.name == "intra_variance"
    (note,) = metric.notes
    assert note.startswith("the encoder has no head 'series'")
    assert "ranking_accuracy and coherence_margin are not measured" in note
    assert all(not m.notes for m in run(data(Angles()), Settings()))


def test_a_head_that_is_named_and_not_there_is_refused() -> None:
    package = api.load(trained("dual")).package
    assert PROTOCOL.check is not None
    PROTOCOL.check(package, Settings(), "--segments.")
    for known in package.heads:
        PROTOCOL.check(package, Settings(head=known), "--segments.")
    with pytest.raises(UnknownName, match="no head 'sries'") as caught:
        PROTOCOL.check(package, Settings(head="sries"), "--segments.")
    assert "'series'" in str(caught.value.remedy)
    PROTOCOL.check(dataclasses.replace(package, heads={}), Settings(), "--segments.")


def test_items_of_one_group_have_no_margin() -> None:
    alone = data(Angles())
    alone = dataclasses.replace(alone, catalog=alone.catalog.select(indices=[0]))
    assert {m.name for m in run(alone, Settings())} == {"intra_variance", "ranking_accuracy"}


@pytest.mark.parametrize("batch_size", [8, 64, 3])
def test_an_item_that_loses_a_clip_moves_no_other_items_clips(
    tmp_path: Path, batch_size: int
) -> None:
    """Batches of 8 split items of 3 clips: the damage reaches one of its batches, or all."""
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = tmp_path / f"clips/v{i}"
        folder.mkdir(parents=True)
        for k in range(24):
            level = np.full((24, 24, 3), 30 * (k // 4) + 6 * i, np.uint8)
            noise = rng.integers(0, 20, level.shape, dtype=np.uint8)
            Image.fromarray(level + noise).save(folder / f"{k:03}.png")
    items = scan(tmp_path / "clips", out=tmp_path / "clips.catalog")
    wanted = dataclasses.replace(data(Angles()), catalog=items)
    settings = Settings(clips=3, batch_size=batch_size)
    whole = dataclasses.replace(wanted, catalog=items.select(indices=[0, 1, 3, 4, 6, 7]))
    expected = {m.name: (m.value, m.items) for m in run(whole, settings)}
    for i in (2, 5):  # in the last clip alone
        (tmp_path / f"clips/v{i}/022.png").write_bytes(b"no picture" * 30)
    found = run(wanted, settings)
    assert {m.name: m.items for m in found} == {n: items for n, (_, items) in expected.items()}
    for metric in found:
        assert metric.value == pytest.approx(expected[metric.name][0], rel=1e-5)
        assert set(metric.details["skipped"]) == {"v2", "v5"}
        assert metric.details["left_out"] == 2
        (note,) = metric.notes
        assert note.startswith("2 of 8 items were left out, e.g. v2: ")


def test_what_it_refuses() -> None:
    with pytest.raises(EvaluationError, match="encoder of clips"):
        run(data(None, torch.nn.Identity()), Settings())
    with pytest.raises(ConfigError, match="clips"):
        Settings(clips=1)
    assert PROTOCOL.reads == "frames"


def test_a_run_is_judged_and_drawn(tmp_path: Path) -> None:
    folder = shutil.copytree(trained("dual"), tmp_path / "run")
    done = rhyme("evaluate", folder, "--protocol", "segments", "--json")
    assert done.code == 0, done.err
    rows = [row for row in done.document["results"] if row["protocol"] == "segments"]
    assert {row["metric"] for row in rows} == {
        "ranking_accuracy", "coherence_margin", "intra_variance"
    }  # fmt: skip
    untrained = [r for r in rows if r["encoder"] == "untrained" and r["metric"][:4] == "rank"]
    assert len(untrained) == 3
    package = api.load(folder).package
    test = Catalog.open(catalog()).select(split="test")
    strips = draw_segments(package, test, seed=1)
    assert len(strips) == 6
    assert len({strip.clip[0].file for strip in strips}) == 6
    for strip in strips:
        assert list(strip.order) == [1, 0]
        assert len(strip.clip) == 8
        assert strip.clip[0].pixels.shape == (24, 24, 3)
        assert np.abs(strip.trained).max() <= 1 + 1e-5
        assert not np.allclose(strip.trained, strip.untrained)
    plain = dataclasses.replace(package, heads={})
    assert draw_segments(plain, test) == []
    page = folder / "segments.html"
    assert rhyme("report", folder, "--out", page).code == 0
    assert 'id="segments"' in page.read_text()
