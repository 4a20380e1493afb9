"""The kernels under ``torch.func``: the plain form serves it, and others say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, func

from rhyme.errors import ConfigError
from rhyme.kernels import (
    in_batch_log_sum_exp,
    queue_log_sum_exp,
    self_log_sum_exp,
    soft_neighbour,
    symmetric_log_sum_exp,
)
from rhyme.kernels.rows import row_products
from rhyme.objectives import info_nce_in_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")
OWN = torch.arange(4)[:, None]
MASK = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.3
Value = Callable[..., Tensor]
VALUES: dict[str, Value] = {
    "queue": lambda q, k, t, how: queue_log_sum_exp(
        q, k, temperature=t, mask=MASK, kernel=how
    ).log_sum_exp.sum(),
    "neighbour": lambda q, k, t, how: (
        soft_neighbour(q, k, temperature=t, mask=MASK, self_key=q.flip(0), kernel=how)
        .mean.square()
        .sum()
    ),
    "rows": lambda q, k, t, how: in_batch_log_sum_exp(
        q, k, temperature=t, skip=OWN, kernel=how
    ).log_sum_exp.sum(),
    "both": lambda q, k, t, how: torch.cat(
        [s.log_sum_exp for s in symmetric_log_sum_exp(q, k, temperature=t, kernel=how)]
    ).sum(),
    "self": lambda q, k, t, how: (
        self_log_sum_exp(q, temperature=t, skip=OWN, kernel=how).log_sum_exp.sum()
        + k.square().sum() / t
    ),
    "objective": lambda q, k, t, how: info_nce_in_batch(
        q, k, OWN[:, 0], temperature=t, kernel=how
    ).values.sum(),
}
each = pytest.mark.parametrize("name", VALUES)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (4, 6))
    return [q, k, torch.tensor(0.4, dtype=torch.float64)]


def plain_gradients(value: Value, given: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in given]
    return list(torch.autograd.grad(value(*leaves, "auto"), leaves))


@each
@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_gradients_of_torch_func_are_those_of_autograd(name: str, kernel: str) -> None:
    given = inputs()
    wanted = plain_gradients(VALUES[name], given)

    def value(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return VALUES[name](q, k, t, kernel)

    for mine, right in zip(func.grad(value, (0, 1, 2))(*given), wanted, strict=True):
        torch.testing.assert_close(mine, right)
    _, forward = func.jvp(value, tuple(given), tuple(x.cos() for x in given))
    along = sum((g * x.cos()).sum() for g, x in zip(wanted, given, strict=True))
    torch.testing.assert_close(forward, along)
    several = [torch.stack([x, 1.5 * x]) for x in given]
    each_of = func.vmap(func.grad(value, (0, 1, 2)))(*several)
    for mine, right, other in zip(
        each_of, wanted, plain_gradients(VALUES[name], [1.5 * x for x in given]), strict=True
    ):
        torch.testing.assert_close(mine, torch.stack([right, other]))


@each
@pytest.mark.parametrize("kernel", ["streaming", "triton"])
def test_another_kernel_says_what_to_do(name: str, kernel: str) -> None:
    q, k, t = inputs()
    for transform in (func.grad, lambda f: func.vmap(f, (0, None, None))):
        first = q if transform is func.grad else q[None]
        with pytest.raises(ConfigError, match=r"torch\.func") as told:
            transform(lambda q, k, t: VALUES[name](q, k, t, kernel))(first, k, t)
        assert 'kernel="eager"' in str(told.value.remedy)
    if kernel == "streaming":  # outside it computes as before
        assert VALUES[name](q, k, t, kernel).isfinite()


def test_products_of_rows_are_transformed_too() -> None:
    a, b = (torch.randn(5, 3, dtype=torch.float64) for _ in "ab")
    assert torch.equal(func.grad(lambda a: row_products(a, b).sum())(a), b)
    assert torch.equal(func.vmap(lambda a: row_products(a, b))(a[None])[0], (a * b).sum(1))
