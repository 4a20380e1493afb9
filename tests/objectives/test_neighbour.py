"""Invariants of the soft nearest neighbour and the cycle (CycleContrast)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objectives import oracle
from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import ConfigError, DataError
from rhyme.kernels import Kernel
from rhyme.memory import FeatureQueue
from rhyme.objectives import cycle, info_nce, neighbour_weights, soft_nearest_neighbour

F64 = torch.float64


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return nn.functional.normalize(rows, dim=1).to(dtype)


# ---- the neighbour


def test_weights_sum_to_one_and_make_the_mean() -> None:
    q, u, t = unit(5, 6), unit(9, 6, 1), 0.2
    found = soft_nearest_neighbour(q, u, temperature=t)
    weights = neighbour_weights(q, u, temperature=t)
    assert torch.allclose(weights.sum(1), torch.ones(5, dtype=F64))
    assert (weights > 0).all()
    assert torch.allclose(weights, torch.softmax(q @ u.T / t, 1))
    assert torch.allclose(found.mean, weights @ u)
    assert torch.allclose(found.log_sum_exp, torch.logsumexp(q @ u.T / t, 1))
    assert torch.allclose(found.entropy, torch.special.entr(weights).sum(1))
    with_self = neighbour_weights(q, u, temperature=t, self_key=q)
    assert (with_self.sum(1) < 1).all()


def test_a_hot_softmax_averages_and_a_cold_one_picks_the_nearest() -> None:
    q, u = unit(5, 6).requires_grad_(), unit(9, 6, 1)
    hot = soft_nearest_neighbour(q, u, temperature=1e4)
    assert torch.allclose(hot.mean, u.mean(0).expand(5, 6), atol=1e-4)
    assert torch.allclose(hot.entropy, torch.full((5,), math.log(9), dtype=F64), atol=1e-6)
    cold = soft_nearest_neighbour(q, u, temperature=1e-4)
    assert torch.allclose(cold.neighbour, u[(q @ u.T).argmax(1)], atol=1e-9)
    assert torch.allclose(cold.entropy, torch.zeros(5, dtype=F64), atol=1e-6)
    for found in (hot, cold):  # at both ends the encoder learns nothing
        (grad,) = torch.autograd.grad((found.neighbour * unit(5, 6, 3)).sum(), q)
        assert grad.abs().max() < 1e-3


def test_a_support_of_one_is_the_neighbour_whatever_the_query() -> None:
    q, u = unit(5, 6).requires_grad_(), unit(1, 6, 1)
    found = soft_nearest_neighbour(q, u, temperature=0.07)
    assert torch.allclose(found.neighbour, u.expand(5, 6))
    assert found.entropy.max() < 1e-12
    (found.neighbour * unit(5, 6, 2)).sum().backward()
    assert q.grad is not None
    assert q.grad.abs().max() < 1e-14


def test_norms_of_mean_and_neighbour() -> None:
    q, u = unit(5, 6), unit(9, 6, 1)
    found = soft_nearest_neighbour(q, u, temperature=0.3)
    one = torch.ones(5, dtype=F64)
    assert torch.allclose(found.neighbour.norm(dim=1), one)
    assert (found.mean.norm(dim=1) < 0.999).all()
    same = soft_nearest_neighbour(q, u[:1].expand(9, 6), temperature=0.3)
    assert torch.allclose(same.mean.norm(dim=1), one)
    opposite = soft_nearest_neighbour(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), temperature=1.0
    )
    assert not opposite.valid.any()  # a mean without direction
    assert not opposite.neighbour.any()


@pytest.mark.parametrize(("s", "norm", "cosine"), [(256, 0.165, 0.645), (4096, 0.115, 0.958)])
def test_an_isotropic_support_of_known_size(s: int, norm: float, cosine: float) -> None:
    q, u = unit(256, 128, dtype=torch.float32), unit(s, 128, 1, torch.float32)
    found = soft_nearest_neighbour(q, u, temperature=0.07)
    assert abs(float(found.mean.norm(dim=1).mean()) - norm) < 0.01
    assert abs(float((found.neighbour * q).sum(1).mean()) - cosine) < 0.02


def test_the_largest_published_support_turns_the_neighbour_into_the_query() -> None:
    q, u = unit(64, 128, dtype=torch.float32), unit(16384, 128, 1, torch.float32)
    out = cycle(q, q, u, u[:8], temperature=0.07)
    d = {name: float(value) for name, value in out.diagnostics.items()}
    assert abs(d["neighbour_norm"] - 0.111) < 0.003
    assert abs(d["neighbour_cosine"] - 0.989) < 0.003
    assert abs(d["support_entropy"] - 8.92) < 0.05
    assert abs(d["effective_neighbours"] - math.exp(8.92)) < 300


def test_the_own_slot_carries_the_query_with_its_gradient() -> None:
    q, u = unit(4, 6).requires_grad_(), unit(9, 6, 1)
    key = unit(4, 6, 2)
    found = soft_nearest_neighbour(q, u, temperature=0.2, include_self=key)
    logits = torch.cat([(q * key).sum(1, keepdim=True), q @ u.T], 1) / 0.2
    weights = torch.softmax(logits, 1)
    want = weights[:, :1] * q + weights[:, 1:] @ u
    assert torch.allclose(found.mean, want)
    up = unit(4, 6, 3)
    (a,) = torch.autograd.grad((found.mean * up).sum(), q)
    (b,) = torch.autograd.grad((want * up).sum(), q)
    assert torch.allclose(a, b, atol=1e-12)
    alone = soft_nearest_neighbour(q, u[:0], temperature=0.2, include_self=key)
    assert alone.valid.all()
    assert torch.allclose(alone.neighbour, q)


def test_values_replace_what_is_averaged_but_not_the_weights() -> None:
    q, u = unit(4, 6), unit(9, 6, 1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    plain = soft_nearest_neighbour(q, u, temperature=0.1)
    mixed = soft_nearest_neighbour(q, u, temperature=0.1, values=u[order])
    assert torch.allclose(mixed.mean, neighbour_weights(q, u, temperature=0.1) @ u[order])
    assert torch.allclose(mixed.entropy, plain.entropy)
    assert not torch.allclose(mixed.mean, plain.mean)


def test_an_all_masked_row_has_no_neighbour_and_no_nan() -> None:
    q = unit(3, 4, dtype=torch.float32).requires_grad_()
    found = soft_nearest_neighbour(
        q, unit(5, 4, 1, torch.float32), temperature=0.1,
        anchor_groups=torch.tensor([2, 9, 2]), support_groups=torch.full((5,), 2),
    )  # fmt: skip
    assert found.valid.tolist() == [False, True, False]
    assert found.allowed.tolist() == [0, 5, 0]
    assert not found.neighbour[[0, 2]].any()
    assert found.entropy[[0, 2]].tolist() == [0.0, 0.0]
    found.neighbour.sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
    assert not q.grad[[0, 2]].any()
    assert q.grad[1].any()


def test_gradcheck_with_learned_temperature_and_gradient_into_the_support() -> None:
    q, u, v, k = (unit(n, 3, s).requires_grad_() for n, s in ((4, 0), (5, 1), (5, 2), (4, 3)))
    t = torch.tensor(0.3, dtype=F64, requires_grad=True)
    groups, owners = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, -1, 4])

    def plain(q: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        found = soft_nearest_neighbour(
            q, u, temperature=t, anchor_groups=groups, support_groups=owners
        )
        return found.neighbour, found.log_sum_exp

    def full(q: Tensor, u: Tensor, v: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return soft_nearest_neighbour(q, u, temperature=t, include_self=k, values=v).neighbour

    assert torch.autograd.gradcheck(plain, (q, u, t))
    assert torch.autograd.gradcheck(full, (q, u, v, k, t))


# ---- the cycle


@pytest.mark.parametrize(("s", "n"), [(4, 7), (256, 1024)])
def test_equal_similarities_give_log_of_one_plus_the_negatives(s: int, n: int) -> None:
    point = unit(1, 8, dtype=torch.float32)
    out = cycle(
        point.expand(3, 8), point.expand(3, 8), point.expand(s, 8), point.expand(n, 8),
        temperature=0.07,
    )  # fmt: skip
    assert torch.allclose(out.values, torch.full((3,), math.log(1 + n)), rtol=1e-5)


class TwoHeads(nn.Module):
    """A backbone with head m for the intra-video term and head c for the cycle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(6, 8).double()
        self.m = nn.Linear(8, 5).double()
        self.c = nn.Linear(8, 5).double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.backbone(x))
        return nn.functional.normalize(self.m(h), dim=1), nn.functional.normalize(self.c(h), dim=1)


