"""The invariants of MoCo: queue, momentum, shuffle-BN, and its place inside CycleContrast."""

import math

import pytest
import torch

from rhyme.encoders import HEAD_PRESETS, BackboneConfig
from rhyme.errors import ConfigError
from rhyme.systems.cycle_contrast import CycleContrast
from rhyme.systems.moco import Moco, MocoConfig
from support.tiny_systems import TINY, at, make_batch, setup


def test_equal_features_give_the_logarithm_of_the_queue(build) -> None:
    system = build("moco", mask_same_group=False)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.zero_()
        for name, parameter in system.named_parameters():
            if ".heads.m." in name and name.endswith("bias"):
                parameter.fill_(1.0)
    system.queue.features.copy_(torch.full((24, 8), 8**-0.5, dtype=torch.float64))
    loss = system.training_step(make_batch(), at(0)).loss.detach()
    assert math.isclose(float(loss), math.log(25), rel_tol=1e-12)


def test_the_copy_is_a_running_average_of_the_parameters(build) -> None:
    system = build("moco")
    online = list(system.encoders.online.parameters())
    copied = list(system.encoders.momentum.parameters())
    start = [p.detach().clone() for p in copied]
    assert all(torch.equal(a, b) for a, b in zip(online, copied, strict=True))
    with torch.no_grad():
        for p in online:
            p.add_(1.0)
    for step in range(3):
        system.training_step(make_batch(seed=step), at(step))
        system.after_step(True)
    for begun, now, goal in zip(start, copied, online, strict=True):
        expected = 0.9**3 * begun + (1 - 0.9**3) * goal
        assert torch.allclose(now, expected, atol=1e-7)


