"""The invariants of DUAL: its terms, its permutations, what is trained by what, its queues."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rhyme.errors import ConfigError
from rhyme.objectives import segment_ranking
from rhyme.systems import RunContext
from rhyme.systems.dual import Dual, DualConfig
from rhyme.views import ContrastTransform, ShiftCropTransform
from support.tiny_systems import TINY, TINY_CLIP, at, batch_for

TERMS = {
    "clip": {"clip"},
    "clip-sr": {"clip", "sr"},
    "clip-tc": {"clip", "tc"},
    "clip-sr-tc": {"clip", "sr", "tc"},
}


def dual(build, **options) -> Dual:
    return build("dual", **({"frames": 4} | options))


def segments(system: Dual, rows: Tensor) -> Tensor:
    return rows.unflatten(1, (system.config.segments, -1))


def ranking(a: Tensor, b: Tensor, theta: float) -> float:
    """R of the paper, anchor by anchor."""
    total, count = 0.0, 0
    for x, y in zip(a.detach().numpy(), b.detach().numpy(), strict=True):
        both, s = np.concatenate([x, y]), len(x)
        for i, u in enumerate(both):
            v = both[(i + s) % (2 * s)]
            for j, w in enumerate(both):
                if j % s != i % s:
                    total += np.logaddexp(0.0, (u @ w - u @ v) / theta)
                    count += 1
    return total / count


def contrast(a: Tensor, b: Tensor, temperature: float) -> float:
    """NT-Xent over 2N clips, with similarities ``[N, ...]`` averaged over all pairs of segments."""
    rows = torch.cat([a, b]).detach().numpy()
    n = len(rows) // 2
    similar = np.einsum("aid,bjd->ab", rows, rows) / rows.shape[1] ** 2 / temperature
    np.fill_diagonal(similar, -np.inf)
    positive = similar[np.arange(2 * n), (np.arange(2 * n) + n) % (2 * n)]
    return float((np.logaddexp.reduce(similar, axis=1) - positive).mean())


@pytest.mark.parametrize("s", [2, 4])
def test_a_step_is_the_sum_of_the_papers_terms(build, s: int) -> None:
    system = dual(build, segments=s, w_clip=0.5, w_tc=2.0, w_sr=3.0, theta=0.1, tc_temperature=0.3)
    batch = batch_for(system)
    found = system.embed(batch, at(0))
    order = system.order(batch, at(0))
    q, k, r, p = (
        segments(system, found[f"{name}/series"])
        for name in ("source", "positive", "unshuffled", "shuffled")
    )
    calibrated = torch.empty_like(p)
    for i in range(len(p)):
        for j in range(s):
            calibrated[i, order[i, j]] = p[i, j]
    sr = 0.5 * ranking(q, calibrated, 0.1) + 0.5 * ranking(r, calibrated, 0.1)
    tc = contrast(q, k, 0.3)
    clip = contrast(found["source/clip"][:, None], found["positive/clip"][:, None], 0.2)
    output = system.training_step(batch, at(0))
    assert {n: v.item() for n, v in output.parts.items()} == pytest.approx(
        {"clip": clip, "tc": tc, "sr": sr}, rel=1e-9
    )
    assert output.loss.item() == pytest.approx(0.5 * clip + 2 * tc + 3 * sr, rel=1e-9)
    assert torch.equal(output.record["order"], order)


@pytest.mark.parametrize("base", ["simclr", "moco"])
@pytest.mark.parametrize("mode", TERMS)
def test_modes_have_their_terms_and_nothing_else(build, mode: str, base: str) -> None:
    system = dual(build, mode=mode, base=base)
    batch = batch_for(system)
    output = system.training_step(batch, at(0))
    assert set(output.parts) == TERMS[mode]
    assert ("shuffled" in batch.views) == ("sr" in mode)
    assert set(system.online.heads) == ({"clip"} if mode == "clip" else {"clip", "series"})
    output.loss.backward()
    trained = dict(system.online.named_parameters())
    assert all(p.grad is not None and p.grad.any() for p in trained.values()), "none stands idle"
    names = {name for name, p in system.named_parameters() if p.grad is not None}
    prefix = "encoder." if base == "simclr" else "encoders.online."
    assert names == {prefix + name for name in trained}
    if base == "moco":
        assert set(system.queues) == ({"clip", "series"} if "tc" in mode else {"clip"})
        assert not any(queue.features.requires_grad for queue in system.queues.values())


def test_the_two_views_of_clips_alone_are_simclr(build) -> None:
    system = dual(build, mode="clip")
    batch = batch_for(system)
    found = system.embed(batch, at(0))
    want = contrast(found["source/clip"][:, None], found["positive/clip"][:, None], 0.2)
    assert system.training_step(batch, at(0)).loss.item() == pytest.approx(want, rel=1e-9)


def test_the_gradient_of_the_ranking_reaches_all_three_clips(build) -> None:
    for base, reached in (("simclr", True), ("moco", False)):
        system = dual(build, mode="clip-sr", base=base, w_clip=0.0)
        batch = batch_for(system)
        for view in batch.views.values():
            view.data.requires_grad_()
        system.training_step(batch, at(0)).loss.backward()
        grads = {name: view.data.grad for name, view in batch.views.items()}
        assert grads["source"].any()
        assert grads["shuffled"].any()
        # in SimCLR's form the positive shares the batch statistics with the source
        assert (grads["positive"] is not None and bool(grads["positive"].any())) == reached


# Permutations and calibration.


def test_an_items_permutation_is_its_own(build) -> None:
    system = dual(build, segments=4)
    batch = batch_for(system, items=64)
    whole = system.order(batch, at(3))
    assert torch.equal(system.order(batch[8:16], at(3)), whole[8:16])
    assert torch.equal(whole.sort(dim=1).values, torch.arange(4).expand(64, 4))
    assert not torch.equal(system.order(batch, at(4)), whole)
    assert not torch.equal(system.order(batch, at(3, seed=1)), whole)
    first = whole[:, 0].bincount(minlength=4)
    assert first.min() > 4, "uniform"
    assert not torch.equal(system.order(batch, at(3), "control"), whole)


def test_two_segments_change_places_in_half_of_the_clips(build) -> None:
    system = dual(build)
    moved = system.order(batch_for(system, items=400), at(0))[:, 0].double().mean()
    assert abs(moved - 0.5) < 0.08


def test_without_a_change_the_shuffled_clip_is_the_clip(build, monkeypatch) -> None:
    system = dual(build, base="moco").eval()  # where both pass together, in one batch
    still = torch.arange(2).expand(6, 2)
    monkeypatch.setattr(system, "order", lambda *_: still)
    batch = batch_for(system)
    found = system.embed(batch, at(0))
    assert torch.equal(found["shuffled/series"], found["unshuffled/series"])
    output = system.training_step(batch, at(0))
    assert output.diagnostics["sr/moved_fraction"] == 0


def test_the_shuffle_happens_in_pixels(build, monkeypatch) -> None:
    """The encoder reads the clip's second half first, whatever its feature makes of that."""
    system = dual(build, frames=6).eval()
    monkeypatch.setattr(system, "order", lambda *_: torch.tensor([1, 0]).expand(6, 2))
    batch = batch_for(system)
    found = system.embed(batch, at(0))
    clip = batch.views["shuffled"].data
    swapped = torch.cat([clip[:, 3:], clip[:, :3]], dim=1)
    _, made = system.online(swapped)
    assert torch.allclose(found["shuffled/series"], made["series"], atol=1e-12)
    assert not torch.allclose(found["unshuffled/series"], made["series"], atol=1e-4)