def losses(net: TwoHeads) -> tuple[Tensor, Tensor]:
    q_m, q_c = net(unit(4, 6))
    queue = unit(20, 5, 3)
    intra = info_nce(q_m, unit(4, 5, 1), queue, temperature=0.2).values.mean()
    back = cycle(q_c, unit(4, 5, 2), queue[:8], queue[8:], temperature=0.2).values.mean()
    return intra, back


def gradients(net: TwoHeads, loss: Tensor) -> dict[str, Tensor | None]:
    net.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}


def test_each_head_learns_from_its_own_term_and_the_backbone_from_the_sum() -> None:
    net = TwoHeads()
    intra = gradients(net, losses(net)[0])
    back = gradients(net, losses(net)[1])
    first, second = losses(net)
    both = gradients(net, 1.0 * first + 0.1 * second)
    for name in ("c.weight", "c.bias"):
        assert intra[name] is None
        assert back[name] is not None
    for name in ("m.weight", "m.bias"):
        assert back[name] is None
        assert intra[name] is not None
    for name in ("backbone.weight", "backbone.bias"):
        a, b, sum_ = intra[name], back[name], both[name]
        assert a is not None
        assert b is not None
        assert sum_ is not None
        assert b.abs().max() > 1e-6
        assert torch.allclose(sum_, a + 0.1 * b, atol=1e-12)


