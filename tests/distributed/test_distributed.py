from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ranks.pool import RankError, run_on_ranks
from rhyme import distributed
from rhyme.errors import ConfigError, DataError

F64 = torch.float64


def data(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ---- functions that run on every rank


def facts() -> tuple[int, int, bool, int, bool, bool]:
    r = distributed.rank()
    value = distributed.broadcast_object({"from": r})["from"]
    distributed.barrier()
    return (
        r,
        distributed.world_size(),
        distributed.is_active(),
        value,
        distributed.agree(r == 1),
        distributed.agree(False),
    )


def gathered(kind: str) -> Tensor:
    r = distributed.rank()
    x = {
        "bool": torch.tensor([r == 0, True]),
        "int": torch.tensor([[r, 7]]),
        "half": torch.full((2, 1), float(r), dtype=torch.bfloat16),
        "view": (torch.arange(6.0) + 10 * r).reshape(2, 3).T,
    }[kind]
    return distributed.gather(x)


def gather_gradient(grad: bool) -> tuple[Tensor, Tensor | None]:
    x = data(6, 2)[distributed.rank_slice(6)].clone().requires_grad_()
    everything = distributed.gather(x, grad=grad)
    weight = data(6, 2, 1) * (1 + distributed.rank())
    loss = (everything * weight).sum() + 0 * x.sum()
    loss.backward()
    return everything.detach(), x.grad


def sum_gradient() -> tuple[Tensor, Tensor | None]:
    x = torch.full((3,), 1.0 + distributed.rank(), dtype=F64, requires_grad=True)
    total = distributed.sum_all(x, grad=True)
    (total * (1.0 + distributed.rank())).sum().backward()
    assert not distributed.sum_all(x).requires_grad
    return total.detach(), x.grad


def ragged() -> str:
    try:
        distributed.gather(torch.zeros(2 + distributed.rank(), 3))
    except DataError as error:
        return str(error)
    return "gathered"


def training_loss(n: int, masked: bool, empty: bool = False) -> tuple[Tensor, list[Tensor]]:
    """A small contrastive step on this rank's rows: loss and averaged parameter gradients."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    rows = distributed.rank_slice(n)
    a, b = net(data(n, 4)[rows]), net(data(n, 4, 1)[rows])
    keys = distributed.gather(b, grad=True)
    logits = a @ keys.T
    own = torch.arange(n)[rows]
    values = logits.logsumexp(1) - logits.gather(1, own[:, None])[:, 0]
    valid = (own % 3 != 0) if masked else None
    if empty:
        valid = torch.zeros_like(own, dtype=torch.bool)
    loss = distributed.mean(values, valid)
    (loss + loss**2).backward()
    distributed.average_gradients(net.parameters())
    return loss.detach(), [p.grad for p in net.parameters() if p.grad is not None]


def presence() -> list[list[float] | None]:
    on_one = nn.Parameter(torch.zeros(2))
    on_none = nn.Parameter(torch.zeros(1))
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    if distributed.rank() == 1:
        on_one.grad = torch.tensor([2.0, 4.0])
    distributed.average_gradients([on_one, on_none, frozen])
    return [None if p.grad is None else p.grad.tolist() for p in (on_one, on_none, frozen)]


def fail_on_one() -> int:
    if distributed.rank() == 1:
        raise ValueError("rank one stumbles")
    return 0


def slices(n: int) -> tuple[int, int]:
    s = distributed.rank_slice(n)
    return s.start, s.stop


# ---- tests


def test_one_process_is_one_rank() -> None:
    x = data(3, 2).requires_grad_()
    assert not distributed.is_active()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.gather(x, grad=True) is x
    assert not distributed.gather(x).requires_grad
    assert distributed.sum_all(x, grad=True) is x
    assert distributed.agree(True)
    assert not distributed.agree(False)
    assert distributed.broadcast_object("x") == "x"
    assert distributed.rank_slice(5) == slice(0, 5)
    distributed.barrier()
    distributed.average_gradients([x])
    assert x.grad is None


def test_init_without_torchrun_is_a_no_op(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.init()
    distributed.shutdown()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not distributed.init()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK"):
        distributed.init()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="outside"):
        distributed.init()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        distributed.init()


def test_ranks_know_themselves_and_agree() -> None:
    assert run_on_ranks(facts, 2) == [(r, 2, True, 0, True, False) for r in range(2)]


def test_gather_joins_rows_in_rank_order() -> None:
    for kind, want in {
        "bool": torch.tensor([True, True, False, True]),
        "int": torch.tensor([[0, 7], [1, 7]]),
        "half": torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.bfloat16),
        "view": torch.cat([(torch.arange(6.0) + 10 * r).reshape(2, 3).T for r in range(2)]),
    }.items():
        for got in run_on_ranks(gathered, 2, kind):
            assert got.dtype == want.dtype
            assert torch.equal(got, want), kind


def test_gather_sends_each_gradient_home() -> None:
    for r, (value, grad) in enumerate(run_on_ranks(gather_gradient, 2, True)):
        assert torch.equal(value, data(6, 2))
        assert grad is not None
        want = 3 * data(6, 2, 1)[3 * r : 3 * r + 3]  # weights 1 + 2 from the two ranks
        assert torch.allclose(grad, want, atol=1e-12)
    for value, grad in run_on_ranks(gather_gradient, 2, False):
        assert torch.equal(value, data(6, 2))
        assert grad is not None
        assert not grad.any()


def test_sum_all_adds_values_and_gradients() -> None:
    for total, grad in run_on_ranks(sum_gradient, 2):
        assert total.tolist() == [3.0] * 3
        assert grad is not None
        assert grad.tolist() == [3.0] * 3


def test_unequal_local_batches_are_refused_on_every_rank() -> None:
    for text in run_on_ranks(ragged, 2):
        assert "different shapes" in text
        assert "[(2, 3), (3, 3)]" in text
        assert "drop_last" in text


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_one_global_batch_has_one_loss_and_one_gradient(world: int, masked: bool) -> None:
    loss, grads = training_loss(8, masked)
    for got, got_grads in run_on_ranks(training_loss, world, 8, masked):
        assert abs(got - loss) < 1e-12
        assert len(grads) == len(got_grads) == 4
        for a, b in zip(got_grads, grads, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)


def test_nothing_valid_gives_zero_and_a_zero_gradient() -> None:
    for loss, grads in [
        training_loss(4, False, True),
        *run_on_ranks(training_loss, 2, 4, False, True),
    ]:
        assert loss == 0
        assert len(grads) == 4
        assert not any(g.any() for g in grads)


def test_mean_ignores_what_is_not_valid() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    valid = torch.tensor([True, False, True])
    loss = distributed.mean(values, valid)
    loss.backward()
    assert loss == 2
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert distributed.mean(torch.full((3,), 60000.0, dtype=torch.float16)) == 60000
    with pytest.raises(DataError, match="same shape"):
        distributed.mean(values, valid[:2])


def test_average_gradients_handles_parameters_without_gradient() -> None:
    assert run_on_ranks(presence, 2) == [[[1.0, 2.0], None, None]] * 2


def test_rank_slice_cuts_the_global_batch() -> None:
    assert run_on_ranks(slices, 2, 6) == [(0, 3), (3, 6)]
    with pytest.raises(RankError, match="batch size of 4"):
        run_on_ranks(slices, 2, 5)


def test_a_failing_rank_is_reported_and_replaced() -> None:
    with pytest.raises(RankError, match="rank one stumbles"):
        run_on_ranks(fail_on_one, 2)
    assert len(run_on_ranks(facts, 2)) == 2
