"""The invariants of LSFD: views, aggregation, values and gradients, the split of the feature."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rhyme.encoders import Aggregator, HeadConfig, build_backbone, load_package, save_package
from rhyme.errors import ConfigError
from rhyme.objectives import ObjectiveOutput, with_own_negative
from rhyme.systems.lsfd import PARTS, LSFDConfig
from rhyme.tasks import encode
from rhyme.views import Keys
from support.tiny_systems import TINY, TINY_CLIP, at, batch_for, setup

TAU = 0.2  # the small systems'


@dataclasses.dataclass
class Items:
    """Facts of made-up videos of ten frames a second."""

    frames: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.frames)
        self.id = np.arange(n, dtype=np.uint64)
        self.start, self.stop = np.zeros(n), self.frames / 10
        self.fps = np.full(n, 10.0)
        self.width = self.height = np.full(n, 64)
        self.group = np.arange(n)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_info_nce(anchors, positives, negatives, own=None) -> list[float]:
    """InfoNCE of unit rows by its definition; ``negatives[i]`` are the rows of anchor i."""
    values = []
    for i, anchor in enumerate(anchors):
        positive = math.exp(anchor @ positives[i] / TAU)
        total = positive + sum(math.exp(anchor @ n / TAU) for n in negatives[i])
        if own is not None:
            total += math.exp(anchor @ own[i] / TAU)
        values.append(-math.log(positive / total))
    return values


def slow_both_ways(one, other, own=None) -> float:
    """Within a batch: each row among those of the other kind, both ways."""
    b = len(one)
    forth = slow_info_nce(one, other, [[other[j] for j in range(b) if j != i] for i in range(b)])
    back = slow_info_nce(other, one, [[one[j] for j in range(b) if j != i] for i in range(b)], own)
    return float(np.mean(forth + back))


def slow_terms(made: dict[str, np.ndarray], parts: int) -> dict[str, float]:
    """All three losses of SimCLR's form, from the embeddings of the views."""
    short, long = [made[f"short{i}/psi"] for i in range(parts)], made["long/psi"]
    wrong = unit(made["short/wrong"]) if "short/wrong" in made else None
    xi = [
        np.concatenate([unit(made[f"{v}/psi"]), unit(made[f"{v}/phi"])], 1) / math.sqrt(2)
        for v in ("long", "again")
    ]
    return {
        "s": float(np.mean([slow_both_ways(x, long) for x in short])),
        "n": slow_both_ways(unit(made["short/g"]), unit(made["long/phi"]), wrong),
        "i": slow_both_ways(*xi),
    }


def numbers(made: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: rows.detach().numpy() for name, rows in made.items()}


def test_the_long_view_spans_its_parts(build) -> None:
    plan = build("lsfd", frames=8, stride=4, parts=3).plans()["train"]
    assert list(plan.views) == ["long", "again", "short0", "short1", "short2"]
    assert all(view.consistent == "clip" for view in plan.views.values())
    facts = Items(np.array([400, 900]))
    drawn = plan.draw(facts, Keys.of(0, 0, facts.id))
    long = drawn.views["long"].frames.index
    assert (np.diff(long) == 12).all()
    assert np.array_equal(drawn.views["again"].frames.index, long)
    whole = np.concatenate([drawn.views[f"short{i}"].frames.index for i in range(3)], axis=1)
    assert (np.diff(whole) == 4).all(), "consecutive, without a gap or an overlap"
    assert np.array_equal(whole[:, ::3], long)
    seconds = build("lsfd", frames=8, stride=None, spacing=0.2, parts=2).plans()["train"]
    drawn = seconds.draw(facts, Keys.of(0, 0, facts.id))
    assert (np.diff(drawn.views["long"].frames.index) == 4).all()
    assert (np.diff(drawn.views["short1"].frames.index) == 2).all()


def test_switches_leave_views_and_heads_out(build) -> None:
    only = build("lsfd", w_n=0.0, w_i=0.0)
    assert set(only.plans()["train"].views) == {"long", "short0", "short1"}
    assert set(only.online.heads) == {"psi"}
    assert only.aggregator is None
    instance = build("lsfd", w_s=0.0, w_n=0.0)
    assert set(instance.plans()["train"].views) == {"long", "again"}
    output = only.training_step(batch_for(only), at(0))
    assert set(output.parts) == {"s"}


@pytest.mark.parametrize("kind", ["linear", "mlp", "gru", "mean"])
def test_aggregation_knows_the_order_or_does_not(kind) -> None:
    torch.manual_seed(0)
    g = Aggregator(kind, 3, 5).double()
    short = torch.randn(4, 3, 5, dtype=torch.float64)
    turned = g(short[:, [2, 0, 1]])
    assert g(short).shape == (4, 5)
    assert torch.allclose(g(short), turned) == (kind == "mean")


