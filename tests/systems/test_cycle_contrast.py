"""The invariants of CycleContrast: routing of gradients, memory, masks, the two halves."""

import math

import pytest
import torch

from rhyme.errors import ConfigError
from rhyme.systems.cycle_contrast import CycleContrastConfig
from support.tiny_systems import at, make_batch, setup


def gradients(system, loss) -> dict[str, torch.Tensor]:
    named = {n: p for n, p in system.named_parameters() if p.requires_grad}
    values = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(named.items(), values, strict=True)
    }


def test_each_loss_reaches_its_own_head_only(build) -> None:
    batch = make_batch()
    intra = gradients(
        s := build("cycle_contrast", cycle_weight=0.0), s.training_step(batch, at(0)).loss
    )
    both = build("cycle_contrast", intra_weight=0.0, cycle_weight=1.0)
    cycle = gradients(both, both.training_step(batch, at(0)).loss)
    head_m = [n for n in intra if ".heads.m." in n]
    head_c = [n for n in intra if ".heads.c." in n]
    assert head_m
    assert head_c
    assert all(torch.count_nonzero(intra[n]) == 0 for n in head_c)
    assert all(torch.count_nonzero(cycle[n]) == 0 for n in head_m)
    assert any(torch.count_nonzero(cycle[n]) for n in head_c)
    assert any(torch.count_nonzero(intra[n]) for n in head_m)


def test_the_gradient_of_the_sum_is_the_weighted_sum(build) -> None:
    batch = make_batch()
    parts = []
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        system = build("cycle_contrast", intra_weight=weights[0], cycle_weight=weights[1])
        parts.append(gradients(system, system.training_step(batch, at(0)).loss))
    intra, cycle, both = parts
    for name, value in both.items():
        assert torch.allclose(value, 0.7 * intra[name] + 0.3 * cycle[name], atol=1e-12), name


def test_keys_queues_and_the_momentum_copy_take_no_gradient(build) -> None:
    system = build("cycle_contrast")
    output = system.training_step(make_batch(), at(0))
    output.loss.backward()
    momentum = list(system.encoders.momentum.parameters())
    assert momentum
    assert all(p.grad is None and not p.requires_grad for p in momentum)
    assert not system.queue.features.requires_grad
    assert not system.cycle_queue.features.requires_grad
    names = {n for g in system.parameter_groups() for n, _ in g.parameters}
    assert not any("momentum" in name for name in names)


def test_only_keys_of_the_key_view_enter_the_queues_and_only_after_the_step(build) -> None:
    system = build("cycle_contrast")
    batch = make_batch(seed=1)
    before = system.queue.features.clone(), system.cycle_queue.features.clone()
    system.training_step(batch, at(0))
    assert torch.equal(system.queue.features, before[0])
    frames = torch.cat([batch.views["key"].data, batch.views["candidate"].data], dim=1)
    keys = system.encoders.keys(frames, at(0).generator("shuffle"))
    system.after_step(True)
    assert torch.allclose(system.queue.features[:6], keys["m"][:, 0])
    assert torch.allclose(system.cycle_queue.features[:6], keys["c"][:, 0])
    assert torch.equal(system.queue.features[6:], before[0][6:])
    assert torch.equal(system.queue.owners[:6], batch.group)


def test_a_step_that_was_not_applied_leaves_the_memory_alone(build) -> None:
    system = build("cycle_contrast")
    state = {n: v.clone() for n, v in system.state_dict().items() if "queue" in n}
    system.training_step(make_batch(), at(0))
    system.after_step(False)
    assert all(torch.equal(v, state[n]) for n, v in system.state_dict().items() if n in state)


def test_the_queue_wraps_round_at_any_size(build) -> None:
    system = build("cycle_contrast", queue=15, cycle_queue=13, support=5)
    last = None
    for step in range(5):
        batch = make_batch(seed=step)
        system.training_step(batch, at(step))
        last = system._fresh[0]["m"].clone()
        system.after_step(True)
    assert int(system.queue.pointer) == 30 % 15
    assert torch.equal(system.queue.features[9:15], last)
    assert set(system.queue.owners.tolist()) <= {100 * s + i for s in range(5) for i in range(6)}


def test_equal_features_give_the_logarithm_of_the_number_of_negatives(build) -> None:
    system = build("cycle_contrast", mask_same_group=False)
    for queue in (system.queue, system.cycle_queue):
        queue.features.copy_(torch.nn.functional.one_hot(torch.zeros(queue.size).long(), 8))
    same = torch.zeros(6, 8, dtype=torch.float64)
    same[:, 0] = 1
    group = torch.arange(6)
    assert system._intra(same, same, group).values.allclose(same.new_tensor(math.log(1 + 24)))
    cycle = system._cycle(same, same, same, group, at(0).generator("support"))
    assert cycle.values.allclose(same.new_tensor(math.log(1 + 30 - 10)))


def test_support_and_negatives_are_two_parts_of_the_queue(build, monkeypatch) -> None:
    import rhyme.systems.cycle_contrast as module

    system = build("cycle_contrast")
    seen = {}
    real = module.cycle

    def spy(query, positive, support, negatives, **options):
        seen.update(support=support, negatives=negatives, **options)
        return real(query, positive, support, negatives, **options)

    monkeypatch.setattr(module, "cycle", spy)
    system.training_step(make_batch(), at(0))
    rows = {tuple(r) for r in system.cycle_queue.features.tolist()}
    out = {tuple(r) for r in seen["support"].tolist()}
    back = {tuple(r) for r in seen["negatives"].tolist()}
    assert len(out) == 10
    assert not out & back
    assert out | back == rows
    first = seen["support"].clone()
    system.training_step(make_batch(), at(1))
    assert not torch.equal(first, seen["support"])
    system.training_step(make_batch(), at(0))
    assert torch.equal(first, seen["support"])

    whole = build("cycle_contrast", support=None)
    whole.training_step(make_batch(), at(0))
    assert len(seen["support"]) == len(seen["negatives"]) == 30