def test_queue_and_keys_stay_without_gradient() -> None:
    queue = FeatureQueue(12, 5)
    keys = unit(4, 5, 1, torch.float32)
    q = unit(4, 5, dtype=torch.float32).requires_grad_()
    out = cycle(q, keys, queue.features[:4], queue.features[4:], temperature=0.1)
    out.values.mean().backward()
    assert q.grad is not None
    assert q.grad.any()
    assert queue.features.grad is None
    assert keys.grad is None
    assert not queue.features.requires_grad


def test_with_detached_support_the_gradient_comes_through_the_weights_only() -> None:
    q, p, u, n = unit(4, 6).requires_grad_(), unit(4, 6, 1), unit(7, 6, 2), unit(9, 6, 3)
    (full,) = torch.autograd.grad(cycle(q, p, u, n, temperature=0.2).values.sum(), q)
    frozen = neighbour_weights(q, u, temperature=0.2) @ u
    assert not nn.functional.normalize(frozen, dim=1).requires_grad
    assert full.abs().max() > 1e-3


def test_permuting_queue_and_permutation_alike_changes_nothing() -> None:
    q, p, queue = unit(4, 6), unit(4, 6, 1), unit(30, 6, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    support, negatives = order[:10], order[10:]
    assert not set(support.tolist()) & set(negatives.tolist())
    base = cycle(q, p, queue[support], queue[negatives], temperature=0.1).values
    columns = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    moved = queue[columns]
    back = torch.argsort(columns)
    again = cycle(q, p, moved[back[support]], moved[back[negatives]], temperature=0.1).values
    assert torch.equal(again, base)
    shuffled = cycle(q, p, queue[support.flip(0)], queue[negatives.flip(0)], temperature=0.1)
    assert torch.allclose(shuffled.values, base)


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
@pytest.mark.parametrize("own", ["support", "negatives", "both"])
def test_a_queue_full_of_the_own_video_is_masked_and_never_nan(
    temperature: float, own: str
) -> None:
    q = unit(3, 4, dtype=torch.float32).requires_grad_()
    mine, others = torch.full((6,), 1), torch.tensor([4, 5, 6, -1, 7, 8])
    out = cycle(
        q, unit(3, 4, 1, torch.float32), unit(6, 4, 2, torch.float32),
        unit(6, 4, 3, torch.float32), temperature=temperature,
        anchor_groups=torch.tensor([1, 2, 1]),
        support_groups=others if own == "negatives" else mine,
        negative_groups=others if own == "support" else mine,
    )  # fmt: skip
    loss = distributed.mean(out.values, out.valid)
    (loss + out.values.sum()).backward()
    assert out.valid.tolist() == [False, True, False]
    assert out.values[[0, 2]].tolist() == [0.0, 0.0]
    assert loss.item() == pytest.approx(out.values[1].item())
    assert out.diagnostics["masked_rows"] == 2
    assert all(bool(torch.isfinite(v)) for v in out.diagnostics.values())
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
    assert not q.grad[[0, 2]].any()


@pytest.mark.parametrize("kernel", ["eager", "streaming"])
@pytest.mark.parametrize("seed", range(4))
def test_diagnostics_are_means_over_valid_rows(kernel: Kernel, seed: int) -> None:
    q, p, u, n = (unit(k, 5, 4 * seed + i) for i, k in enumerate((8, 8, 6, 7)))
    p = nn.functional.normalize(p + 2 * soft_nearest_neighbour(q, u, temperature=0.2).mean, dim=1)
    groups = torch.tensor([1, 2, 1, 3, -1, 1, 2, 4])  # 1 has no support and 2 no negatives
    gu, gn = torch.full((6,), 1), torch.full((7,), 2)
    out = cycle(
        q, p, u, n, temperature=0.2, anchor_groups=groups, support_groups=gu, negative_groups=gn,
        kernel=kernel,
    )  # fmt: skip
    su, sn = (oracle.same_group(groups.numpy(), x.numpy()) for x in (gu, gn))
    way = oracle.soft_neighbour(q.numpy(), u.numpy(), 0.2, su, np.zeros_like(q.numpy()))
    rows = [3, 4, 7]
    assert out.valid.nonzero()[:, 0].tolist() == rows
    assert out.diagnostics["masked_rows"] == 5
    want = oracle.means(way.neighbour, p.numpy(), n.numpy(), sn, rows)
    for name, value in want.items():
        assert float(out.diagnostics[name]) == pytest.approx(value, abs=1e-9), name


def test_cycles_without_support_do_not_count_as_lost() -> None:
    q, u, n = unit(4, 6), unit(3, 6, 1), unit(5, 6, 2)
    p = soft_nearest_neighbour(q, u, temperature=0.1).neighbour
    out = cycle(
        q, p, u, n, temperature=0.1,
        anchor_groups=torch.tensor([0, 0, 0, 1]), support_groups=torch.zeros(3, dtype=torch.int64),
        negative_groups=torch.full((5,), -1),
    )  # fmt: skip
    assert out.diagnostics["accuracy"] == 1
    assert float(out.diagnostics["positive_cosine"]) == pytest.approx(1)


def test_groups_keep_the_own_video_out_of_both_ways() -> None:
    q, p, u, n = unit(2, 6), unit(2, 6, 1), unit(5, 6, 2), unit(7, 6, 3)
    gu, gn = torch.tensor([0, 1, 2, 0, -1]), torch.tensor([1, 1, 0, 3, -1, 2, 0])
    out = cycle(
        q, p, u, n, temperature=0.1, anchor_groups=torch.tensor([0, 1]),
        support_groups=gu, negative_groups=gn,
    )  # fmt: skip
    for i in range(2):
        alone = cycle(q[i : i + 1], p[i : i + 1], u[gu != i], n[gn != i], temperature=0.1)
        assert torch.allclose(out.values[i], alone.values[0])
    assert float(out.diagnostics["support_masked_fraction"]) == pytest.approx(3 / 10)
    assert float(out.diagnostics["masked_fraction"]) == pytest.approx(4 / 14)


def test_autocast_leaves_the_cycle_in_float32() -> None:
    q, p, u, n = (unit(k, 16, s, torch.float32) for k, s in ((8, 0), (8, 1), (300, 2), (500, 3)))
    plain = cycle(q, p, u, n, temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = cycle(q, p, u, n, temperature=0.07)
    assert mixed.values.dtype == torch.float32
    assert torch.equal(mixed.values, plain.values)
    wide = cycle(q.double(), p.double(), u.double(), n.double(), temperature=0.07)
    assert torch.allclose(plain.values.double(), wide.values, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    q, u = unit(3, 4), unit(5, 4)
    with pytest.raises(DataError, match="self_key"):
        soft_nearest_neighbour(q, u, temperature=0.1, include_self=q[:2])
    with pytest.raises(DataError, match="values"):
        soft_nearest_neighbour(q, u, temperature=0.1, values=u[:4])
    with pytest.raises(ConfigError):
        cycle(q, q, u, u, temperature=0.1, neighbour_temperature=0.0)


def cycle_on_rank(n: int) -> tuple[Tensor, list[Tensor]]:
    net = TwoHeads()
    rows = distributed.rank_slice(n)
    groups, owners = torch.arange(n)[rows], torch.arange(20) % 6
    _, q = net(unit(n, 6)[rows])
    queue = unit(20, 5, 3)
    out = cycle(
        q, unit(n, 5, 2)[rows], queue[:8], queue[8:], temperature=0.2, anchor_groups=groups,
        support_groups=owners[:8], negative_groups=owners[8:],
    )  # fmt: skip
    valid = out.valid & (groups != 1)
    loss = distributed.mean(out.values, valid)
    loss.backward()
    distributed.average_gradients(net.parameters())
    return loss.detach(), [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("world", [2, 4])
def test_the_cycle_of_one_global_batch_is_the_same_on_ranks(world: int) -> None:
    loss, grads = cycle_on_rank(8)
    assert len(grads) == 4
    for got, got_grads in run_on_ranks(cycle_on_rank, world, 8):
        assert abs(got - loss) < 1e-12
        for a, b in zip(got_grads, grads, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)