def test_equal_views_pass_the_sum_of_the_blocks() -> None:
    g = Aggregator("linear", 3, 5).double()
    phi = torch.randn(4, 5, dtype=torch.float64)
    blocks = g.join.weight.unflatten(1, (3, 5)).sum(dim=1)
    joined = g(phi[:, None].expand(-1, 3, -1))
    assert torch.allclose(joined, phi @ blocks.T)


def shuffled_views(batch, parts: int):
    """The batch with its short views in another order."""
    views = dict(batch.views)
    for i in range(parts):
        views[f"short{i}"] = batch.views[f"short{(i + 1) % parts}"]
    return dataclasses.replace(batch, views=views)


@pytest.mark.parametrize("kind", ["linear", "mlp", "gru", "mean"])
def test_the_stationary_loss_has_no_order_and_the_other_has(build, kind) -> None:
    system = build("lsfd", frames=4, parts=3, aggregator=kind).eval()
    batch = batch_for(system)
    one = system.training_step(batch, at(0)).parts
    other = system.training_step(shuffled_views(batch, 3), at(0)).parts
    assert one["s"].item() == pytest.approx(other["s"].item(), abs=1e-12)
    assert one["i"].item() == pytest.approx(other["i"].item(), abs=1e-12)
    same = abs(one["n"].item() - other["n"].item()) < 1e-12
    assert same == (kind == "mean")


@pytest.mark.parametrize("order", [False, True])
def test_values_and_gradients_against_a_loop(build, order) -> None:
    parts = 3
    system = build("lsfd", frames=4, parts=parts, order_negatives=order, w_s=0.7, w_i=1.3)
    batch = batch_for(system, items=4)
    made = {n: x.detach().requires_grad_() for n, x in system.embed(batch, at(0)).items()}
    output = system.loss(made, batch, at(0))
    want = slow_terms(numbers(made), parts)
    for name, value in want.items():
        assert output.parts[name].item() == pytest.approx(value, abs=1e-12)
    weights = {"s": 0.7, "n": 1.0, "i": 1.3}
    assert output.loss.item() == pytest.approx(sum(weights[n] * v for n, v in want.items()))
    output.loss.backward()
    rng, step = np.random.default_rng(0), 1e-6
    for name, rows in made.items():
        if rows.grad is None:
            assert name in {f"short{i}/phi" for i in range(parts)}, "those go through g"
            continue
        for _ in range(3):
            at_row = tuple(int(rng.integers(n)) for n in rows.shape)
            total = 0.0
            for sign in (1, -1):
                moved = numbers(made)
                moved[name] = moved[name].copy()
                moved[name][at_row] += sign * step
                total += sign * sum(weights[n] * v for n, v in slow_terms(moved, parts).items())
            assert rows.grad[at_row].item() == pytest.approx(total / (2 * step), abs=1e-7)


def test_values_with_a_queue_against_a_loop(build) -> None:
    system = build("lsfd", frames=4, base="moco", order_negatives=True)
    batch = batch_for(system, items=4)
    made = system.embed(batch, at(0))
    assert not any(name.startswith("again") for name in made)
    output = system.loss(made, batch, at(0))
    keys = {k: v.numpy() for k, v in system._keys(batch, at(0)).items()}
    queue = system.queue.features.numpy()
    psi, phi = queue[:, :8], queue[:, 8:]
    assert np.allclose(np.linalg.norm(psi, axis=1), 1)
    assert np.allclose(np.linalg.norm(phi, axis=1), 1)
    rows = numbers(made)
    s = np.mean([slow_info_nce(rows[f"short{i}/psi"], keys["psi"], [psi] * 4) for i in range(2)])
    joined, long, wrong = unit(rows["short/g"]), keys["phi"], unit(rows["short/wrong"])
    n = []
    for i in range(4):
        positive = math.exp(joined[i] @ long[i] / TAU)
        others = sum(math.exp(joined[i] @ q / TAU) for q in phi) + math.exp(
            long[i] @ wrong[i] / TAU
        )
        n.append(-math.log(positive / (positive + others)))
    xi = [
        np.concatenate([unit(a), unit(b)], 1) / math.sqrt(2)
        for a, b in ((rows["long/psi"], rows["long/phi"]), (keys["psi"], keys["phi"]))
    ]
    inst = slow_info_nce(*xi, [queue / math.sqrt(2)] * 4)
    for name, value in (("s", s), ("n", np.mean(n)), ("i", np.mean(inst))):
        assert output.parts[name].item() == pytest.approx(float(value), abs=1e-12)


