"""The invariants of DenseCL: matches, both queues, λ, and its place beside MoCo."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.encoders import Backbone, BackboneConfig
from rhyme.errors import ConfigError, DataError
from rhyme.systems import momentum_pair
from rhyme.systems.densecl import DenseCL, DenseCLConfig
from rhyme.systems.moco import Moco
from rhyme.views import View, cell_centres, flip_map, identity, true_matches
from support.tiny_systems import HEAD, TINY, at, build_tiny, make_batch, setup

# 12 x 12 cells, of enough channels that none is silent and no two are alike
FINE = BackboneConfig(name="small", widths=(16, 32, 48, 64), strides=(1, 1, 1, 1))
MATCHINGS = ("backbone", "head", "random", "geometry")


def mapped(batch, query=None, key=None):
    """The batch with these maps, the whole frame by default."""
    items = len(batch)
    views = dict(batch.views)
    for name, one in (("query", query), ("key", key)):
        one = identity() if one is None else one
        found = torch.from_numpy(one).float().expand(items, 1, 2, 3)
        views[name] = View(data=views[name].data, map=found)
    return dataclasses.replace(batch, views=views)


def steps(system, count: int = 3, items: int = 6):
    """Losses of plain SGD steps, and the state after them."""
    losses = []
    for step in range(count):
        for parameter in system.parameters():
            parameter.grad = None
        output = system.training_step(mapped(make_batch(items, seed=step)), at(step))
        output.loss.backward()
        with torch.no_grad():
            for parameter in system.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        system.after_step(True)
        losses.append(output.loss.detach())
    return losses, system.state_dict()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_equal_features_give_the_logarithm_of_the_queue_for_any_weight(build, weight) -> None:
    system = build("densecl", mask_same_group=False, dense_weight=weight, dense_queue=24)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.zero_()
        for name, parameter in system.named_parameters():
            if ".heads." in name and name.endswith("bias"):
                parameter.fill_(1.0)
    for queue in (system.queue, system.dense_queue):
        queue.features.copy_(torch.full((24, 8), 8**-0.5, dtype=torch.float64))
    loss = system.training_step(mapped(make_batch()), at(0)).loss.detach()
    assert math.isclose(float(loss), math.log(25), rel_tol=1e-12)


@pytest.mark.parametrize("options", [{"dense_weight": 0.0}, {"dense_warmup_steps": 3}])
@pytest.mark.parametrize("groups", [1, 3])
def test_without_weight_it_is_moco_bit_for_bit(options, groups) -> None:
    backbone = dataclasses.replace(TINY, norm_groups=groups)
    shared = {"backbone": backbone, "head": HEAD, "queue": 24, "momentum": 0.9}
    built = []
    for kind, more in ((Moco, {}), (DenseCL, {"dense_head": HEAD, "dense_queue": 24, **options})):
        torch.manual_seed(5)
        built.append(setup(kind(kind.Config(**shared, **more)).double(), 100))
    (plain, state), (dense, other) = (steps(system) for system in built)
    assert all(torch.equal(a, b) for a, b in zip(plain, dense, strict=True))
    assert set(state) < set(other)
    assert all(torch.equal(value, other[name]) for name, value in state.items())


def test_the_weight_mixes_both_terms_and_rises_after_the_warm_up(build) -> None:
    system = build("densecl", dense_weight=0.3, dense_warmup_steps=2)
    before = system.dense_queue.features.clone()
    for step in range(4):
        output = system.training_step(mapped(make_batch()), at(step))
        whole, dense = output.parts["info_nce"], output.parts["dense"]
        weight = 0.3 if step >= 2 else 0.0
        assert torch.allclose(output.loss.detach(), (1 - weight) * whole + weight * dense)
        assert abs(float(whole - dense)) > 1e-3
    system.after_step(True)
    assert not torch.equal(system.dense_queue.features, before), "the queue fills meanwhile"


def test_equal_views_match_cell_by_cell(build) -> None:
    system = build("densecl", backbone=FINE).eval()
    batch = mapped(make_batch(3))
    batch.views["key"].data.copy_(batch.views["query"].data)
    output = system.training_step(batch, at(0))
    made = system.embed(batch, at(0))
    match, valid, _ = system._match(made, {"cells": made["cells"]}, batch, at(0))
    assert valid is None
    assert match.tolist() == [list(range(144))] * 3
    assert math.isclose(float(output.diagnostics["dense/positive_cosine"]), 1, abs_tol=1e-9)
    assert float(output.diagnostics["dense/true_match"]) == 1


def test_a_mirrored_key_is_matched_at_the_mirrored_column(build) -> None:
    """With convolutions that read one pixel each, features move with the pixels."""
    system = build("densecl", backbone=FINE).eval()
    with torch.no_grad():
        for encoder in (system.encoders.online, system.encoders.momentum.module):
            for name, parameter in encoder.named_parameters():
                if name.endswith("conv.weight"):
                    centre = parameter[:, :, 1, 1].clone()
                    parameter.zero_()
                    parameter[:, :, 1, 1] = centre
    batch = mapped(make_batch(2), key=flip_map(True, 12))
    batch.views["key"].data.copy_(batch.views["query"].data.flip(-1))
    made = system.embed(batch, at(0))
    keys = system.encoders.keys(batch.views["key"].data, at(0).generator("x"), 1, system.read)
    match, _, told = system._match(made, {k: v[:, 0] for k, v in keys.items()}, batch, at(0))
    mirrored = torch.arange(144).reshape(12, 12).flip(1).flatten()
    assert torch.equal(match[0], mirrored)
    assert float(told["true_match"]) == 1
    whole = torch.from_numpy(identity()).float()[None]
    flipped = torch.from_numpy(flip_map(True, 12)).float()[None]
    assert torch.equal(true_matches(whole, flipped, cell_centres(12, 1, 0), 12)[0][0], mirrored)


def test_dense_weights_never_change_the_match_of_the_backbone(build) -> None:
    for matching, same in (("backbone", True), ("head", False)):
        system = build("densecl", backbone=FINE, matching=matching).eval()
        batch = mapped(make_batch(4))

        def match(system=system, batch=batch):
            keys = system.encoders.keys(
                batch.views["key"].data, at(0).generator("x"), 1, system.read
            )
            made = system.embed(batch, at(0))
            return system._match(made, {k: v[:, 0] for k, v in keys.items()}, batch, at(0))[0]

        before = match()
        with torch.no_grad():
            for name, parameter in system.encoders.named_parameters():
                if ".heads.dense." in name:
                    parameter.copy_(torch.randn_like(parameter))
        assert torch.equal(match(), before) == same


@pytest.mark.parametrize("grid", [None, 1, 2])
def test_the_second_queue_holds_the_mean_before_the_normalisation(build, grid) -> None:
    system = build("densecl", backbone=FINE, grid=grid)
    batch = mapped(make_batch())
    before = {n: t.clone() for n, t in system.state_dict().items()}
    system.training_step(batch, at(0))
    system.after_step(True)
    fresh = system.dense_queue.features[:6].clone()
    system.load_state_dict(before)
    encoder = system.encoders.momentum.module
    with torch.no_grad():
        features, _ = encoder(batch.views["key"].frames)
        map_ = features.map if grid is None else functional.adaptive_avg_pool2d(features.map, grid)
        layers = encoder.heads["dense"].layers
        convolved = map_
        for layer in layers:  # the head as the 1x1 convolutions that it stands for
            if isinstance(layer, torch.nn.Linear):
                kernel = layer.weight[:, :, None, None]
                convolved = functional.conv2d(convolved, kernel, layer.bias)
            else:
                convolved = layer(convolved)
        want = functional.normalize(convolved.mean(dim=(2, 3)), dim=1)
        wrong = functional.normalize(functional.normalize(convolved, dim=1).mean((2, 3)), dim=1)
    assert torch.allclose(fresh, want, atol=1e-12)
    assert grid == 1 or not torch.allclose(fresh, wrong, atol=1e-3)


def test_gradients_reach_the_queries_alone(build) -> None:
    def gradients(weight: float) -> set[str]:
        system = build("densecl", dense_weight=weight)
        system.training_step(mapped(make_batch()), at(0)).loss.backward()
        return {
            name
            for name, parameter in system.named_parameters()
            if parameter.grad is not None and bool(parameter.grad.any())
        }

    both = gradients(0.5)
    assert all(name.startswith("encoders.online.") for name in both)
    assert any(".heads.m." in n for n in both)
    assert any(".heads.dense." in n for n in both)
    assert not any(".heads.dense." in n for n in gradients(0.0))
    assert not any(".heads.m." in n for n in gradients(1.0))
    assert any("backbone" in n for n in gradients(1.0))


def test_the_gradient_is_the_weighted_sum_of_both_terms(build) -> None:
    def gradient(weight: float) -> torch.Tensor:
        system = build("densecl", dense_weight=weight)
        system.training_step(mapped(make_batch()), at(0)).loss.backward()
        return torch.cat([p.grad.flatten() for p in system.encoders.online.backbone.parameters()])

    mixed = 0.75 * gradient(0.0) + 0.25 * gradient(1.0)
    assert torch.allclose(gradient(0.25), mixed, atol=1e-12)


def test_shuffling_puts_back_everything_that_keys_are_made_of(build) -> None:
    plain = build("densecl")
    grouped = build("densecl", backbone=dataclasses.replace(TINY, norm_groups=3))
    grouped.load_state_dict(plain.state_dict())
    frames = make_batch().views["key"].data

    def keys(system):
        return system.encoders.keys(frames, at(0).generator("x"), 1, system.read)

    for system in (plain, grouped):
        system.eval()
    a, b = keys(plain), keys(grouped)
    assert a.keys() == b.keys() == {"m", "dense", "cells"}
    assert all(torch.allclose(a[name], b[name], atol=1e-12) for name in a)
    for system in (plain, grouped):
        system.train()
    a, b = keys(plain), keys(grouped)
    assert all(not torch.allclose(a[name], b[name], atol=1e-3) for name in a)


def test_cells_that_the_other_view_does_not_show_are_left_out(build) -> None:
    shift = identity()
    shift[0, 2] = 6.0  # the key view begins in the middle of the query view
    batch = mapped(make_batch(), key=shift)
    system = build("densecl", backbone=FINE, matching="geometry", dense_weight=1.0)
    output = system.training_step(batch, at(0))
    assert float(output.diagnostics["dense/overlap"]) == 0.5
    assert float(output.diagnostics["dense/masked_rows"]) == 6 * 72
    apart = identity()
    apart[0, 2] = 100.0
    output = system.training_step(mapped(make_batch(), key=apart), at(0))
    output.loss.backward()
    assert float(output.loss.detach()) == 0
    grads = [p.grad for p in system.encoders.online.parameters() if p.grad is not None]
    assert all(not bool(g.any()) for g in grads), "no pair, no gradient, and no NaN"


def test_random_matches_belong_to_the_item(build) -> None:
    system = build("densecl", backbone=FINE, matching="random")
    batch = mapped(make_batch())

    def match(batch, step):
        made = system.embed(batch, at(step))
        return system._match(made, made, batch, at(step))[0]

    whole = match(batch, 0)
    assert torch.equal(match(batch[2:4], 0), whole[2:4]), "in any company"
    assert not torch.equal(match(batch, 1), whole)
    assert whole.unique().numel() > 100


def true_match_on_rank(items: int) -> tuple[float, float, int]:
    """What is told of the matches, what a loop over the own cells counts, and how many cells."""
    system = build_tiny("densecl", backbone=FINE).eval()
    batch = make_batch(items)[distributed.rank_slice(items)]
    output = system.training_step(batch, at(0))
    keys = system.encoders.keys(batch.views["key"].data, at(0).generator("x"), 1, system.read)
    made = system.embed(batch, at(0))
    match, _, _ = system._match(made, {k: v[:, 0] for k, v in keys.items()}, batch, at(0))
    true, valid = system._geometry(batch)
    hits = 0
    for b, i in valid.nonzero().tolist():
        found, meant = divmod(int(match[b, i]), 12), divmod(int(true[b, i]), 12)
        hits += max(abs(x - y) for x, y in zip(found, meant, strict=True)) <= 1
    return float(output.diagnostics["dense/true_match"]), hits, int(valid.sum())


def test_the_share_of_true_matches_is_that_of_the_global_batch() -> None:
    told, hits, cells = true_match_on_rank(6)
    assert told == pytest.approx(hits / cells, abs=1e-12)
    ranks = run_on_ranks(true_match_on_rank, 2, 6)
    assert sum(r[1] for r in ranks) == hits > 0
    assert ranks[0][2] != ranks[1][2], "ranks differ in how many cells have a counterpart"
    for rank in ranks:
        assert rank[0] == pytest.approx(told, abs=1e-12)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_every_matching_trains(build, matching) -> None:
    system = build("densecl", matching=matching)
    losses, _ = steps(system)
    assert all(torch.isfinite(loss) for loss in losses)
    assert set(system.exports()["encoder"].module.heads) == {"m", "dense"}


class Odd(Backbone):
    """Maps of another width than the features, or none."""

    def __init__(self, channels: int | None) -> None:
        nn.Module.__init__(self)
        self.config = BackboneConfig(name="small")
        self.channels, self.feature_dim, self.geometry = channels, 10, {"stage1": (4.0, 1.5)}

    def encode(self, x, stages):
        found = None if self.channels is None else x.new_zeros(len(x), self.channels, 3, 3)
        return x.new_zeros(len(x), 10), found, {}


@pytest.mark.parametrize("channels", [None, 6])
def test_a_backbone_without_cells_of_its_features_is_refused(build, monkeypatch, channels) -> None:
    monkeypatch.setattr(momentum_pair, "build_backbone", lambda config: Odd(channels))
    with pytest.raises(ConfigError, match="DenseCL's head reads cells") as caught:
        build("densecl")
    assert "dense_weight=0" in str(caught.value.remedy)
    build("densecl", dense_weight=0.0)


@pytest.mark.parametrize("grid", [None, 2])
def test_encoders_without_padding_are_told_apart_by_their_own_cells(grid) -> None:
    backbone = BackboneConfig(name="torchvision:squeezenet1_1")
    system = build_tiny("densecl", dtype=torch.float32, backbone=backbone, grid=grid)
    batch = mapped(make_batch(2, dtype=torch.float32))
    for name, view in list(batch.views.items()):
        pixels = torch.nn.functional.interpolate(view.frames, 64)[:, None]
        batch.views[name] = View(data=pixels, map=view.map)
    output = system.training_step(batch, at(0))
    side = grid or system._cells
    assert system._cells == 3  # 64 pixels by a stride of 16 would be 4
    assert output.embeddings["dense"].shape[1] == side * side
    assert 0 <= float(output.diagnostics["dense/true_match"]) <= 1


def test_geometry_needs_maps(build) -> None:
    system = build("densecl", matching="geometry")
    batch = make_batch()
    bare = {name: dataclasses.replace(view, map=None) for name, view in batch.views.items()}
    with pytest.raises(DataError, match="where they were cut"):
        system.training_step(dataclasses.replace(batch, views=bare), at(0))


@pytest.mark.parametrize(
    "options",
    [{"dense_weight": 1.5}, {"dense_warmup_steps": -1}, {"grid": 0}, {"dense_queue": 0}],
)
def test_values_that_cannot_be_are_refused(options) -> None:
    with pytest.raises(ConfigError):
        DenseCLConfig(backbone=BackboneConfig(name="small"), **options)
