"""Inner products by oneDNN where MKL holds back, and by what PyTorch takes elsewhere."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rhyme.kernels import (
    in_batch_log_sum_exp,
    product,
    queue_log_sum_exp,
    soft_neighbour,
    streaming,
    tiles,
    top_k,
)


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways on any machine that has oneDNN, whatever it would choose by itself."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(product, "_held_back", lambda: request.param)
    return request.param


def near(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("m", "n", "d"), [(1, 1, 1), (5, 3, 7), (130, 257, 33), (512, 512, 128)])
def test_all_products_are_those_of_float64(route: bool, m: int, n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(m)
    left, right, total = (
        torch.randn(shape, generator=generator) / 8 for shape in ((m, d), (n, d), (m, n))
    )
    wide = left.double() @ right.double().T
    columns = total[0].clone()
    room = torch.empty(m, n)
    found = product.inner(left, right, room)
    assert near(found, wide)
    assert (found is room) is not route
    product.fill_inner(room.zero_(), left, right)
    assert near(room, wide)
    assert near(product.inner(left, right, columns=columns), wide + columns.double())
    worth = product.worth_onednn(left, right)
    assert near(product.inner_by(worth, left, right, torch.empty(m, n)), wide)
    summed, across = total.clone(), total.T.clone(memory_format=torch.contiguous_format).T
    for place in (summed, across):  # in place, also where the rows do not lie along the memory
        product.add_product(place, left, right.T)
        assert near(place, total.double() + wide)


@pytest.mark.parametrize(("m", "n", "d", "large"), [(4, 8, 8, False), (128, 64, 128, True)])
def test_the_size_alone_decides_which_library_multiplies(
    route: bool, m: int, n: int, d: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's call takes ten times as long as a small product; where ranks are made, it stays."""
    called: list[int] = []
    through = product._onednn

    def counted(*given: Tensor | None) -> Tensor:
        called.append(1)
        return through(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(product, "_onednn", counted)
    left, right, total = torch.randn(m, d), torch.randn(n, d), torch.zeros(m, n)
    wide = left.double() @ right.double().T
    taken = []
    for _ in range(2):  # and no call before it
        worth = product.worth_onednn(left, right)
        assert torch.allclose(product.inner_by(worth, left, right).double(), wide, atol=1e-4)
        product.add_product(total.zero_(), left, right.T)
        assert torch.allclose(total.double(), wide, atol=1e-4)
        taken.append(len(called))
        total.zero_()
    assert taken == ([2, 4] if route and large else [0, 0])
    product.inner(left, right)
    product.fill_inner(total, left, right)
    assert len(called) == taken[-1] + 2 * route


def test_a_walk_multiplies_its_ragged_ends_as_the_rest(
    route: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal rows tie also at logits that one bit would part by powers of two."""
    if not route:
        pytest.skip("the ends of a product may be summed in another order there")
    monkeypatch.setattr(tiles, "SIDE", 112)
    monkeypatch.setattr(streaming, "_HOST_BYTES", 1)
    row = torch.randn(180, 200, generator=torch.Generator().manual_seed(0)) * 100
    keys = row.repeat(7, 1).requires_grad_()
    for function in (in_batch_log_sum_exp, queue_log_sum_exp):
        found = function(row, keys, temperature=0.03).log_sum_exp.sum()
        (grad,) = torch.autograd.grad(found, keys)
        assert torch.allclose(grad, row.repeat(7, 1) / 0.03 / 7, rtol=1e-4, atol=1e-2)


def test_nothing_to_multiply(route: bool) -> None:
    empty, some = torch.empty(0, 8), torch.ones(3, 8)
    assert product.inner(empty, some).shape == (0, 3)
    assert product.inner(some, empty).shape == (3, 0)
    assert product.inner(torch.empty(2, 0), torch.empty(3, 0)).tolist() == [[0.0] * 3] * 2


def test_no_other_type_goes_to_onednn(route: bool) -> None:
    assert product.by_onednn(torch.ones(1)) is route
    assert not product.by_onednn(torch.ones(1, dtype=torch.float64))
    assert not product.by_onednn(torch.ones(1, dtype=torch.bfloat16))
    assert not product.by_onednn(torch.ones(1, device="meta"))


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel"])
def test_the_choice_is_the_processors(
    vendor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(product, "_CPU_FACTS", facts)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    product._held_back.cache_clear()
    try:
        assert product._held_back() is (vendor == "AuthenticAMD")
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        assert not product.by_onednn(torch.ones(1))
    finally:
        product._held_back.cache_clear()


def test_equal_rows_have_equal_scores_wherever_they_lie(route: bool) -> None:
    row = torch.randn(1, 96, generator=torch.Generator().manual_seed(0))
    found = top_k(row.repeat(37, 1), row.repeat(1013, 1), 9, query_rows=16, bank_rows=100)
    assert found.indices.tolist() == [list(range(9))] * 37
    assert bool((found.scores == found.scores[:, :1]).all())


@pytest.mark.parametrize("again", [False, True], ids=["once", "to be differentiated again"])
@pytest.mark.parametrize("objective", ["queue", "neighbour", "batch"])
def test_a_backward_pass_within_autocast_is_that_without(
    route: bool, objective: str, again: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second, g = (torch.randn(n, 16, generator=generator) for n in (24, 40, 24))

    def value(a: Tensor, b: Tensor) -> Tensor:
        if objective == "queue":
            return queue_log_sum_exp(a, b, temperature=0.5).log_sum_exp.sum()
        if objective == "neighbour":
            return (soft_neighbour(a, b, temperature=0.5).mean * g).sum()
        return in_batch_log_sum_exp(a, b, temperature=0.5).log_sum_exp.sum()

    found: list[list[Tensor]] = []
    for within in (False, True):
        inputs = [x.clone().requires_grad_() for x in (first, second)]
        with torch.autocast("cpu", enabled=within):
            grads = torch.autograd.grad(value(*inputs), inputs, create_graph=again)
        found.append([x.detach() for x in grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