class _Series(nn.Module):
    """Stands for a series head: reads the mean level of each half of the clip, as a direction."""

    def forward(self, clips: Tensor, *_: object) -> tuple[None, dict[str, Tensor]]:
        level = clips.unflatten(1, (2, -1)).mean(dim=(2, 3, 4, 5))
        rows = torch.stack([level.cos(), level.sin()], dim=-1).flatten(1)
        return None, {"clip": rows, "series": rows}


@pytest.mark.parametrize(("calibration", "right"), [("recorded", 1.0), ("random", 0.5)])
def test_a_head_that_sees_its_segment_is_right_when_calibrated(
    build, monkeypatch, calibration: str, right: float
) -> None:
    system = dual(build, calibration=calibration)
    monkeypatch.setattr(system, "encoder", _Series())
    system.encoder.heads = ("clip", "series")
    batch = batch_for(system, items=200)
    halves = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat_interleave(2)
    for view in batch.views.values():
        view.data.copy_(halves[None, :, None, None, None].expand_as(view.data))
    output = system.training_step(batch, at(0))
    assert float(output.diagnostics["sr/accuracy"]) == pytest.approx(right, abs=0.12)
    same = float(output.parts["sr"])
    assert (same < 1e-3) == (calibration == "recorded")


def test_accuracy_is_that_of_clips_whose_order_changed(build) -> None:
    system = dual(build)
    batch = batch_for(system, items=16)
    found = {n: v.detach().clone() for n, v in system.embed(batch, at(0)).items()}
    constant = torch.eye(2, 8, dtype=torch.float64).flatten().expand(16, 16)
    for name in ("source", "unshuffled", "shuffled"):
        found[f"{name}/series"] = constant.clone()
    output = system.loss(found, batch, at(0))
    assert 0 < float(output.diagnostics["sr/moved_fraction"]) < 1
    assert float(output.diagnostics["sr/accuracy"]) == 0, "a constant knows no order"


