"""The invariants of CSTP: the sum of its parts, what receives gradient, its copy, its labels."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from rhyme.encoders import HeadConfig
from rhyme.errors import ConfigError
from rhyme.systems.cstp import CstpConfig
from rhyme.training.accumulation import check_divides
from rhyme.views import ContrastTransform, Keys, Overlap
from support.tiny_systems import at, batch_for, tiny_backbone

IDENTITY = HeadConfig(layers=0, out=0, normalise=False)
NAMES = ("spatial", "temporal", "pace", "rotation")
NO_LABELS = {f"{name}_weight": 0.0 for name in NAMES}


def made_of(system, batch):
    """What embed gives, as leaves."""
    found = system.embed(batch, at(0))
    return {name: value.detach().requires_grad_() for name, value in found.items()}


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def test_value_and_gradient_against_loops(build) -> None:
    """L = .1 L_BYOL + CE_s + CE_t + CE_pace1 + CE_pace2 + CE_rot1 + CE_rot2, item by item."""
    weights = {"byol": 0.3, "spatial": 1.0, "temporal": 0.5, "pace": 2.0, "rotation": 0.7}
    system = build("cstp", **{f"{name}_weight": w for name, w in weights.items()})
    batch, b = batch_for(system, 7), 7
    made = made_of(system, batch)
    output = system.loss(made, batch, at(0))
    output.loss.backward()
    clips = torch.stack([batch.views[n].data for n in ("first", "second")], dim=1)
    copied = system.encoders.keys(clips, at(0).generator("shuffle"))["projector"].numpy()
    p = made["p"].detach().numpy()
    total, gradient = 0.0, {name: np.zeros(value.shape) for name, value in made.items()}
    for i in range(b):
        for mine, other in ((0, 1), (1, 0)):
            z = copied[i, other] / math.sqrt(math.fsum(copied[i, other] ** 2))
            cosine = math.fsum(p[i, mine] * z)  # p has length 1
            total += weights["byol"] * (2 - 2 * cosine) / b
            gradient["p"][i, mine] -= weights["byol"] * 2 * z / b
        for name in NAMES:
            logits, label = made[name].detach().numpy()[i], batch.targets[name][i].numpy()
            if name in ("spatial", "temporal"):
                rows = [(logits, int(label), gradient[name][i])]
            else:  # each clip is asked; they share the pace
                both = np.broadcast_to(label, (2,))
                rows = [(logits[k], int(both[k]), gradient[name][i, k]) for k in (0, 1)]
            for row, right, slot in rows:
                share = softmax(row)
                total -= weights[name] * math.log(share[right]) / b
                slot += weights[name] * (share - np.eye(len(row))[right]) / b
    assert math.isclose(float(output.loss.detach()), total, rel_tol=1e-12)
    for name, value in gradient.items():
        np.testing.assert_allclose(made[name].grad, value, atol=1e-14, err_msg=name)
    parts = {name: float(value) for name, value in output.parts.items()}
    assert math.isclose(sum(weights[n] * v for n, v in parts.items()), total, rel_tol=1e-12)


def test_the_weights_are_the_published_ones() -> None:
    c = CstpConfig()
    assert (c.byol_weight, *c.weights.values()) == (0.1, 1.0, 1.0, 1.0, 1.0)
    assert c.classes == {"spatial": 5, "temporal": 5, "pace": 4, "rotation": 4}
    assert (c.momentum, c.frames, c.transform.size) == (0.996, 16, 112)
    assert (c.projector.hidden, c.projector.out, c.predictor.hidden) == (4096, 512, 4096)


def test_equal_logits_know_nothing(build) -> None:
    system = build("cstp")
    batch = batch_for(system)
    made = {name: torch.zeros_like(v) for name, v in system.embed(batch, at(0)).items()}
    parts = system.loss(made, batch, at(0)).parts
    assert math.isclose(float(parts["spatial"]), math.log(5), rel_tol=1e-12)
    assert math.isclose(float(parts["temporal"]), math.log(5), rel_tol=1e-12)
    assert math.isclose(float(parts["pace"]), 2 * math.log(4), rel_tol=1e-12)
    assert math.isclose(float(parts["rotation"]), 2 * math.log(4), rel_tol=1e-12)


def test_equal_clips_under_an_identity_predictor_have_no_distance(build) -> None:
    """The copy starts equal to the encoder, so nothing is left between one clip and itself."""
    system = build("cstp", predictor=IDENTITY, **NO_LABELS).eval()
    batch = batch_for(system)
    batch.views["second"].data.copy_(batch.views["first"].data)
    output = system.training_step(batch, at(0))
    assert abs(float(output.loss.detach())) < 1e-12
    assert math.isclose(float(output.diagnostics["positive_cosine"]), 1.0, abs_tol=1e-12)


def test_the_contrast_lies_between_0_and_8(build) -> None:
    system = build("cstp")
    batch = batch_for(system)
    clips = torch.stack([batch.views[n].data for n in ("first", "second")], dim=1)
    z = system.encoders.keys(clips, at(0).generator("shuffle"))["projector"]
    z = torch.nn.functional.normalize(z, dim=-1)
    made = {name: value.detach() for name, value in system.embed(batch, at(0)).items()}
    for sign, value in ((1.0, 0.0), (-1.0, 8.0)):
        parts = system.loss(made | {"p": sign * z.flip(1)}, batch, at(0)).parts
        assert math.isclose(float(parts["byol"]), value, abs_tol=1e-12)


def test_the_copy_receives_no_gradient_and_follows_slowly(build) -> None:
    system = build("cstp", momentum=0.996)
    copy = dict(system.encoders.momentum.module.named_parameters())
    online = dict(system.encoders.online.named_parameters())
    assert copy.keys() == online.keys()
    assert all(torch.equal(copy[name], online[name]) for name in copy), "equal at first"
    batch = batch_for(system)
    system.training_step(batch, at(0)).loss.backward()
    names = {n for n, p in system.named_parameters() if p.grad is not None}
    assert all(not name.startswith("encoders.momentum.") for name in names)
    trained = {n for n, p in system.named_parameters() if p.requires_grad}
    assert names == trained, "everything else has some"
    assert {name.split(".")[0] for name in names} == {"encoders", "predictor", "labels"}
    before = {name: p.detach().clone() for name, p in copy.items()}
    with torch.no_grad():
        for p in online.values():
            p.add_(1.0)
    system.after_step(False)
    assert all(torch.equal(copy[name], before[name]) for name in copy), "a skipped step"
    system.after_step(True)
    for name, p in copy.items():
        want = 0.996 * before[name] + 0.004 * online[name].detach()
        assert torch.allclose(p, want, atol=1e-12)


def test_each_label_reaches_its_own_head_and_the_trunk(build) -> None:
    for name in NAMES:
        system = build("cstp", byol_weight=0.0, **NO_LABELS | {f"{name}_weight": 1.0})
        assert list(system.labels) == [name]
        assert not hasattr(system, "encoders"), "no contrast, no copy"
        batch = batch_for(system)
        output = system.training_step(batch, at(0))
        assert set(output.parts) == {name}
        output.loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in system.labels.parameters())
        assert bool(next(system.trunk.parameters()).grad.any())
        assert set(output.diagnostics) == {f"{name}_balanced_accuracy"}
        assert set(system.exports()) == {"encoder", "labels"}


def test_without_labels_it_is_byol(build) -> None:
    system = build("cstp", **NO_LABELS)
    output = system.training_step(batch_for(system), at(0))
    assert set(output.parts) == {"byol"}
    assert set(output.embeddings) == {"z"}
    assert set(system.exports()) == {"encoder"}


def test_pairs_are_told_from_both_clips_and_singles_from_one(build) -> None:
    system = build("cstp").eval()
    batch = batch_for(system)
    before = {n: v.detach() for n, v in system.embed(batch, at(0)).items()}
    batch.views["second"].data.mul_(-2.0)
    after = {n: v.detach() for n, v in system.embed(batch, at(0)).items()}
    for name in ("spatial", "temporal"):
        assert not torch.allclose(before[name], after[name])
    for name in ("pace", "rotation", "p"):
        assert torch.equal(before[name][:, 0], after[name][:, 0])
        assert not torch.allclose(before[name][:, 1], after[name][:, 1])


def test_balanced_accuracy_is_logged_for_every_label(build) -> None:
    system = build("cstp")
    batch = batch_for(system, 12)
    made = {name: value.detach() for name, value in system.embed(batch, at(0)).items()}
    truths = system.truths(batch.targets)
    for name in NAMES:
        classes = made[name].shape[-1]
        made[name] = torch.nn.functional.one_hot(truths[name], classes).double()
    told = system.loss(made, batch, at(0)).diagnostics
    assert all(float(told[f"{name}_balanced_accuracy"]) == 1.0 for name in NAMES)
    made["rotation"] = torch.zeros_like(made["rotation"])
    made["rotation"][..., 0] = 1.0
    told = system.loss(made, batch, at(0)).diagnostics
    occur = len(batch.targets["rotation"].unique())
    assert math.isclose(float(told["rotation_balanced_accuracy"]), 1 / occur, rel_tol=1e-6)


def test_the_plan_draws_the_targets_that_the_loss_reads(build) -> None:
    from support.tiny_systems import made_up_facts

    for sampler, mirror in (("label_first", "first"), ("released", "last")):
        system = build("cstp", overlap=Overlap(sampler=sampler))
        plan = system.plans()["train"]
        facts = made_up_facts(20)
        drawn = plan.draw(facts, Keys.of(0, 0, facts.id))
        assert set(drawn.targets) == set(NAMES)
        assert set(plan.views) == {"first", "second"}
        assert all(spec.transform.mirror == mirror for spec in plan.views.values())
        truths = system.truths({n: torch.from_numpy(v) for n, v in drawn.targets.items()})
        assert truths["pace"].shape == truths["rotation"].shape == (20, 2)


def test_shuffled_labels_are_those_of_the_plan(build) -> None:
    from support.tiny_systems import made_up_facts

    facts = made_up_facts(50)
    keys = Keys.of(0, 0, facts.id)
    own = build("cstp").plans()["train"].draw(facts, keys)
    other = build("cstp", overlap=Overlap(labels="shuffled")).plans()["train"].draw(facts, keys)
    assert (own.clips["second"].index == other.clips["second"].index).all()
    assert (own.targets["spatial"] != other.targets["spatial"]).any()


def test_a_batch_norm_over_the_whole_batch_cannot_be_accumulated(build) -> None:
    system = build("cstp")
    assert system.divides
    with pytest.raises(ConfigError, match="batch-norm groups"):
        check_divides(system, 2, 8, 1)
    divided = build("cstp", backbone=tiny_backbone("cstp", 4))
    check_divides(divided, 2, 8, 1)


def test_the_exported_encoder_reads_clips(build) -> None:
    system = build("cstp", frames=6, stride=3)
    found = system.exports()["encoder"]
    assert found.plan is not None
    assert (found.plan.frames, found.plan.stride) == (6, 3)
    assert found.plan.mean == found.plan.std == (0.5, 0.5, 0.5)
    assert set(found.module.heads) == {"projector"}
    bare = build("cstp", byol_weight=0.0).exports()["encoder"].module
    assert set(bare.heads) == set()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frames": 1}, "pace"),
        ({"stride": 0}, "stride"),
        ({"momentum": 1.5}, "momentum"),
        ({"byol_weight": -0.1}, "weights"),
        ({"byol_weight": 0.0, **NO_LABELS}, "not all be 0"),
        ({"overlap": Overlap(turn=False)}, "not turned"),
        ({"transform": ContrastTransform.cstp(scale=(0.9, 1.0))}, "transform.scale plays no part"),
        ({"transform": ContrastTransform.cstp(ratio=(1.0, 1.0))}, "transform.ratio plays no part"),
    ],
)
def test_values_that_cannot_be_are_refused(options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        CstpConfig(**options)


def test_a_predictor_of_another_length_is_refused(build) -> None:
    with pytest.raises(ConfigError, match="predictor"):
        build("cstp", predictor=HeadConfig(layers=2, out=5))


def test_configurations_differ_in_what_they_name() -> None:
    plain = CstpConfig()
    released = dataclasses.replace(plain, overlap=Overlap(sampler="released", second="first"))
    assert released.overlap.labels == plain.overlap.labels == "drawn"