def test_the_mask_is_automatic_below_ten_queues(build) -> None:
    assert setup(build("cycle_contrast"), 299).mask_same_group
    assert not setup(build("cycle_contrast"), 300).mask_same_group
    assert setup(build("cycle_contrast", mask_same_group=True), 10**6).mask_same_group
    assert not setup(build("cycle_contrast", mask_same_group=False), 6).mask_same_group
    without = build("cycle_contrast", cycle_weight=0.0)  # queue M of 24 decides, as in MoCo
    assert setup(without, 239).mask_same_group
    assert not setup(without, 240).mask_same_group


def test_a_queue_of_one_group_falls_back_and_is_counted(build) -> None:
    system = build("cycle_contrast", mask_same_group=True)
    batch = make_batch()
    for queue in (system.queue, system.cycle_queue):
        queue.owners.fill_(int(batch.group[0]))
    output = system.training_step(batch, at(0))
    assert torch.isfinite(output.loss)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)
    assert output.diagnostics["intra/masked_rows"] == 1
    assert output.diagnostics["cycle/masked_rows"] == 1


def test_the_mask_keeps_the_own_video_out_of_support_and_negatives(build) -> None:
    """Features of the own group may hold anything: the loss does not see them."""
    batch = make_batch()
    losses = []
    for noise in (0.0, 1.0):
        system = build("cycle_contrast", mask_same_group=True)
        system.queue.owners[:4] = batch.group[2]
        system.cycle_queue.owners[:4] = batch.group[2]
        for queue in (system.queue, system.cycle_queue):
            queue.features[:4] = torch.nn.functional.normalize(queue.features[:4] + noise, dim=1)
        query = system.encoders.queries(batch.views["query"].frames)
        args = (query["c"], query["c"].detach().roll(1, 0), query["c"].detach(), batch.group)
        losses.append(system._cycle(*args, at(0).generator("support")).values)
    assert torch.equal(losses[0][2], losses[1][2])
    assert not torch.allclose(losses[0][:2], losses[1][:2])


def test_shared_heads_read_queue_m(build) -> None:
    system = build("cycle_contrast", separate_heads=False)
    assert system.cycle_queue is None
    assert list(system.encoders.online.heads) == ["m"]
    output = system.training_step(make_batch(), at(0))
    assert set(output.parts) == {"intra", "cycle"}
    output.loss.backward()
    system.after_step(True)


def test_one_hot_and_uniform_attention_stop_the_gradient(build) -> None:
    sizes = []
    for temperature in (1e-6, 0.2, 1e4):
        system = build(
            "cycle_contrast", intra_weight=0.0, cycle_weight=1.0, neighbour_temperature=temperature
        )
        found = gradients(system, system.training_step(make_batch(), at(0)).loss)
        sizes.append(sum(float(g.norm()) for n, g in found.items() if "backbone" in n))
    assert sizes[0] < 1e-3 * sizes[1]
    assert sizes[2] < 1e-3 * sizes[1]


def test_including_the_query_itself_gives_its_value_a_gradient(build) -> None:
    options = {"intra_weight": 0.0, "cycle_weight": 1.0, "neighbour_temperature": 1e4}
    without = build("cycle_contrast", **options)
    with_self = build("cycle_contrast", include_self=True, **options)
    size = [
        sum(
            float(g.norm())
            for g in gradients(s, s.training_step(make_batch(), at(0)).loss).values()
        )
        for s in (without, with_self)
    ]
    assert size[1] > 100 * size[0]


def test_shuffled_values_keep_the_scale_and_change_the_loss(build) -> None:
    plain = build("cycle_contrast").training_step(make_batch(), at(0))
    shuffled = build("cycle_contrast", neighbour_values="shuffled").training_step(
        make_batch(), at(0)
    )
    assert plain.parts["intra"] == shuffled.parts["intra"]
    assert plain.parts["cycle"] != shuffled.parts["cycle"]
    key = "cycle/support_entropy"
    assert torch.isclose(plain.diagnostics[key], shuffled.diagnostics[key], rtol=1e-12)


def test_every_candidate_can_be_the_positive_of_each_loss(build) -> None:
    system = build("cycle_contrast", candidates=3)
    ids = torch.arange(200)
    picks = {
        name: at(0).per_sample(name, ids).integers("candidate", 3) for name in ("intra", "cycle")
    }
    assert set(picks["intra"]) == set(picks["cycle"]) == {0, 1, 2}
    assert (picks["intra"] != picks["cycle"]).any()
    output = system.training_step(make_batch(candidates=3), at(0))
    assert torch.isfinite(output.loss)


def test_the_plan_draws_two_views_of_a_frame_and_one_of_another(build) -> None:
    plan = build("cycle_contrast", exclude_query_frame=True).plans()["train"]
    assert {name: spec.clip for name, spec in plan.views.items()} == {
        "query": "a",
        "key": "a",
        "candidate": "b",
    }
    assert plan.clips["b"].exclude == "a"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"neighbour_temperature": -1.0},
        {"momentum": 1.0},
        {"queue": 0},
        {"support": 81920},
        {"support": 0},
        {"candidates": 0},
        {"intra_weight": -1.0},
        {"intra_weight": 0.0, "cycle_weight": 0.0},
        {"cycle_weight": math.nan},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    from rhyme.systems.cycle_contrast import CycleContrast

    with pytest.raises(ConfigError) as caught:
        CycleContrast(CycleContrastConfig(**options))
    if "support" in options:
        assert "null" in str(caught.value.remedy)  # what the command line takes