def test_coherence_does_not_know_the_order_of_segments(build) -> None:
    system = dual(build, segments=4)
    batch = batch_for(system)
    found = {n: v.detach() for n, v in system.embed(batch, at(0)).items()}
    turned = dict(found)
    turned["positive/series"] = segments(system, found["positive/series"]).flip(1).flatten(1)
    turned["source/series"] = segments(system, found["source/series"])[:, [1, 3, 0, 2]].flatten(1)
    one, other = (system.loss(e, batch, at(0)).parts for e in (found, turned))
    assert torch.allclose(one["tc"], other["tc"], rtol=1e-12)
    assert not torch.allclose(one["sr"], other["sr"], rtol=1e-3)


def test_the_clamp_reaches_the_ranking(build) -> None:
    for clamp in (None, 1.0):
        system = dual(build, clamp=clamp, theta=0.01)
        batch = batch_for(system)
        found = system.embed(batch, at(0))
        q, r, p = (segments(system, found[f"{n}/series"]) for n in ("source", "unshuffled",
                                                                    "shuffled"))  # fmt: skip
        order = system.order(batch, at(0))
        p = p.gather(1, order.argsort(1)[..., None].expand_as(p))
        want = sum(segment_ranking(x, p, theta=0.01, clamp=clamp).values for x in (q, r)) / 2
        assert torch.allclose(system.training_step(batch, at(0)).parts["sr"], want.mean())


# Batch statistics.


def changed(system: Dual, view: str) -> set[str]:
    """Embeddings of the first item that depend on the last item's view."""
    batch = batch_for(system)
    before = {n: v.detach()[0] for n, v in system.embed(batch, at(0)).items()}
    batch.views[view].data[-1] += 3.0
    after = {n: v.detach()[0] for n, v in system.embed(batch, at(0)).items()}
    return {n.partition("/")[0] for n in before if not torch.allclose(before[n], after[n])}


