"""The invariants of VFS: pairs, sampling, stop-gradient, collapse, and the form with negatives."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from rhyme.encoders import HEAD_PRESETS, HeadConfig
from rhyme.errors import ConfigError
from rhyme.objectives import info_nce
from rhyme.systems.vfs import VFSConfig
from rhyme.training import CollapseAlarm, TrainConfig
from rhyme.training.monitors import watch
from rhyme.views import Keys, View
from support.tiny_systems import TINY, at, batch_for, setup

IDENTITY = HeadConfig(layers=0, out=0, normalise=False)
PROJECTOR = HeadConfig(layers=2, out=16, hidden_norm=True, last_norm=True, normalise=False)
PREDICTOR = HeadConfig(layers=2, out=0, hidden=8, hidden_norm=True, normalise=False)


@dataclasses.dataclass
class Items:
    """Facts of made-up videos of ten frames a second."""

    frames: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.frames)
        self.id = np.arange(n, dtype=np.uint64)
        self.start, self.stop = np.zeros(n), self.frames / 10
        self.fps = np.full(n, 10.0)
        self.width = self.height = np.full(n, 64)
        self.group = np.arange(n)


def drawn(plan, counts: list[int], epoch: int = 0) -> np.ndarray:
    facts = Items(np.array(counts))
    return plan.draw(facts, Keys.of(0, epoch, facts.id)).clips["a"].index


@pytest.mark.parametrize("frames", [2, 8])
def test_frames_come_from_equal_parts_of_the_whole_video(build, frames) -> None:
    plan = build("vfs", frames=frames).plans()["train"]
    part = 400 // frames
    index = np.concatenate([drawn(plan, [400] * 50, epoch) for epoch in range(10)])
    assert (index // part == np.arange(frames)).all(), "one in each part, in order"
    places = index % part
    assert places.min() < 0.1 * part
    assert places.max() >= 0.9 * part
    gaps = index[:, frames // 2] - index[:, 0]
    assert gaps.mean() == pytest.approx(200, rel=0.1), "half a video apart"


def test_a_short_video_begins_again(build) -> None:
    plan = build("vfs", frames=8).plans()["train"]
    assert drawn(plan, [3]).tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]


def test_neighbours_are_an_option(build) -> None:
    plan = build("vfs", frames=4, stride=2).plans()["train"]
    assert (np.diff(drawn(plan, [100] * 20)) == 2).all()


def test_equal_frames_under_an_identity_predictor_have_no_distance(build) -> None:
    system = build("vfs", frames=4, predictor=IDENTITY, projector=PROJECTOR).eval()
    batch = batch_for(system)
    batch.views["frames"].data.copy_(batch.views["frames"].data[:, :1])
    output = system.training_step(batch, at(0))
    assert abs(float(output.loss.detach())) < 1e-12
    assert math.isclose(float(output.diagnostics["projection_cosine"]), 1, abs_tol=1e-12)


def test_all_pairs_of_both_halves_are_compared_both_ways(build) -> None:
    system = build("vfs", frames=6, projector=PROJECTOR, predictor=PREDICTOR)
    batch = batch_for(system)
    made = system.embed(batch, at(0))
    p, z = made["p"].detach(), made["z"].detach()
    total, pairs = 0.0, 0
    for item in range(6):
        for i in range(3):
            for j in range(3, 6):
                forth = 2 - 2 * float(p[item, i] @ z[item, j])
                back = 2 - 2 * float(p[item, j] @ z[item, i])
                total += forth / 2 + back / 2
                pairs += 1
    assert pairs == 6 * 9
    found = system.loss(made, batch, at(0)).loss.detach()
    assert math.isclose(float(found), total / pairs, rel_tol=1e-12)


def test_targets_carry_no_gradient(build) -> None:
    system = build("vfs", projector=PROJECTOR, predictor=PREDICTOR)
    batch = batch_for(system)
    made = {
        name: value.detach().requires_grad_() for name, value in system.embed(batch, at(0)).items()
    }
    system.loss(made, batch, at(0)).loss.backward()
    assert made["z"].grad is None
    assert bool(made["p"].grad.any())
    free = build("vfs", projector=PROJECTOR, predictor=PREDICTOR, stop_gradient=False)
    free.loss(made, batch, at(0)).loss.backward()
    assert bool(made["z"].grad.any())
    system.training_step(batch, at(0)).loss.backward()
    assert all(p.grad is not None for p in system.parameters())


def train(system, steps: int = 150):
    """SGD on videos of a pattern each; after every step the distance and the monitors of z."""
    optimizer = torch.optim.SGD(system.parameters(), lr=0.1, momentum=0.9)
    base = torch.randn(24, 1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    told = []
    for step in range(steps):
        batch = batch_for(system, 24, seed=step, dtype=torch.float32)
        frames = base + 0.5 * batch.views["frames"].data
        batch = dataclasses.replace(batch, views={"frames": View(data=frames)})
        output = system.training_step(batch, at(step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        told.append((float(output.loss.detach()), watch(output.embeddings)))
    return told


def rang(told) -> bool:
    """Whether the alarm of a run that logs every step rings."""
    config = TrainConfig(steps=len(told))
    alarm = CollapseAlarm(config.collapse, config.collapse_logs)
    return any(alarm.see(monitors) for _, monitors in told)


def test_without_stop_gradient_it_collapses_and_the_alarm_rings(build) -> None:
    """The predictor alone does not help: both halves run together to one point."""
    plain = dataclasses.replace(PROJECTOR, last_norm=False)
    options = {"projector": plain, "predictor": PREDICTOR, "dtype": torch.float32}
    alive = train(build("vfs", **options))
    dead = train(build("vfs", stop_gradient=False, **options))
    assert alive[-1][0] < 0.3 * alive[0][0], "it learns"
    assert alive[-1][1]["std/z"] > alive[0][1]["std/z"] > 0.6
    assert dead[-1][0] < 0.001, "nothing is left to learn"
    assert dead[-1][1]["std/z"] < 0.1
    assert rang(dead)
    assert not rang(alive)


@pytest.mark.parametrize(
    "projector",
    [PROJECTOR, dataclasses.replace(HEAD_PRESETS["vfs_projector"], out=32)],
    ids=["two layers", "three"],
)
def test_a_norm_at_the_end_hides_the_collapse_from_the_spread_not_from_the_alarm(
    build, projector
) -> None:
    """Batch norm keeps every dimension's spread by a few rows far from all others."""
    options = {"projector": projector, "predictor": PREDICTOR, "dtype": torch.float32}
    alive = train(build("vfs", **options))
    dead = train(build("vfs", stop_gradient=False, **options))
    assert dead[-1][0] < 0.01 < alive[-1][0]
    assert dead[-1][1]["std/z"] > 0.3
    assert dead[-1][1]["rank/z"] > 1.5
    assert min(monitors["sine/z"] for _, monitors in alive) > 0.6
    assert rang(dead)
    assert not rang(alive)


