"""Every objective against loops in float64: values and gradients, any shape, mask, temperature."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives import oracle
from rhyme.objectives import (
    cycle,
    info_nce,
    info_nce_in_batch,
    neighbour_weights,
    nt_xent,
    soft_nearest_neighbour,
)

F64 = torch.float64
SETTINGS = settings(max_examples=150, deadline=None)
TEMPERATURES = st.sampled_from([1e-4, 0.03, 0.07, 0.2, 1.0, 50.0, 1e4])


@st.composite
def cases(draw: st.DrawFn, rows: int = 5, keys: int = 7) -> dict[str, Tensor]:
    """Unit rows and group ids, some of them nobody's, some covering a whole side."""
    b, s, n, d = (draw(st.integers(1, m)) for m in (rows, keys, keys, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def unit(count: int) -> Tensor:
        rows = torch.randn(count, d, generator=generator, dtype=F64)
        return torch.nn.functional.normalize(rows, dim=1)

    groups = draw(st.integers(1, 6))

    def owners(count: int) -> Tensor:
        return torch.randint(-1, groups, (count,), generator=generator)

    return {
        "q": unit(b), "p": unit(b), "u": unit(s), "n": unit(n), "k": unit(b),
        "gq": owners(b), "gu": owners(s), "gn": owners(n),
        "up": torch.randn(b, generator=generator, dtype=F64),
        "vup": torch.randn(b, d, generator=generator, dtype=F64),
        "mask": torch.rand(b, n, generator=generator) < 0.3,
        "order": torch.randperm(s, generator=generator),
    }  # fmt: skip


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def close(got: Tensor | None, want: np.ndarray, scale: float = 1.0) -> None:
    """Equal to 1e-9 of the scale; the identity `lse − logit` costs eps/τ in entropies."""
    assert got is not None
    assert got.dtype == F64
    assert torch.isfinite(got).all()
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-9, atol=1e-9 * max(1.0, scale))


@SETTINGS
@given(c=cases(), t=TEMPERATURES, masked=st.booleans(), grouped=st.booleans())
def test_info_nce(c: dict[str, Tensor], t: float, masked: bool, grouped: bool) -> None:
    q, p, n = leaf(c["q"]), leaf(c["p"]), leaf(c["n"])
    out = info_nce(
        q, p, n, temperature=t,
        anchor_groups=c["gq"] if grouped else None,
        negative_groups=c["gn"] if grouped else None,
        extra_mask=c["mask"] if masked else None,
    )  # fmt: skip
    excluded = np.zeros(c["mask"].shape, dtype=bool)
    if grouped:
        excluded |= oracle.same_group(c["gq"].numpy(), c["gn"].numpy())
    if masked:
        excluded |= c["mask"].numpy()
    want = oracle.info_nce(
        c["q"].numpy(), c["p"].numpy(), c["n"].numpy(), t, excluded, c["up"].numpy()
    )
    (out.values * c["up"]).sum().backward()
    close(out.values, want.values, 1 / t)
    assert out.valid.tolist() == want.valid.tolist()
    close(q.grad, want.grad_anchors, 1 / t)
    close(p.grad, want.grad_positives, 1 / t)
    close(n.grad, want.grad_negatives, 1 / t)
    d = {name: float(value) for name, value in out.diagnostics.items()}
    assert d["masked_rows"] == (~want.valid).sum()
    assert abs(d["masked_fraction"] - excluded.mean()) < 1e-6
    rows = [i for i in range(len(want.valid)) if want.valid[i]]
    if rows:
        cosines = (c["q"] * c["p"]).sum(1)
        hardest = [
            max(float(c["q"][i] @ c["n"][j]) for j in oracle.allowed(excluded, i)) for i in rows
        ]
        assert abs(d["positive_cosine"] - float(cosines[rows].mean())) < 1e-9
        assert abs(d["hardest_negative_cosine"] - float(np.mean(hardest))) < 1e-9
        right = [float(cosines[i]) - h > 1e-12 for i, h in zip(rows, hardest, strict=True)]
        assert abs(d["accuracy"] - float(np.mean(right))) < 1e-6


@SETTINGS
@given(c=cases(), t=TEMPERATURES, grouped=st.booleans(), own=st.booleans(), data=st.data())
def test_info_nce_in_batch(
    c: dict[str, Tensor], t: float, grouped: bool, own: bool, data: st.DataObject
) -> None:
    q, n = leaf(c["q"]), leaf(c["n"])
    b, size = len(q), len(n)
    index = st.lists(st.integers(0, size - 1), min_size=b, max_size=b)
    positive = torch.tensor(data.draw(index))
    itself = torch.tensor(data.draw(index)) if own else None
    out = info_nce_in_batch(
        q, n, positive, temperature=t, exclude=c["mask"], self_index=itself,
        anchor_groups=c["gq"] if grouped else None, key_groups=c["gn"] if grouped else None,
    )  # fmt: skip
    excluded = c["mask"].numpy().copy()
    if grouped:
        excluded |= oracle.same_group(c["gq"].numpy(), c["gn"].numpy())
    for i in range(b):
        excluded[i, positive[i]] = True  # it stands in the numerator, not among the negatives
        if itself is not None:
            excluded[i, itself[i]] = True
    keys = c["n"].numpy()
    want = oracle.info_nce(
        c["q"].numpy(), keys[positive.numpy()], keys, t, excluded, c["up"].numpy()
    )
    grad_keys = want.grad_negatives.copy()
    for i in range(b):
        grad_keys[positive[i]] += want.grad_positives[i]
    (out.values * c["up"]).sum().backward()
    close(out.values, want.values, 1 / t)
    assert out.valid.tolist() == want.valid.tolist()
    close(q.grad, want.grad_anchors, 1 / t)
    close(n.grad, grad_keys, 1 / t)


@SETTINGS
@given(c=cases(), t=TEMPERATURES)
def test_nt_xent(c: dict[str, Tensor], t: float) -> None:
    z1, z2 = leaf(c["q"]), leaf(c["p"])
    b = len(z1)
    upstream = torch.cat([c["up"], c["up"].flip(0)])
    out = nt_xent(z1, z2, temperature=t)
    (out.values * upstream).sum().backward()
    keys = torch.cat([c["q"], c["p"]]).numpy()
    positive = [(i + b) % (2 * b) for i in range(2 * b)]
    excluded = np.eye(2 * b, dtype=bool)
    for i, j in enumerate(positive):
        excluded[i, j] = True
    want = oracle.info_nce(keys, keys[positive], keys, t, excluded, upstream.numpy())
    grad = want.grad_anchors + want.grad_negatives
    for i, j in enumerate(positive):
        grad[j] += want.grad_positives[i]
    close(out.values, want.values, 1 / t)
    assert z1.grad is not None
    assert z2.grad is not None
    close(torch.cat([z1.grad, z2.grad]), grad, 1 / t)
    assert out.valid.tolist() == [b > 1] * (2 * b)


def neighbour_options(c: dict[str, Tensor], own: bool, shuffled: bool) -> dict[str, Tensor | None]:
    return {
        "include_self": c["k"] if own else None,
        "values": c["u"][c["order"]] if shuffled else None,
    }


def oracle_options(c: dict[str, Tensor], own: bool, shuffled: bool) -> dict[str, np.ndarray | None]:
    options = neighbour_options(c, own, shuffled)
    rename = {"include_self": "self_keys", "values": "values"}
    return {rename[k]: None if v is None else v.numpy() for k, v in options.items()}


@SETTINGS
@given(c=cases(), t=TEMPERATURES, grouped=st.booleans(), own=st.booleans(), mixed=st.booleans())
def test_soft_nearest_neighbour(
    c: dict[str, Tensor], t: float, grouped: bool, own: bool, mixed: bool
) -> None:
    q = leaf(c["q"])
    groups = {
        "anchor_groups": c["gq"] if grouped else None,
        "support_groups": c["gu"] if grouped else None,
    }
    out = soft_nearest_neighbour(
        q, c["u"], temperature=t, **groups, **neighbour_options(c, own, mixed)
    )
    excluded = np.zeros((len(q), len(c["u"])), dtype=bool)
    if grouped:
        excluded = oracle.same_group(c["gq"].numpy(), c["gu"].numpy())
    want = oracle.soft_neighbour(
        c["q"].numpy(), c["u"].numpy(), t, excluded, c["vup"].numpy(),
        **oracle_options(c, own, mixed),
    )  # fmt: skip
    (out.neighbour * c["vup"]).sum().backward()
    close(out.mean, want.mean, 1e-3 / t)
    close(out.neighbour, want.neighbour, 1e-2 / t)
    close(out.entropy, want.entropy, 1 / t)
    assert q.grad is not None
    smallest = max(float(np.linalg.norm(want.mean, axis=1).min()), 1e-6)
    close(q.grad, want.grad_anchors, 1 / t / smallest)
    some = np.isfinite(want.log_sum_exp)
    assert out.valid.tolist() == (np.linalg.norm(want.neighbour, axis=1) > 0.5).tolist()
    np.testing.assert_allclose(
        out.log_sum_exp.detach().numpy()[some], want.log_sum_exp[some], rtol=1e-9, atol=1e-9
    )
    assert np.isneginf(out.log_sum_exp.detach().numpy()[~some]).all()
    weights = neighbour_weights(
        c["q"], c["u"], temperature=t, self_key=c["k"] if own else None,
        query_groups=groups["anchor_groups"], support_groups=groups["support_groups"],
    )  # fmt: skip
    close(weights, want.weights, 1e-3 / t)


@SETTINGS
@given(
    c=cases(), t=TEMPERATURES, tnn=TEMPERATURES,
    grouped=st.booleans(), own=st.booleans(), mixed=st.booleans(),
)  # fmt: skip
def test_cycle(
    c: dict[str, Tensor], t: float, tnn: float, grouped: bool, own: bool, mixed: bool
) -> None:
    q = leaf(c["q"])
    groups = {"anchor_groups": "gq", "support_groups": "gu", "negative_groups": "gn"}
    out = cycle(
        q, c["p"], c["u"], c["n"], temperature=t, neighbour_temperature=tnn,
        **{name: c[key] if grouped else None for name, key in groups.items()},
        **neighbour_options(c, own, mixed),
    )  # fmt: skip
    b = len(q)
    su, sn = np.zeros((b, len(c["u"])), dtype=bool), np.zeros((b, len(c["n"])), dtype=bool)
    if grouped:
        su = oracle.same_group(c["gq"].numpy(), c["gu"].numpy())
        sn = oracle.same_group(c["gq"].numpy(), c["gn"].numpy())
    values, valid, grad = oracle.cycle(
        c["q"].numpy(), c["p"].numpy(), c["u"].numpy(), c["n"].numpy(), t, tnn, su, sn,
        c["up"].numpy(), **oracle_options(c, own, mixed),
    )  # fmt: skip
    (out.values * c["up"]).sum().backward()
    scale = max(1.0, 1 / t) * max(1.0, 1 / tnn)
    close(out.values, values, scale)
    assert out.valid.tolist() == valid.tolist()
    close(q.grad, grad, scale * 100)
    assert float(out.diagnostics["masked_rows"]) == (~valid).sum()