def half_gradients(system, batch, term: str) -> dict[str, float]:
    """How much of a term's gradient reaches each half of the trunk's feature."""
    kept: list[torch.Tensor] = []

    def keep(_, __, features):
        features.pooled.retain_grad()
        kept.append(features.pooled)

    handle = system.online.backbone.register_forward_hook(keep)
    made = system.embed(batch, at(0))
    handle.remove()
    parts = system.loss(made, batch, at(0))
    system.zero_grad()
    parts.loss.backward()
    gradient = kept[0].grad
    assert gradient is not None, term
    halves = gradient.chunk(2, dim=1)
    return {name: float(h.abs().max()) for name, h in zip(PARTS, halves, strict=True)}


@pytest.mark.parametrize("base", ["simclr", "moco"])
def test_the_split_is_real(build, base) -> None:
    none = {"w_s": 0.0, "w_n": 0.0, "w_i": 0.0}
    made = {
        term: build("lsfd", frames=4, base=base, **(none | {term: 1.0})) for term in ("w_s", "w_n")
    }
    found = {term: half_gradients(s, batch_for(s), term) for term, s in made.items()}
    assert found["w_s"]["non_stationary"] == 0
    assert found["w_s"]["stationary"] > 0
    assert found["w_n"]["stationary"] == 0
    assert found["w_n"]["non_stationary"] > 0
    whole = build("lsfd", frames=4, base=base, divided=False, w_n=0.0, w_i=0.0)
    assert half_gradients(whole, batch_for(whole), "undivided")["non_stationary"] > 0


def test_features_name_both_halves(build) -> None:
    system = build("lsfd").eval()
    clips = torch.randn(3, 8, 3, 12, 12, dtype=torch.float64)
    features, made = system.online(clips)
    assert list(features.parts) == list(PARTS)
    assert torch.equal(torch.cat(list(features.parts.values()), dim=1), features.pooled)
    psi = system.online.head("psi")
    assert torch.allclose(made["psi"], psi(torch.cat([features.parts["stationary"]] * 2, 1)))
    assert build("lsfd", divided=False).eval().online(clips)[0].parts == {}


def test_one_part_is_the_long_view_itself(build) -> None:
    system = build("lsfd", frames=4, parts=1).eval()
    batch = batch_for(system)
    views = {**batch.views, "short0": batch.views["long"]}
    batch = dataclasses.replace(batch, views=views)
    made = system.embed(batch, at(0))
    assert torch.allclose(made["short/g"], system.aggregator(made["long/phi"][:, None]))
    index = system.plans()["train"]
    facts = Items(np.array([200]))
    drawn = index.draw(facts, Keys.of(0, 0, facts.id))
    assert np.array_equal(drawn.views["short0"].frames.index, drawn.views["long"].frames.index)


def test_keys_have_no_gradient_and_the_aggregator_learns(build) -> None:
    system = build("lsfd", frames=4, base="moco")
    before = system.queue.features.clone()
    output = system.training_step(batch_for(system), at(0))
    output.loss.backward()
    assert system.aggregator.join.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in system.encoders.momentum.parameters())
    assert torch.equal(before, system.queue.features), "the loss sees the old queue"
    system.after_step(False)
    assert torch.equal(before, system.queue.features), "nothing of a step that did not count"
    system.training_step(batch_for(system), at(1))
    system.after_step(True)
    assert int(system.queue.pointer) == 6
    halves = system.queue.features.unflatten(1, (2, -1)).norm(dim=2)
    assert torch.allclose(halves, torch.ones_like(halves))


def test_wrong_orders_belong_to_items_and_move_every_view(build) -> None:
    system = build("lsfd", frames=4, parts=4, order_negatives=True)
    batch = batch_for(system, items=40)
    order = system.wrong_order(batch, at(3))
    assert (order != torch.arange(4)).all()
    assert (order.sort(dim=1).values == torch.arange(4)).all()
    assert len(order.unique(dim=0)) == 3
    half = dataclasses.replace(batch, ids=batch.ids[20:])
    assert torch.equal(system.wrong_order(half, at(3)), order[20:])


def test_an_own_negative_joins_the_denominator() -> None:
    torch.manual_seed(0)
    a, p, w = (torch.nn.functional.normalize(torch.randn(5, 4).double(), dim=1) for _ in range(3))
    negatives = [[n.numpy() for n in torch.nn.functional.normalize(torch.randn(3, 4), dim=1)]] * 5
    before = torch.tensor(slow_info_nce(a.numpy(), p.numpy(), negatives))
    valid = torch.tensor([True, True, True, True, False])
    out = ObjectiveOutput(torch.where(valid, before, 0), valid)
    found = with_own_negative(out, a, p, w, temperature=TAU)
    want = slow_info_nce(a.numpy(), p.numpy(), negatives, w.numpy())
    want[4] = slow_info_nce(a.numpy(), p.numpy(), [[]] * 5, w.numpy())[4]
    assert found.values.numpy() == pytest.approx(np.array(want))
    assert found.valid.all()


