from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import ConfigError, DataError
from rhyme.memory import BatchShuffle, FeatureQueue, MomentumEncoder


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(n: int, d: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(n, d, generator=seeded(seed)), dim=1)


# ---- queue


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 9),
    batches=st.lists(st.integers(0, 20), min_size=0, max_size=8),
    init=st.sampled_from(["random", "empty"]),
)
def test_a_queue_is_a_list_that_wraps_around(size: int, batches: list[int], init: str) -> None:
    queue = FeatureQueue(size, 3, init=init, generator=seeded(0))  # type: ignore[arg-type]
    slots: list[tuple[list[float], int]] = [(row, -1) for row in queue.features.tolist()]
    pointer = written = number = 0
    for batch in batches:
        keys = unit(batch, 3, seed=number)
        owners = torch.arange(number, number + batch)
        queue.enqueue(keys, owners)
        for row, owner in zip(keys.tolist(), owners.tolist(), strict=True):
            slots[pointer] = (row, owner)
            pointer = (pointer + 1) % size
            written = min(written + 1, size)
        number += batch
    assert queue.features.tolist() == [s[0] for s in slots]
    assert queue.owners.tolist() == [s[1] for s in slots]
    assert int(queue.pointer) == pointer
    assert queue.filled == written
    features, owners = queue.entries(only_filled=True)
    assert features.tolist() == [s[0] for s in slots[:written]]
    assert owners.tolist() == [s[1] for s in slots[:written]]
    assert len(queue.entries()[0]) == (written if init == "empty" else size)
    assert len(queue.entries(only_filled=False)[1]) == size


def test_after_k_over_b_steps_every_slot_is_new_and_the_pointer_back() -> None:
    queue = FeatureQueue(12, 4, generator=seeded(1))
    assert torch.allclose(queue.features.norm(dim=1), torch.ones(12))
    before = queue.features.clone()
    kept = []
    for step in range(3):
        kept.append(unit(4, 4, seed=step))
        queue.enqueue(kept[-1], torch.full((4,), step))
    assert torch.equal(queue.features, torch.cat(kept))
    assert not (queue.features == before).all(1).any()
    assert int(queue.pointer) == 0
    queue.enqueue(unit(4, 4, seed=9), torch.full((4,), 3))
    assert sorted(set(queue.owners.tolist())) == [1, 2, 3]  # K/B steps old at most


def test_a_queue_has_no_gradient_and_is_resumed_from_its_state() -> None:
    queue = FeatureQueue(5, 2, generator=seeded(0))
    queue.enqueue(unit(3, 2).requires_grad_(), torch.arange(3))
    assert not queue.features.requires_grad
    assert not list(queue.parameters())
    other = FeatureQueue(5, 2, generator=seeded(7))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(unit(4, 2, seed=5), torch.arange(4))
    for name, value in queue.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    half = FeatureQueue(2, 2)
    half.enqueue(torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16))
    assert half.owners.tolist() == [-1, -1]
    assert half.features[0].tolist() == [0.5, 0.5]