def test_norm_statistics_are_those_of_each_half(build) -> None:
    """As published: the frames of one half pass the encoder together, without the other's."""
    system = build("vfs", frames=4, projector=PROJECTOR, predictor=PREDICTOR)
    batch = batch_for(system)
    before = system.embed(batch, at(0))["z"].detach()
    batch.views["frames"].data[:, 2:] *= 3
    batch.views["frames"].data[:, 2:] += torch.randn(6, 2, 3, 12, 12).double()
    after = system.embed(batch, at(0))["z"].detach()
    assert torch.allclose(before[:, :2], after[:, :2], atol=1e-12)
    assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


@pytest.mark.parametrize("batch_negatives", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_negatives_are_the_queue_and_the_other_videos(build, batch_negatives, masked) -> None:
    system = build(
        "vfs", negatives=True, frames=4, batch_negatives=batch_negatives, mask_same_group=masked
    )
    batch = batch_for(system)
    batch.group[:2] = 7  # two items of one source
    system.queue.owners[:5] = 7
    made = system.embed(batch, at(0))
    queries = made["m"].detach()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    output = system.loss(made, batch, at(0))
    system.load_state_dict(before)
    frames = batch.views["frames"].data[:, 2:]
    keys = system.encoders.keys(frames, at(0).generator("shuffle"))["m"]
    total = []
    for i in range(6):
        others = [
            keys[j, t]
            for j in range(6)
            for t in range(2)
            if batch_negatives and j != i and not (masked and batch.group[i] == batch.group[j])
        ]
        left = [
            row
            for row, owner in zip(system.queue.features, system.queue.owners, strict=True)
            if not (masked and int(owner) == int(batch.group[i]))
        ]
        negatives = torch.stack([*others, *left])
        for query in queries[i]:
            for key in keys[i]:
                logits = torch.cat([(query @ key)[None], negatives @ query]) / 0.2
                total.append(float(logits.logsumexp(0) - logits[0]))
    assert math.isclose(float(output.loss.detach()), sum(total) / len(total), rel_tol=1e-9)


def test_two_frames_without_batch_negatives_are_moco_between_frames(build) -> None:
    system = build("vfs", negatives=True, batch_negatives=False, mask_same_group=False)
    batch = batch_for(system)
    queries = system.embed(batch, at(0))["m"]
    keys = system.encoders.keys(batch.views["frames"].data[:, 1:], at(0).generator("shuffle"))["m"]
    plain = info_nce(queries[:, 0], keys[:, 0], system.queue.features, temperature=0.2)
    found = build("vfs", negatives=True, batch_negatives=False, mask_same_group=False)
    loss = found.training_step(batch, at(0)).loss
    assert torch.allclose(loss, plain.values.mean(), atol=1e-12)


def test_keys_are_shuffled_over_the_groups_of_norm_unless_turned_off(build) -> None:
    grouped = dataclasses.replace(TINY, norm_groups=4)
    frames = batch_for(build("vfs", negatives=True), 8).views["frames"].data[:, 1:]

    def partner(system) -> list[int]:
        """Of each key the one that shares its statistics."""

        def keys(pixels: torch.Tensor) -> torch.Tensor:
            return system.encoders.keys(pixels, at(0).generator("shuffle"))["m"][:, 0]

        alone, found = keys(frames), []
        for row in range(8):
            changed = frames.clone()
            changed[row] += torch.randn(frames[row].shape, generator=torch.Generator()).double()
            moved = (keys(changed) - alone).abs().amax(dim=1) > 1e-9
            moved[row] = False
            found += moved.nonzero().flatten().tolist()
        return found

    plain = build("vfs", negatives=True, backbone=grouped, shuffle=False)
    assert partner(plain) == [row ^ 1 for row in range(8)]
    shuffled = partner(build("vfs", negatives=True, backbone=grouped))
    assert len(shuffled) == 8
    assert shuffled != [row ^ 1 for row in range(8)]


def test_all_keys_enter_the_queue_with_their_group(build) -> None:
    system = build("vfs", negatives=True, frames=4)
    batch = batch_for(system, seed=1)
    output = system.training_step(batch, at(0))
    output.loss.backward()
    names = {n for n, p in system.named_parameters() if p.grad is not None}
    assert names
    assert all(name.startswith("encoders.online.") for name in names)
    system.after_step(False)
    assert system.queue.filled == 0, "a skipped step leaves nothing"
    system.training_step(batch, at(0))
    system.after_step(True)
    assert system.queue.owners[:12].tolist() == batch.group.repeat_interleave(2).tolist()


def test_the_mask_is_automatic(build) -> None:
    assert setup(build("vfs", negatives=True), 239).mask_same_group
    assert not setup(build("vfs", negatives=True), 240).mask_same_group


def test_exports_hold_the_encoder_and_its_head(build) -> None:
    assert set(build("vfs").exports()["encoder"].module.heads) == {"projector"}
    assert set(build("vfs", negatives=True).exports()["encoder"].module.heads) == {"m"}


@pytest.mark.parametrize("options", [{"frames": 3}, {"frames": 0}, {"stride": 0}, {"queue": 0}])
def test_values_that_cannot_be_are_refused(options) -> None:
    with pytest.raises(ConfigError):
        VFSConfig(backbone=TINY, **options)


def test_a_predictor_of_another_length_is_refused(build) -> None:
    with pytest.raises(ConfigError, match="predictor"):
        build("vfs", predictor=HeadConfig(layers=2, out=5))