@pytest.mark.parametrize(("base", "masked"), [("simclr", 4), ("moco", 0)])
def test_rows_without_any_negative_are_counted_beside_wrong_orders(build, base, masked) -> None:
    """Of one group only: the long views have their own wrong order, the short ones nothing."""
    system = build("lsfd", frames=4, base=base, order_negatives=True, mask_same_group=True, w_i=0.0)
    batch = dataclasses.replace(batch_for(system, items=4), group=torch.zeros(4, dtype=torch.int64))
    if base == "moco":
        system.queue.owners.zero_()
    made = system.embed(batch, at(0))
    output = system.loss(made, batch, at(0))
    long = system._keys(batch, at(0))["phi"] if base == "moco" else made["long/phi"]
    rows = (x.detach().numpy() for x in (long, made["short/g"], made["short/wrong"]))
    long, joined, wrong = (unit(x) for x in rows)
    want = np.mean(slow_info_nce(long, joined, [[]] * 4, wrong))
    assert output.parts["n"].item() == pytest.approx(float(want), abs=1e-12)
    assert output.diagnostics["n/masked_rows"] == masked


def test_uniform_embeddings_cost_the_log_of_the_batch(build) -> None:
    system = build("lsfd", frames=4).eval()
    batch = batch_for(system, items=6)
    made = {n: torch.ones_like(x) for n, x in system.embed(batch, at(0)).items()}
    for value in system.loss(made, batch, at(0)).parts.values():
        assert value.item() == pytest.approx(math.log(6))


def test_the_mask_of_groups_follows_the_data(build) -> None:
    system = setup(build("lsfd", frames=4), 10)
    assert not system.mask_same_group
    masked = build("lsfd", frames=4, mask_same_group=True)
    batch = batch_for(masked, items=6)
    batch = dataclasses.replace(batch, group=torch.tensor([0, 0, 1, 1, 2, 2]))
    made = {n: torch.ones_like(x) for n, x in masked.embed(batch, at(0)).items()}
    for value in masked.loss(made, batch, at(0)).parts.values():
        assert value.item() == pytest.approx(math.log(5))


def test_a_package_keeps_the_parts(build, tmp_path) -> None:
    system = build("lsfd", dtype=torch.float32).eval()
    export = system.exports()["encoder"]
    assert (export.plan.frames, export.plan.stride) == (8, 4)
    save_package(tmp_path / "p", export.module, export.plan)
    package = load_package(tmp_path / "p")
    clips = torch.randn(2, 8, 3, 12, 12)
    for part in PARTS:
        assert torch.equal(
            encode(package.module, clips, part), encode(system.online.backbone, clips, part)
        )
    both = package.with_heads()(clips)[1]
    assert torch.equal(both["phi"], system.online(clips)[1]["phi"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbone": TINY}, "encoder of clips"),
        ({"w_s": 0.0, "w_n": 0.0, "w_i": 0.0}, "not all 0"),
        ({"w_s": -1.0}, "not negative"),
        ({"parts": 0}, "1 to 64"),
        ({"parts": 1, "order_negatives": True}, "order_negatives"),
        ({"spacing": 0.1}, "stride"),
        ({"spacing": 0.1}, "the other to null"),
        ({"aggregator": "sum"}, "aggregator"),
        ({"head": HeadConfig(out=0)}, "head.out"),
        ({"temperature": 0.0}, "temperature"),
        ({"backbone": dataclasses.replace(TINY_CLIP, widths=(4, 6, 8, 9))}, "divide"),
    ],
)
def test_options_that_cannot_be(build, changes, says) -> None:
    with pytest.raises(ConfigError, match=says):
        build("lsfd", **changes)


def test_parts_of_other_backbones() -> None:
    net = build_backbone("small", widths=(4, 4, 4, 6), parts=("a", "b", "c")).eval()
    features = net(torch.randn(2, 3, 12, 12))
    assert [x.shape[1] for x in features.parts.values()] == [2, 2, 2]
    assert torch.equal(features.parts["b"], features.pooled[:, 2:4])
    with pytest.raises(ConfigError, match="does not divide"):
        build_backbone("small", widths=(4, 4, 4, 5), parts=("a", "b"))
    with pytest.raises(ConfigError, match="each once"):
        build_backbone("small", parts=("a", "a"))


def test_defaults_are_those_of_the_specification() -> None:
    c = LSFDConfig()
    assert (c.parts, c.frames, c.stride, c.temperature, c.head.out) == (2, 8, 4, 0.1, 128)
    assert (c.w_s, c.w_n, c.w_i, c.aggregator, c.order_negatives) == (1, 1, 1, "linear", False)