def test_enqueue_before_the_backward_pass_is_noticed() -> None:
    queue = FeatureQueue(4, 2)
    q = unit(2, 2).requires_grad_()
    loss = (q @ queue.features.T).exp().sum()
    queue.enqueue(unit(2, 2, seed=1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_queue_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError):
        FeatureQueue(0, 2)
    with pytest.raises(ConfigError):
        FeatureQueue(2, 2, init="ones")  # type: ignore[arg-type]
    queue = FeatureQueue(4, 2)
    with pytest.raises(DataError, match="keys"):
        queue.enqueue(torch.zeros(2, 3))
    with pytest.raises(DataError, match="owners"):
        queue.enqueue(torch.zeros(2, 2), torch.zeros(3))


def queue_on_rank(n: int) -> dict[str, Tensor]:
    queue = FeatureQueue(7, 3, generator=seeded(0))
    for step in range(3):
        rows = distributed.rank_slice(n)
        queue.enqueue(unit(n, 3, seed=step)[rows], torch.arange(n)[rows] + 100 * step)
    return dict(queue.state_dict())


def test_all_ranks_hold_the_queue_of_one_process() -> None:
    alone = queue_on_rank(4)
    for state in run_on_ranks(queue_on_rank, 2, 4):
        assert state.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(state[name], value), name


# ---- momentum encoder


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_the_average_follows_its_closed_form() -> None:
    online = net().double()
    key = MomentumEncoder(online, 0.9)
    start = [p.clone() for p in key.module.parameters()]
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.5)
    for _ in range(7):
        key.update()
    m = 0.9**7
    pairs = zip(key.module.parameters(), start, online.parameters(), strict=True)
    for mine, first, theirs in pairs:
        assert torch.allclose(mine, m * first + (1 - m) * theirs, rtol=0, atol=1e-12)
    single = MomentumEncoder(net(1), 0.999)
    first = [p.clone() for p in single.module.parameters()]
    with torch.no_grad():
        for p in single.online.parameters():
            p.mul_(3).add_(1)
    single.update()
    for mine, old, theirs in zip(
        single.module.parameters(), first, single.online.parameters(), strict=True
    ):
        assert torch.allclose(mine, 0.999 * old + 0.001 * theirs, rtol=0, atol=1e-7)


