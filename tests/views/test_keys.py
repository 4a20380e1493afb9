from __future__ import annotations

import numpy as np
import torch

from rhyme.views import Keys, View, fork_seed, step_generator


def test_uniform_integers_normal_and_permutation_have_their_distributions():
    keys = Keys.of(1, 0, np.arange(20000))
    unit = keys.uniform("u")
    assert unit.shape == (20000,)
    assert abs(unit.mean() - 0.5) < 0.01
    assert abs(unit.var() - 1 / 12) < 0.005
    bounds = np.arange(20000) % 7 + 1
    drawn = keys.integers("i", bounds, 3)
    assert np.all((drawn >= 0) & (drawn < bounds[:, None]))
    assert set(drawn[bounds == 7].reshape(-1)) == set(range(7))
    normal = keys.normal("n", 2)
    assert np.abs(normal.mean(0)).max() < 0.03
    assert np.abs(normal.std(0) - 1).max() < 0.03
    assert abs(np.corrcoef(normal.T)[0, 1]) < 0.03
    orders = keys.permutation("p", 3)
    assert np.unique(orders, axis=0, return_counts=True)[1].min() > 3000


def test_neighbouring_ids_and_names_are_unrelated():
    keys = Keys.of(1, 0, np.arange(20000))
    unit = keys.uniform("u", 2)
    assert abs(np.corrcoef(unit[:-1, 0], unit[1:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(unit[:, 0], unit[:, 1])[0, 1]) < 0.03
    other = keys.within("scope").uniform("u", 2)
    assert abs(np.corrcoef(unit[:, 0], other[:, 0])[0, 1]) < 0.03


def test_step_generators_are_fresh_and_named():
    first = torch.rand(3, generator=step_generator(0, 5, "a"))
    assert torch.equal(first, torch.rand(3, generator=step_generator(0, 5, "a")))
    assert not torch.equal(first, torch.rand(3, generator=step_generator(0, 6, "a")))
    assert not torch.equal(first, torch.rand(3, generator=step_generator(0, 5, "b")))
    assert fork_seed(1, "data") != fork_seed(1, "model")


def test_rows_of_a_view_keep_their_parts_together():
    view = View(data=torch.arange(12.0).reshape(4, 3), kind="array", valid=torch.ones(4, 3).bool())
    part = view[1:3]
    assert part.kind == "array"
    assert part.data.tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    assert part.valid.shape == (2, 3)
    assert part.times is None


def test_ids_of_a_list_keep_their_bits() -> None:
    """NumPy makes floats of a list that mixes small and large ones."""
    ids = [1, 2**63 + 5, 2**64 + 3, -1]
    assert Keys.of(0, 0, ids).ids.tolist() == [1, 2**63 + 5, 3, 2**64 - 1]
    assert Keys.of(0, 0, range(3)).ids.tolist() == [0, 1, 2]
