from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import Affinity, Window, propagate, search, window, windowed_affinity


def by_loops(
    query: np.ndarray, context: np.ndarray, k: int, tau: float, view: Window | None, whole: set[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every query against every key that it may see, in float64."""
    t, h, w, _ = context.shape
    scores = np.full((h, w, k), -np.inf)
    indices = np.full((h, w, k), -1)
    for y in range(h):
        for x in range(w):
            seen = []
            for f in range(t):
                for v in range(h):
                    for u in range(w):
                        if view is not None and f not in whole:
                            disk = view.shape == "disk"
                            far = math.hypot(v - y, u - x) if disk else max(abs(v - y), abs(u - x))
                            if far > view.radius or (far == view.radius and not view.inclusive):
                                continue
                        value = float(query[y, x].astype(float) @ context[f, v, u].astype(float))
                        seen.append((-value, (f * h + v) * w + u))
            for place, (value, index) in enumerate(sorted(seen)[:k]):
                scores[y, x, place], indices[y, x, place] = -value, index
    weights = np.exp((scores - scores[..., :1]) / tau)
    return scores, indices, weights / weights.sum(-1, keepdims=True)


views = st.builds(
    Window,
    radius=st.sampled_from([0.5, 1.0, 1.5, 2.0, math.sqrt(5), 3.0, 50.0]),
    shape=st.sampled_from(["disk", "square"]),
    inclusive=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    t=st.integers(1, 4), h=st.integers(1, 6), w=st.integers(1, 7), d=st.integers(1, 3),
    k=st.integers(1, 12), view=st.none() | views, whole=st.sets(st.integers(0, 3)),
    tile=st.integers(1, 4), ties=st.booleans(), seed=st.integers(0, 9999),
)  # fmt: skip
def test_equals_loops_whatever_the_tiles(
    t: int, h: int, w: int, d: int, k: int, view: Window | None, whole: set[int], tile: int,
    ties: bool, seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    top = 2 if ties else 50  # small integers: exact products
    query = torch.randint(-top, top, (h, w, d), generator=generator).float()
    context = torch.randint(-top, top, (t, h, w, d), generator=generator).float()
    whole = {f for f in whole if f < t}
    found = windowed_affinity(
        query, context, k, temperature=3.0, window=view, whole=sorted(whole), tile=tile
    )
    scores, indices, weights = by_loops(query.numpy(), context.numpy(), k, 3.0, view, whole)
    assert found.scores.tolist() == scores.tolist()
    assert found.indices.tolist() == indices.tolist()
    assert np.allclose(found.weights, weights, atol=1e-6)


@pytest.mark.parametrize("route", ["cpu", "gpu"])
@pytest.mark.parametrize("whole", [[], [0], [1], [0, 1, 2, 3, 4]])
def test_both_routes_equal_the_dense_form_on_a_larger_grid(
    route: str, whole: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    t, h, w, d = 5, 21, 30, 8
    shared = torch.randn(h, w, d, generator=generator)
    context = functional.normalize(shared + torch.randn(t, h, w, d, generator=generator), dim=-1)
    query = functional.normalize(shared, dim=-1)
    took: list[bool] = []
    choose_few = window._choose_few

    def few(*args: Any) -> Any:
        chosen = choose_few(*args) if route == "cpu" else None
        took.append(chosen is not None)
        return chosen

    monkeypatch.setattr(window, "_choose_few", few)
    if route == "gpu":
        monkeypatch.setattr(window, "largest", search.largest_by_key)
    found = windowed_affinity(query, context, 6, temperature=0.05, window=Window(5), whole=whole)
    assert all(took) if route == "cpu" else not any(took)
    scores = (query.view(-1, d) @ context.view(-1, d).T).view(-1, t, h * w)
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
    far = torch.cdist(place.view(-1, 2).float(), place.view(-1, 2).float()) >= 5
    for f in set(range(t)) - set(whole):
        scores[:, f].masked_fill_(far, -1e10)
    values, indices = scores.view(h * w, -1).topk(6)
    assert torch.equal(found.indices.view(-1, 6), indices)
    assert torch.allclose(found.scores.view(-1, 6), values, atol=1e-6)
    assert torch.allclose(found.weights.view(-1, 6), torch.softmax(values / 0.05, 1), atol=1e-5)


def test_the_same_ten_keys_as_the_dense_form_at_480_rows() -> None:
    """A 480p frame in cells of eight pixels; whole numbers, so that equal scores are equal."""
    generator = torch.Generator().manual_seed(4)
    h, w, t = 60, 107, 2
    query = torch.randint(-3, 4, (h, w, 16), generator=generator).float()
    context = torch.randint(-3, 4, (t, h, w, 16), generator=generator).float()
    found = windowed_affinity(query, context, 10, temperature=1.0, window=Window(12), whole=[0])
    y, x = torch.arange(h), torch.arange(w)
    order = torch.arange(t * h * w)  # of equal scores the first one: below half a score in all
    for row in range(0, h, 7):  # whole rows of queries, the first and the last but three
        scores = torch.einsum("xd,tvud->xtvu", query[row], context)
        near = (y - row)[:, None] ** 2 + (x[:, None, None] - x) ** 2 < 12**2
        scores[:, 1:] = scores[:, 1:].masked_fill(~near[:, None], -torch.inf)
        keys = scores.flatten(1).double() - order / (2 * len(order))
        assert torch.equal(found.indices[row], keys.topk(10, dim=1).indices)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def masks(t: int, h: int, w: int, c: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.softmax(torch.randn(t, h, w, c, generator=generator) * 3, -1)


def test_identical_frames_return_the_first_mask() -> None:
    frame = unit(9, 11, 32)
    labels = masks(1, 9, 11, 4)
    hard = functional.one_hot(labels.argmax(-1), 4).float()
    context = frame.expand(4, -1, -1, -1)
    found = windowed_affinity(frame, context, 10, temperature=0.05, window=Window(4), whole=[0])
    assert torch.equal(found.indices[..., 0].flatten(), torch.arange(99))
    moved = propagate(hard.expand(4, -1, -1, -1), found)
    assert torch.equal(moved.argmax(-1), hard[0].argmax(-1))
    copied = windowed_affinity(frame, context, 1, temperature=0.05, window=Window(4))
    assert torch.equal(propagate(labels.expand(4, -1, -1, -1), copied), labels[0])


def test_constant_features_give_the_mean_over_the_disk() -> None:
    h, w = 7, 8
    frame = torch.ones(h, w, 3)
    labels = masks(1, h, w, 2)
    found = windowed_affinity(frame, frame[None], h * w, temperature=0.05, window=Window(2.5))
    moved = propagate(labels, found)
    for y, x in ((0, 0), (3, 4), (6, 7), (0, 5)):
        inside = [
            labels[0, v, u] for v in range(h) for u in range(w) if math.hypot(v - y, u - x) < 2.5
        ]
        assert torch.allclose(moved[y, x], torch.stack(inside).mean(0), atol=1e-6)


def test_channels_keep_their_sum_and_a_small_radius_forbids_movement() -> None:
    labels = masks(3, 8, 9, 5)
    query, context = unit(8, 9, 4), unit(3, 8, 9, 4, seed=2)
    found = windowed_affinity(query, context, 10, temperature=0.07, window=Window(3))
    assert torch.allclose(propagate(labels, found).sum(-1), torch.ones(8, 9), atol=1e-6)
    still = windowed_affinity(query, context, 10, temperature=0.07, window=Window(0.5))
    own = torch.arange(72).view(8, 9, 1)
    assert torch.equal(
        still.indices[..., :3].sort(-1)[0] - own, torch.tensor([0, 72, 144]).expand(8, 9, 3)
    )
    assert (still.indices[..., 3:] == -1).all()
    assert (still.weights[..., 3:] == 0).all()


def test_a_repeated_frame_competes_as_often_as_it_stands_in_the_context() -> None:
    query, context = unit(6, 6, 8), unit(2, 6, 6, 8, seed=3)
    repeated = context[[0, 0, 0, 1]]
    found = windowed_affinity(query, repeated, 6, temperature=0.1, window=Window(3))
    best = found.indices[..., 0]
    once = windowed_affinity(query, context, 1, temperature=0.1, window=Window(3)).indices[..., 0]
    first = once < 36
    assert first.any()
    assert torch.equal(best[first], once[first])
    for place in (1, 2):  # the copies follow in the order of frames
        assert torch.equal(found.indices[..., place][first], once[first] + 36 * place)


def test_no_copy_is_made_of_frames_that_lie_place_by_place() -> None:
    by_place = unit(40, 50, 6, 16)
    context, query = by_place.permute(2, 0, 1, 3), unit(40, 50, 16, seed=1)

    def most(view: Tensor) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            windowed_affinity(query, view, 5, temperature=0.1, window=Window(3))
        return max(event.cpu_memory_usage for event in profile.events())

    assert most(context) < context.nbytes / 2
    assert most(context.contiguous()) >= context.nbytes
    dense = 40 * 50 * 6 * 40 * 50 * 4
    assert most(context.contiguous()) < dense / 50
    found = windowed_affinity(query, context, 5, temperature=0.1, window=Window(3))
    again = windowed_affinity(query, context.contiguous(), 5, temperature=0.1, window=Window(3))
    assert torch.equal(found.indices, again.indices)


def test_half_precision_is_computed_in_float32() -> None:
    query, context = unit(5, 6, 8).half(), unit(2, 5, 6, 8, seed=1).bfloat16()
    found = windowed_affinity(query, context, 4, temperature=0.1, window=Window(3), whole=[1])
    exact = windowed_affinity(
        query.float(), context.float(), 4, temperature=0.1, window=Window(3), whole=[1]
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert torch.equal(mine, theirs)
    assert found.scores.dtype == torch.float32
    wide = windowed_affinity(query, context.double(), 4, temperature=0.1, window=None)
    assert wide.scores.dtype == torch.float64
    labels = functional.one_hot(torch.arange(60).view(2, 5, 6) % 3)
    assert propagate(labels, found).dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "context", "context by place"])
@pytest.mark.parametrize("window", [Window(2), None])
@pytest.mark.parametrize("k", [3, 40])
def test_features_that_are_no_numbers_are_refused(
    value: float, where: str, window: Window | None, k: int
) -> None:
    """None is left out in silence: a score of −inf would be a missing key, two of inf a NaN."""
    query, context = unit(20, 21, 4).abs(), unit(2, 20, 21, 4, seed=1).abs()
    if where == "context by place":
        context = context.permute(1, 2, 0, 3).contiguous().permute(2, 0, 1, 3)
    (query if where == "query" else context[1])[19, 20, 3] = value
    with pytest.raises(DataError, match="NaN or infinite") as told:
        windowed_affinity(query, context, k, temperature=0.1, window=window)
    seen = told.value.value[0 if where == "query" else 1]  # type: ignore[index]
    assert not math.isfinite(seen)


def test_features_whose_products_overflow_are_refused() -> None:
    query, context = unit(4, 5, 3), unit(2, 4, 5, 3)
    given: dict[str, Any] = {"temperature": 0.1, "window": Window(2)}
    right = windowed_affinity(query, context, 5, **given)
    fine = windowed_affinity(query * 2.0**60, context * 2.0**60, 5, **given)
    assert torch.equal(fine.indices, right.indices)
    assert torch.equal(fine.scores, right.scores * 2.0**120)
    with pytest.raises(DataError, match="infinite") as told:
        windowed_affinity(query * 1e20, context * 1e20, 5, **given)
    assert told.value.value[0] == pytest.approx(1e20 * float(query.abs().max()))  # type: ignore[index]
    wide = windowed_affinity(query.double() * 1e20, context.double() * 1e20, 5, **given)
    assert wide.scores.isfinite().any()


def test_what_does_not_fit_is_refused() -> None:
    query, context = unit(4, 5, 3), unit(2, 4, 5, 3)
    given: dict[str, Any] = {"temperature": 0.1, "window": Window(2)}
    with pytest.raises(DataError, match="no context"):
        windowed_affinity(query, context[:0], 3, **given)
    with pytest.raises(DataError, match="same grid"):
        windowed_affinity(query, context[:, :3], 3, **given)
    with pytest.raises(ConfigError, match="at least 1"):
        windowed_affinity(query, context, 0, **given)
    with pytest.raises(ConfigError, match="temperature"):
        windowed_affinity(query, context, 3, temperature=0.0, window=None)
    with pytest.raises(ConfigError, match="not in the context"):
        windowed_affinity(query, context, 3, whole=[2], **given)
    with pytest.raises(ConfigError, match="radius"):
        Window(0)
    found: Affinity = windowed_affinity(query, context[:1], 3, **given)
    with pytest.raises(DataError, match="grid"):
        propagate(torch.zeros(1, 5, 4, 2), found)
    far = windowed_affinity(query, context[[0, 0]], 30, **given)
    with pytest.raises(DataError, match="without labels"):
        propagate(torch.zeros(1, 4, 5, 2), far)