def test_without_movement_the_copy_stays_equal_bit_for_bit() -> None:
    key = MomentumEncoder(net(), 0.99)
    for _ in range(5):
        key.update()
    for mine, theirs in zip(key.module.parameters(), key.online.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert key.parameter_distance() == 0
    x = torch.randn(6, 3)
    assert torch.equal(key.eval()(x), key.online.eval()(x))


def test_momentum_0_copies_and_1_stays_and_a_schedule_overrides() -> None:
    key = MomentumEncoder(net(), 1.0)
    before = [p.clone() for p in key.module.parameters()]
    with torch.no_grad():
        for p in key.online.parameters():
            p.add_(1)
    assert key.parameter_distance() > 0.1
    key.update()
    assert all(torch.equal(a, b) for a, b in zip(key.module.parameters(), before, strict=True))
    key.update(momentum=0.0)
    assert key.parameter_distance() < 1e-6
    with pytest.raises(ConfigError):
        key.update(momentum=1.5)
    with pytest.raises(ConfigError):
        MomentumEncoder(net(), -0.1)
    with pytest.raises(ConfigError):
        MomentumEncoder(net(), 0.9, buffers="mixed")  # type: ignore[arg-type]


def test_distance_is_relative_to_the_online_parameters() -> None:
    key = MomentumEncoder(net(), 0.9)
    with torch.no_grad():
        for p in key.module.parameters():
            p.mul_(0.75)
    assert torch.allclose(key.parameter_distance(), torch.tensor(0.25), atol=1e-6)


@pytest.mark.parametrize("buffers", ["own", "copied"])
def test_batch_norm_statistics_are_never_averaged(buffers: str) -> None:
    online = net()
    key = MomentumEncoder(online, 0.5, buffers=buffers)  # type: ignore[arg-type]
    x = torch.randn(16, 3) + 2
    online(x)
    mean_of = lambda module: module[1].running_mean.clone()  # noqa: E731
    theirs, mine = mean_of(online), mean_of(key.module)
    assert not torch.equal(theirs, mine)
    key.update()
    assert torch.equal(mean_of(key.module), mine if buffers == "own" else theirs)
    key(x - 4)  # its own forward pass in train mode moves its own statistics
    assert not torch.equal(mean_of(key.module), mine if buffers == "own" else theirs)
    key.eval()
    frozen = mean_of(key.module)
    key(x)
    assert torch.equal(mean_of(key.module), frozen)
    assert torch.equal(mean_of(online), theirs)


def test_the_copy_has_no_gradient_and_its_own_state() -> None:
    system = nn.Module()
    system.online = net()
    system.key = MomentumEncoder(system.online, 0.9)
    assert not any(p.requires_grad for p in system.key.parameters())
    assert all(p.requires_grad for p in system.online.parameters())
    assert not system.key(torch.randn(4, 3, requires_grad=True)).requires_grad
    names = set(system.state_dict())
    assert {n for n in names if n.startswith("key.")} == {
        f"key.module.{n}" for n in system.online.state_dict()
    }
    twin = copy.deepcopy(system)
    assert twin.key.online is twin.online
    with torch.no_grad():
        for p in system.online.parameters():
            p.add_(1)
    system.online(torch.randn(8, 3))
    system.key.reset()
    for name, value in system.online.state_dict().items():
        assert torch.equal(system.key.module.state_dict()[name], value), name


# ---- shuffle


def test_restore_undoes_shuffle_and_groups_are_mixed() -> None:
    shuffle = BatchShuffle(4)
    assert shuffle.backend == "local"
    x = torch.arange(32).reshape(32, 1).expand(32, 3)
    shuffled, restore = shuffle.shuffle(x, generator=seeded(0))
    assert not torch.equal(shuffled, x)
    assert sorted(shuffled[:, 0].tolist()) == list(range(32))
    assert torch.equal(restore(shuffled), x)
    assert torch.equal(restore(shuffled[:, 0] * 2), x[:, 0] * 2)
    groups = shuffled[:, 0].reshape(4, 8) // 8
    assert all(len(set(row.tolist())) > 1 for row in groups)  # no group kept its members
    again, _ = shuffle.shuffle(x, generator=seeded(0))
    other, _ = shuffle.shuffle(x, generator=seeded(1))
    assert torch.equal(again, shuffled)
    assert not torch.equal(other, shuffled)
    with pytest.raises(DataError, match="rows were lost"):
        restore(shuffled[:-1])


def test_one_group_needs_no_shuffle() -> None:
    shuffle = BatchShuffle(1)
    x = torch.randn(4, 2)
    shuffled, restore = shuffle.shuffle(x, generator=seeded(0))
    assert shuffle.backend == "none"
    assert torch.equal(shuffled, x)
    assert torch.equal(restore(x), x)
    with pytest.raises(ConfigError):
        BatchShuffle(0)


def test_shuffle_changes_nothing_when_rows_are_independent() -> None:
    """World size 1 with batch norm in eval mode: shuffled and unshuffled output agree."""
    encoder = net().eval()
    x = torch.randn(12, 3)
    shuffled, restore = BatchShuffle(3).shuffle(x, generator=seeded(0))
    assert torch.allclose(restore(encoder(shuffled)), encoder(x), atol=1e-6)


def grouped_statistics(n: int, groups: int) -> tuple[str, Tensor, Tensor, Tensor | None]:
    """Normalise in groups of the shuffled global batch: output and gradient of the local rows."""
    rows = distributed.rank_slice(n)
    x = torch.randn(n, 3, generator=seeded(4), dtype=torch.float64)[rows].requires_grad_()
    shuffle = BatchShuffle(groups)
    shuffled, restore = shuffle.shuffle(x, generator=seeded(5))
    local = shuffled.reshape(groups // distributed.world_size(), -1, 3)
    y = restore((local - local.mean(1, keepdim=True)).flatten(0, 1))
    weight = torch.randn(n, 3, generator=seeded(6), dtype=torch.float64)[rows]
    (y * weight).sum().backward()
    return shuffle.backend, shuffled.detach(), y.detach(), x.grad


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_shuffle_the_global_batch_as_one_process_does(world: int) -> None:
    _, shuffled, y, grad = grouped_statistics(8, 4)
    results = run_on_ranks(grouped_statistics, world, 8, 4)
    assert {r[0] for r in results} == {"distributed"}
    assert torch.equal(torch.cat([r[1] for r in results]), shuffled)
    assert torch.allclose(torch.cat([r[2] for r in results]), y, rtol=0, atol=1e-12)
    assert grad is not None
    assert torch.allclose(torch.cat([r[3] for r in results]), grad, rtol=0, atol=1e-12)