def test_which_clips_share_their_statistics(build) -> None:
    simclr, moco = dual(build), dual(build, base="moco")
    together = {"source", "positive", "unshuffled"}
    assert changed(simclr, "source") == changed(simclr, "positive") == together
    assert changed(simclr, "shuffled") == together | {"shuffled"}
    assert changed(moco, "source") == {"source"}
    assert changed(moco, "positive") == set()
    assert changed(moco, "shuffled") == {"unshuffled", "shuffled"}
    heads = [m for head in simclr.online.heads.values() for m in head.modules()]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in heads)


# MoCo.


def test_both_queues_move_together_and_hold_unit_blocks(build) -> None:
    system = dual(build, base="moco", segments=4)
    clip, series = system.queues["clip"], system.queues["series"]

    def lengths() -> Tensor:
        return series.features.unflatten(1, (4, -1)).norm(dim=-1)

    assert torch.allclose(lengths(), torch.ones(24, 4, dtype=torch.float64))
    before = series.features.clone()
    for step in range(3):
        batch = batch_for(system, items=10, seed=step)
        system.training_step(batch, at(step))
        if step == 0:
            assert torch.equal(series.features, before), "the loss is taken against the old queue"
        system.after_step(True)
        assert torch.equal(clip.pointer, series.pointer)
        assert torch.equal(clip.owners, series.owners)
    assert int(clip.pointer) == 30 % 24, "any batch fits any queue"
    assert torch.allclose(lengths(), torch.ones(24, 4, dtype=torch.float64))
    assert torch.allclose(clip.features.norm(dim=1), torch.ones(24, dtype=torch.float64))
    system.training_step(batch, at(9))
    system.after_step(False)
    assert int(clip.pointer) == 30 % 24


def test_equal_features_give_the_logarithm_of_the_queue(build) -> None:
    system = dual(build, base="moco", mode="clip-tc", mask_same_group=False)
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            parameter.zero_()
            if "heads" in name and name.endswith("bias"):
                parameter.fill_(1.0)
    for queue, blocks in ((system.queues["clip"], 1), (system.queues["series"], 2)):
        queue.features.fill_((queue.dim / blocks) ** -0.5)
    parts = system.training_step(batch_for(system), at(0)).parts
    assert [float(v) for v in parts.values()] == pytest.approx([math.log(25)] * 2, rel=1e-9)


def test_groups_are_masked_where_that_is_decided(build) -> None:
    run = {"batch_size": 6, "steps": 10}
    simclr, moco = dual(build), dual(build, base="moco")
    simclr.setup(RunContext(items=6, groups=6, **run))
    assert not simclr.mask_same_group
    batch = batch_for(simclr)
    batch.group.copy_(torch.tensor([0, 0, 1, 1, 2, 3]))
    plain = simclr.training_step(batch, at(0)).parts
    simclr.setup(RunContext(items=6, groups=4, **run))
    masked = simclr.training_step(batch, at(0)).parts
    assert masked["clip"] < plain["clip"]
    assert masked["tc"] < plain["tc"]
    assert torch.equal(masked["sr"], plain["sr"])
    moco.setup(RunContext(items=239, groups=239, **run))
    assert moco.mask_same_group
    moco.setup(RunContext(items=240, groups=240, **run))
    assert not moco.mask_same_group


# Views, presets, exports.


def test_the_plan_is_the_papers() -> None:
    plan = Dual(DualConfig(backbone=TINY_CLIP)).plans()["train"]
    assert {n: v.clip for n, v in plan.views.items()} == {
        "source": "a", "positive": "b", "shuffled": "a"
    }  # fmt: skip
    assert all(view.consistent == "clip" for view in plan.views.values())
    skips = {name: view.transform.skip for name, view in plan.views.items()}
    assert skips == {"source": 0.2, "positive": 0.0, "shuffled": 0.0}
    for clip in plan.clips.values():
        assert (clip.frames, clip.stride, clip.place, clip.reverse) == (16, 4, "edges", 0.5)
    strong = plan.views["positive"].transform
    assert (strong.size, strong.flip, strong.gray) == (112, 0.0, 0.0)


