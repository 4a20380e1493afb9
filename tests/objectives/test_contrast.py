"""Published numbers and invariants of InfoNCE and NT-Xent; extremes, precision, ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import ConfigError, DataError, UnknownName
from rhyme.objectives import ObjectiveOutput, info_nce, info_nce_in_batch, nt_xent

F64 = torch.float64


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return nn.functional.normalize(rows, dim=1).to(dtype)


def orthonormal(n: int, d: int) -> Tensor:
    return torch.eye(d, dtype=F64)[:n]


# ---- known values


@pytest.mark.parametrize("k", [1, 7, 65536])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equal_similarities_give_log_of_one_plus_k(k: int, temperature: float) -> None:
    q = unit(3, 4, dtype=torch.float32)
    same = torch.zeros(k, 4)
    out = info_nce(q, torch.zeros(3, 4), same, temperature=temperature)
    assert torch.allclose(out.values, torch.full((3,), math.log(1 + k)), rtol=1e-6)
    if k == 65536:
        assert abs(float(out.values[0]) - 11.0904) < 1e-4
    assert out.diagnostics["accuracy"] == 0  # a tie is not found


@pytest.mark.parametrize(
    ("temperature", "aligned", "orthogonal"), [(0.07, 0.087, 11.88), (0.2, 6.19, 11.19)]
)
def test_a_fresh_network_starts_at_the_known_loss(
    temperature: float, aligned: float, orthogonal: float
) -> None:
    """128 dimensions, 65 536 random keys (Monte Carlo over a seeded queue)."""
    q = unit(16, 128, dtype=torch.float32)
    queue = unit(65536, 128, 1, torch.float32)
    near = info_nce(q, q, queue, temperature=temperature).values.mean()
    across = q.roll(1, 1) - (q.roll(1, 1) * q).sum(1, keepdim=True) * q
    far = info_nce(q, nn.functional.normalize(across, dim=1), queue, temperature=temperature)
    assert abs(float(near) - aligned) < 0.01 * max(1.0, aligned)
    assert abs(float(far.values.mean()) - orthogonal) < 0.02


def test_gradient_of_the_anchor_is_softmax_minus_onehot_times_the_columns() -> None:
    q = unit(4, 8).requires_grad_()
    p, queue, t = unit(4, 8, 1), unit(20, 8, 2), 0.2
    info_nce(q, p, queue, temperature=t).values.sum().backward()
    columns = torch.cat([p[:, None], queue.expand(4, 20, 8)], 1)
    soft = torch.softmax((columns @ q.detach()[:, :, None])[:, :, 0] / t, 1)
    soft[:, 0] -= 1
    want = (soft[:, :, None] * columns).sum(1) / t
    assert q.grad is not None
    assert torch.allclose(q.grad, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 16, 256])
def test_nt_xent_of_uniform_logits_is_log_of_2n_minus_1(n: int) -> None:
    z = torch.zeros(n, 3, dtype=F64)
    out = nt_xent(z, z, temperature=0.1)
    assert out.values.shape == (2 * n,)
    assert torch.allclose(out.values, torch.full((2 * n,), math.log(2 * n - 1), dtype=F64))


@pytest.mark.parametrize("n", [2, 64, 256])
def test_nt_xent_of_orthonormal_pairs(n: int) -> None:
    z = orthonormal(n, n)
    t = 0.1
    value = nt_xent(z, z, temperature=t).values.mean()
    want = -math.log(math.exp(1 / t) / (math.exp(1 / t) + 2 * n - 2))
    assert abs(float(value) - want) < 1e-12
    if n == 256:
        assert abs(float(value) - 0.0229) < 1e-4


def test_nt_xent_of_one_item_has_nothing_to_compare() -> None:
    z1, z2 = unit(1, 4).requires_grad_(), unit(1, 4, 1)
    out = nt_xent(z1, z2, temperature=0.1)
    loss = distributed.mean(out.values, out.valid)
    loss.backward()
    assert loss == 0
    assert not out.valid.any()
    assert out.diagnostics["masked_rows"] == 2
    assert z1.grad is not None
    assert not z1.grad.any()


def test_nt_xent_symmetries() -> None:
    raw1 = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    raw2 = raw1 + 0.5 * unit(6, 5, 3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        norm = nn.functional.normalize
        return nt_xent(norm(a, dim=1), norm(b, dim=1), temperature=0.3).values.mean()

    base = loss(raw1, raw2)
    rotation = torch.linalg.qr(unit(5, 5, 9)).Q
    assert torch.allclose(loss(raw2, raw1), base)
    assert torch.allclose(loss(3 * raw1, 0.1 * raw2), base)
    assert torch.allclose(loss(raw1 @ rotation, raw2 @ rotation), base)
    leaf = raw1.clone().requires_grad_()
    loss(leaf, raw2).backward()
    assert leaf.grad is not None
    assert torch.allclose((leaf.grad * raw1).sum(1), torch.zeros(6, dtype=F64), atol=1e-12)
    assert leaf.grad.abs().max() > 1e-3


def test_an_anchor_is_never_its_own_negative() -> None:
    z = unit(4, 5)
    views = torch.cat([z, z])
    index = torch.arange(8)
    with_self = info_nce_in_batch(views, views, (index + 4) % 8, temperature=0.1)
    without = info_nce_in_batch(views, views, (index + 4) % 8, temperature=0.1, self_index=index)
    assert (with_self.values > without.values + 0.5).all()
    assert torch.allclose(nt_xent(z, z, temperature=0.1).values, without.values)


# ---- groups and masks


def test_own_group_is_left_out_and_nobodys_rows_are_not() -> None:
    q = unit(3, 4)
    queue = torch.cat([q, unit(5, 4, 1)])  # the first three columns are the anchors themselves
    owners = torch.tensor([0, 1, 2, -1, -1, 7, 8, 9])
    groups = torch.tensor([0, 1, -1])
    out = info_nce(q, q, queue, temperature=0.1, anchor_groups=groups, negative_groups=owners)
    keep = [[1, 2, 3, 4, 5, 6, 7], [0, 2, 3, 4, 5, 6, 7], list(range(8))]
    for i, columns in enumerate(keep):
        alone = info_nce(q[i : i + 1], q[i : i + 1], queue[columns], temperature=0.1)
        assert torch.allclose(out.values[i], alone.values[0])
    assert abs(float(out.diagnostics["masked_fraction"]) - 2 / 24) < 1e-6


def test_items_of_one_group_are_no_negatives_of_each_other() -> None:
    z1, z2 = unit(4, 6), unit(4, 6, 1)
    groups = torch.tensor([5, 5, 6, -1])
    out = nt_xent(z1, z2, temperature=0.2, groups=groups)
    without_first = [1, 2, 3]  # items 0 and 1 share a group: neither sees the other
    alone = nt_xent(z1[without_first], z2[without_first], temperature=0.2)
    assert torch.allclose(out.values[1], alone.values[0])
    assert not torch.allclose(out.values, nt_xent(z1, z2, temperature=0.2).values)


def finite_and_zero(out: ObjectiveOutput, rows: list[int], *leaves: Tensor) -> None:
    loss = out.values.sum() + distributed.mean(out.values, out.valid)
    loss.backward()
    values = out.values.tolist()
    for i in range(len(values)):
        assert bool(out.valid[i]) == (i not in rows)
        assert values[i] == 0.0 if i in rows else values[i] >= 0.0
    assert max(values) > 0 or len(rows) == len(values)
    assert out.diagnostics["masked_rows"] == len(rows)
    for value in out.diagnostics.values():
        assert torch.isfinite(value)
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert not leaf.grad[rows].any()


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
@pytest.mark.parametrize("learned", [False, True])
def test_a_row_without_negatives_is_masked_and_never_nan(temperature: float, learned: bool) -> None:
    q = unit(3, 4, dtype=torch.float32).requires_grad_()
    p = unit(3, 4, 1, torch.float32).requires_grad_()
    t = torch.tensor(temperature, requires_grad=True) if learned else temperature
    out = info_nce(
        q, p, unit(5, 4, 2, torch.float32), temperature=t,
        anchor_groups=torch.tensor([3, 1, 1]), negative_groups=torch.tensor([3] * 5),
    )  # fmt: skip
    finite_and_zero(out, [0], q, p)
    if isinstance(t, Tensor):
        assert t.grad is not None
        assert torch.isfinite(t.grad)


def test_rows_that_are_left_out_change_nothing() -> None:
    q, p, n = unit(5, 4).requires_grad_(), unit(5, 4, 1), unit(6, 4, 2)
    valid = torch.tensor([True, False, True, True, False])
    out = info_nce(q, p, n, temperature=0.2, valid=valid)
    only = info_nce(q.detach()[valid], p[valid], n, temperature=0.2)
    assert torch.equal(out.values[valid], only.values)
    for name in ("positive_cosine", "hardest_negative_cosine", "accuracy"):
        assert torch.allclose(out.diagnostics[name], only.diagnostics[name], atol=1e-12)
    finite_and_zero(out, [1, 4], q)
    with pytest.raises(DataError, match="valid must be"):
        info_nce(q, p, n, temperature=0.2, valid=valid[:4])


def test_no_negatives_at_all() -> None:
    q = unit(2, 4).requires_grad_()
    finite_and_zero(info_nce(q, unit(2, 4, 1), unit(0, 4), temperature=0.1), [0, 1], q)


# ---- precision


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
def test_extreme_temperatures_stay_finite_and_close_to_float64(temperature: float) -> None:
    q, p, n = unit(6, 16), unit(6, 16, 1), unit(50, 16, 2)
    leaf = q.float().requires_grad_()
    out = info_nce(leaf, p.float(), n.float(), temperature=temperature)
    out.values.mean().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    want = info_nce(q, p, n, temperature=temperature).values
    assert torch.allclose(out.values.double(), want, rtol=1e-4, atol=1e-5)


def test_a_small_loss_keeps_its_digits() -> None:
    """A positive far ahead: log(1 + 1e-12), where a difference of log-sum-exps would give 0."""
    q, p = orthonormal(1, 3), orthonormal(1, 3)
    n = torch.tensor([[0.0, 1.0, 0.0]], dtype=F64)
    gap = 27.6
    for dtype in (F64, torch.float32):
        value = info_nce(q.to(dtype), p.to(dtype), n.to(dtype), temperature=1 / gap).values
        assert abs(float(value) / math.exp(-gap) - 1) < 1e-5


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(half: torch.dtype) -> None:
    q, p, n = (unit(k, 32, seed).to(half) for k, seed in ((8, 0), (8, 1), (4096, 2)))
    want = info_nce(q.double(), p.double(), n.double(), temperature=0.05).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = q.clone().requires_grad_()
        out = info_nce(leaf, p, n, temperature=0.05)
        wide = info_nce(q.float(), p.float(), n.float(), temperature=0.05)
    assert out.values.dtype == torch.float32
    for got in (out, wide):
        assert torch.allclose(got.values.double(), want, rtol=1e-5, atol=1e-5)
    out.values.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == half
    assert torch.isfinite(leaf.grad).all()


def test_gradcheck_of_all_inputs_and_a_learned_temperature() -> None:
    q, p, n = (unit(k, 3, s).requires_grad_() for k, s in ((4, 0), (4, 1), (5, 2)))
    t = torch.tensor(0.3, dtype=F64, requires_grad=True)
    groups, owners = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, -1, 4])

    def queue_form(q: Tensor, p: Tensor, n: Tensor, t: Tensor) -> Tensor:
        return info_nce(q, p, n, temperature=t, anchor_groups=groups, negative_groups=owners).values

    def batch_form(q: Tensor, p: Tensor, t: Tensor) -> Tensor:
        return nt_xent(q, p, temperature=t).values

    assert torch.autograd.gradcheck(queue_form, (q, p, n, t))
    assert torch.autograd.gradcheck(batch_form, (q, p, t))


# ---- errors


def test_what_does_not_fit_is_refused() -> None:
    q, n = unit(3, 4), unit(5, 4)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="temperature"):
            info_nce(q, q, n, temperature=bad)
    with pytest.raises(DataError):
        info_nce(q, q[:2], n, temperature=1.0)
    with pytest.raises(DataError):
        info_nce(q, q, unit(5, 3), temperature=1.0)
    with pytest.raises(DataError, match="both sides"):
        info_nce(q, q, n, temperature=1.0, anchor_groups=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="one id"):
        info_nce(
            q, q, n, temperature=1.0,
            anchor_groups=torch.zeros(3), negative_groups=torch.zeros(4),
        )  # fmt: skip
    with pytest.raises(DataError, match="mask"):
        info_nce(q, q, n, temperature=1.0, extra_mask=torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(DataError, match="positive_index"):
        info_nce_in_batch(q, n, torch.zeros(2, dtype=torch.int64), temperature=1.0)
    with pytest.raises(DataError, match="both views"):
        nt_xent(q, q[:2], temperature=1.0)
    with pytest.raises(UnknownName, match="unknown kernel"):
        info_nce(q, q, n, temperature=1.0, kernel="egger")  # type: ignore[arg-type]


# ---- ranks


def simclr_on_rank(n: int, grouped: bool) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    rows = distributed.rank_slice(n)
    z1, z2 = (nn.functional.normalize(net(unit(n, 5, s)[rows]), dim=1) for s in (0, 1))
    groups = torch.tensor([0, 0, 1, 2, -1, 3, 3, -1])[:n][rows] if grouped else None
    out = nt_xent(z1, z2, temperature=0.2, groups=groups)
    loss = distributed.mean(out.values, out.valid)
    loss.backward()
    distributed.average_gradients(net.parameters())
    return loss.detach(), [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize(("world", "grouped"), [(2, False), (2, True), (4, True)])
def test_nt_xent_of_one_global_batch_is_the_same_on_ranks(world: int, grouped: bool) -> None:
    loss, grads = simclr_on_rank(8, grouped)
    assert len(grads) == 4
    assert all(g.abs().max() > 1e-4 for g in grads)
    for got, got_grads in run_on_ranks(simclr_on_rank, world, 8, grouped):
        assert abs(got - loss) < 1e-12
        for a, b in zip(got_grads, grads, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)