def test_the_copy_keeps_its_own_running_statistics(build) -> None:
    system = build("moco")
    batch = make_batch()
    shifted = make_batch(seed=3)
    batch.views["key"].data.copy_(shifted.views["key"].data * 5 + 2)
    system.training_step(batch, at(0))
    pairs = zip(system.encoders.online.buffers(), system.encoders.momentum.buffers(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_shuffling_changes_nothing_without_batch_statistics(build) -> None:
    """With batch norm in evaluation mode, groups and their shuffling are invisible."""
    plain = build("moco")
    grouped = Moco(
        MocoConfig(
            backbone=BackboneConfig(name="small", widths=TINY.widths, norm_groups=3),
            head=plain.config.head,
            queue=24,
        )
    ).double()
    grouped.load_state_dict(plain.state_dict())
    frames = make_batch().views["key"].data
    for system in (plain, grouped):
        system.eval()
    first, second = (s.encoders.keys(frames, at(0).generator("x"))["m"] for s in (plain, grouped))
    assert torch.allclose(first, second, atol=1e-12)
    for system in (plain, grouped):
        system.train()
    first, second = (s.encoders.keys(frames, at(0).generator("x"))["m"] for s in (plain, grouped))
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_video_positive_is_the_intra_term_of_cycle_contrast(build) -> None:
    moco = build("moco", positive="video", mask_same_group=False)
    cycle: CycleContrast = build("cycle_contrast", cycle_weight=0.0, mask_same_group=False)
    state = {
        k: v for k, v in cycle.state_dict().items() if "heads.c" not in k and "cycle_queue" not in k
    }
    moco.load_state_dict(state)
    batch = make_batch()
    assert torch.equal(
        moco.training_step(batch, at(0)).loss, cycle.training_step(batch, at(0)).loss
    )


def test_the_image_positive_ignores_the_other_frame(build) -> None:
    system = build("moco")
    assert set(system.plans()["train"].views) == {"query", "key"}
    with pytest.raises(ConfigError, match="exclude_query_frame"):
        build("moco", exclude_query_frame=True)
    video = build("moco", positive="video", exclude_query_frame=True)
    assert set(video.plans()["train"].views) == {"query", "key", "candidate"}


def test_version_one_has_a_single_layer_head() -> None:
    config = MocoConfig(backbone=TINY, head=HEAD_PRESETS["moco_v1"], temperature=0.07, queue=16)
    head = Moco(config).encoders.online.head("m")
    assert sum(isinstance(m, torch.nn.Linear) for m in head.modules()) == 1
    assert head.out_dim == 128


def test_the_initial_loss_against_a_random_queue(build) -> None:
    """Two equal views: positive cosine 1 against random directions in 128 dimensions."""
    torch.manual_seed(0)
    config = MocoConfig(backbone=TINY, queue=65536, temperature=0.2, mask_same_group=False)
    system = Moco(config).eval()
    batch = make_batch(items=16, dtype=torch.float32)
    batch.views["key"].data.copy_(batch.views["query"].data)
    output = system.training_step(batch, at(0))
    assert abs(float(output.diagnostics["positive_cosine"]) - 1) < 1e-5
    assert abs(output.loss.item() - 6.19) < 0.1


def test_the_mask_is_automatic(build) -> None:
    assert setup(build("moco"), 239).mask_same_group
    assert not setup(build("moco"), 240).mask_same_group


def test_no_gradient_reaches_keys_and_queue(build) -> None:
    system = build("moco")
    system.training_step(make_batch(), at(0)).loss.backward()
    assert all(p.grad is None for p in system.encoders.momentum.parameters())
    assert not system.queue.features.requires_grad
    assert all(p.grad is not None for p in system.encoders.online.parameters())


def test_a_batch_is_no_negative_of_itself_and_then_in_the_queue(build) -> None:
    system = build("moco", mask_same_group=False)
    before = system.queue.features.clone()
    batch = make_batch()
    system.training_step(batch, at(0))
    assert torch.equal(system.queue.features, before), "the loss is taken before the keys enter"
    keys = system._fresh[0].clone()
    system.after_step(True)
    assert torch.equal(system.queue.features[:6], keys)
    assert torch.equal(system.queue.features[6:], before[6:])
    for step in range(1, 4):
        system.training_step(make_batch(seed=step), at(step))
        system.after_step(True)
    assert int(system.queue.pointer) == 0, "24 places take four batches of six"
    assert not (system.queue.features[:, None] == before[None]).all(-1).any(), "all are new"


def test_a_step_that_does_not_count_leaves_the_memory(build) -> None:
    system = build("moco")
    before = {name: value.clone() for name, value in system.queue.state_dict().items()}
    system.training_step(make_batch(), at(0))
    system.after_step(False)
    after = system.queue.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def others_matter(system: Moco, row: int) -> set[int]:
    """Rows whose picture changes the key of ``row``: those that share its statistics."""
    frames = make_batch(items=8).views["key"].data

    def key(changed: int | None) -> torch.Tensor:
        pixels = frames.clone()
        if changed is not None:
            pixels[changed] += 1.0
        return system.encoders.keys(pixels, at(0).generator("shuffle"))["m"][row, 0]

    alone = key(None)
    return {i for i in range(8) if i != row and not torch.allclose(key(i), alone, atol=1e-9)}


def test_only_shuffling_separates_the_groups_of_queries_and_keys(build) -> None:
    """On one rank too: without it the neighbours of a query's group are those of its key."""
    grouped = BackboneConfig(name="small", widths=TINY.widths, norm_groups=4)
    plain = build("moco", backbone=grouped, shuffle=False)
    assert [others_matter(plain, row) for row in (0, 5)] == [{1}, {4}]
    shuffled = build("moco", backbone=grouped)
    partners = [others_matter(shuffled, row) for row in range(8)]
    assert all(len(found) == 1 for found in partners)
    assert partners != [{row ^ 1} for row in range(8)]
    together = build("moco", shuffle=False)
    assert others_matter(together, 0) == set(range(1, 8)), "one group is synchronised batch norm"


@pytest.mark.parametrize(
    ("groups", "shuffle", "told"),
    [
        (1, True, "none (norm_groups 1)"),
        (1, False, "none (norm_groups 1)"),
        (4, True, "local, 4 groups"),
        (4, False, "none (turned off, 4 groups)"),
    ],
)
def test_the_shuffle_that_is_active_is_told(build, groups, shuffle, told) -> None:
    grouped = BackboneConfig(name="small", widths=TINY.widths, norm_groups=groups)
    assert build("moco", backbone=grouped, shuffle=shuffle).encoders.shuffle_told == told


def test_the_loss_rises_before_it_falls(build) -> None:
    """Random negatives are easy; the keys of an untrained encoder, all alike, are not."""
    system = build("moco", mask_same_group=False)
    optimizer = torch.optim.SGD(system.encoders.online.parameters(), lr=0.05)
    losses = []
    for step in range(60):
        output = system.training_step(make_batch(seed=step % 5), at(step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        system.after_step(True)
        losses.append(output.loss.item())
    assert losses[4] > losses[0]
    assert min(losses[20:]) < max(losses[:20])