def test_the_published_balance() -> None:
    found = DualConfig.published()
    assert (found.w_clip, found.w_tc, found.w_sr, found.clamp) == (1 / 8, 1, 1, 5.0)
    moco = DualConfig.published("moco", segments=4)
    assert (moco.w_clip, moco.clamp, moco.base, moco.segments) == (1, None, "moco", 4)
    plain = DualConfig()
    assert (plain.w_clip, plain.w_tc, plain.w_sr, plain.clamp) == (1, 1, 1, None)


def test_exports_the_trunk_with_both_heads(build) -> None:
    for base in ("simclr", "moco"):
        system = dual(build, base=base)
        export = system.exports()["encoder"]
        assert set(export.module.heads) == {"clip", "series"}
        assert (export.plan.frames, export.plan.stride) == (4, 4)
        series = export.module.head("series").config
        assert (series.blocks, series.out) == (2, 16)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"segments": 3}, "does not divide"),
        ({"segments": 1}, "single segment"),
        ({"theta": 0.0}, "theta"),
        ({"clamp": 0.0}, "clamp"),
        ({"w_clip": -1.0}, "weights"),
        ({"w_clip": 0.0, "w_tc": 0.0, "w_sr": 0.0}, "weights"),
        ({"mode": "clip", "w_clip": 0.0}, "mode 'clip' uses"),
        ({"mode": "clip-sr", "w_clip": 0.0, "w_sr": 0.0}, "mode 'clip-sr' uses"),
        ({"tc_temperature": 0.0}, "temperature"),
        ({"transform": ShiftCropTransform()}, "source_skip"),
    ],
)
def test_options_that_cannot_be(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DualConfig(**options)


def test_choices_of_a_config_made_in_python_are_checked() -> None:
    """Any other word would train something else in silence."""
    with pytest.raises(ConfigError, match="base"):
        Dual(DualConfig(base="MoCo"))


def test_colours_left_alone_in_all_clips_stay_alone_in_the_source(build) -> None:
    def skips(skip: float) -> list[float]:
        plan = dual(build, transform=ContrastTransform.dual(size=16, skip=skip)).plans()["train"]
        return [plan.views[name].transform.skip for name in ("source", "positive", "shuffled")]

    assert skips(0.0) == [0.2, 0.0, 0.0]
    assert skips(0.5) == [0.6, 0.5, 0.5]
    assert skips(1.0) == [1.0, 1.0, 1.0]


def test_an_encoder_of_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="encoder of clips"):
        Dual(DualConfig(backbone=TINY))


def test_a_single_segment_can_cohere(build) -> None:
    system = dual(build, segments=1, mode="clip-tc")
    assert set(system.training_step(batch_for(system), at(0)).parts) == {"clip", "tc"}


def test_order_is_learnt_and_only_with_the_recorded_permutation(build) -> None:
    """A few clips with a moving level: the head learns to tell the halves apart, by content."""
    reached = {}
    for calibration in ("recorded", "random"):
        system = build(
            "dual", frames=8, mode="clip-sr", calibration=calibration, dtype=torch.float32,
            backbone=dataclasses.replace(TINY_CLIP, widths=(8, 8, 16, 16)),
            transform=ContrastTransform.dual(size=12),
        )  # fmt: skip
        optimizer = torch.optim.Adam(system.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        told = []
        for step in range(60):
            batch = batch_for(system, items=12, seed=step, dtype=torch.float32)
            halves = torch.tensor([-1.0, 1.0]).repeat_interleave(4)
            sign = torch.randint(0, 2, (12, 1), generator=generator) * 2.0 - 1
            level = (sign * halves)[:, :, None, None, None]
            for view in batch.views.values():
                view.data.mul_(0.3).add_(level)
            output = system.training_step(batch, at(step))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            told.append(float(output.diagnostics["sr/accuracy"]))
        reached[calibration] = sum(told[-10:]) / 10
    assert reached["recorded"] > 0.9
    assert reached["random"] < 0.75
