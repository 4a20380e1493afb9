from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.errors import ConfigError
from rhyme.systems.base import ParameterGroup
from rhyme.training import Lars, OptimizerConfig, build_optimizers


def lars_by_hand(w, gradients, *, lr, momentum, decay, eta, trust=True):
    """The published recursion, one number at a time."""
    w, v = np.array(w, dtype=np.float64), np.zeros(len(w))
    for g in gradients:
        g = np.array(g, dtype=np.float64) + decay * w
        wn, gn = np.sqrt((w * w).sum()), np.sqrt((g * g).sum())
        ratio = eta * wn / gn if trust and wn > 0 and gn > 0 else 1.0
        v = momentum * v + lr * ratio * g
        w = w - v
    return w


@pytest.mark.parametrize("trust", [True, False])
def test_lars_against_the_recursion(trust):
    generator = np.random.default_rng(0)
    start, gradients = generator.standard_normal(6), generator.standard_normal((5, 6))
    parameter = nn.Parameter(torch.tensor(start))
    options = {"lr": 0.7, "momentum": 0.9, "eta": 0.01}
    optimizer = Lars([parameter], weight_decay=0.05, trust=trust, **options)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    expected = lars_by_hand(start, gradients, decay=0.05, trust=trust, **options)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_trusts_one_where_a_norm_is_zero(weight, gradient):
    parameter = nn.Parameter(torch.full((3,), weight, dtype=torch.float64))
    parameter.grad = torch.full((3,), gradient, dtype=torch.float64)
    Lars([parameter], lr=0.1).step()
    expected = torch.full((3,), weight - 0.1 * gradient, dtype=torch.float64)
    assert torch.allclose(parameter.detach(), expected)


def test_lars_step_of_a_scaled_loss_equals_the_unscaled():
    steps = []
    for scale in (1.0, 1000.0):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        optimizer = Lars([parameter], lr=0.3, weight_decay=0.0)
        parameter.grad = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64) * scale
        optimizer.step()
        steps.append(parameter.detach())
    assert torch.allclose(*steps, rtol=1e-12)


def test_lars_a_change_of_rate_leaves_the_velocity():
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = Lars([parameter], lr=1.0, momentum=0.5, trust=False)
    parameter.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert float(parameter.detach()) == pytest.approx(1.0 - 1.0 - 0.5)


def group(name="all", **options):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return ParameterGroup(name=name, parameters=tuple(module.named_parameters()), **options)


def decays(optimizer):
    """Decay by the parameter's number of dimensions."""
    return {
        parameter.ndim: table["weight_decay"]
        for table in optimizer.param_groups
        for parameter in table["params"]
    }


@pytest.mark.parametrize(("name", "everywhere"), [("sgd", True), ("adamw", False), ("lars", False)])
def test_decay_of_norm_and_bias(name, everywhere):
    config = OptimizerConfig(name=name, weight_decay=0.1)
    optimizer = build_optimizers([group()], config)["all"]
    assert decays(optimizer) == {4: 0.1, 2: 0.1, 1: 0.1 if everywhere else 0.0}
    if name == "lars":
        assert {t["trust"]: t["weight_decay"] for t in optimizer.param_groups} == {
            True: 0.1,
            False: 0.0,
        }


@pytest.mark.parametrize("everywhere", [True, False])
def test_lars_gives_decay_and_trust_to_the_same_parameters(everywhere):
    config = OptimizerConfig(
        name="lars", lr=0.7, weight_decay=0.05, eta=0.01, decay_norm_and_bias=everywhere
    )
    module = nn.Linear(3, 4).double()
    starts = {name: p.detach().flatten().numpy().copy() for name, p in module.named_parameters()}
    trained = ParameterGroup(name="all", parameters=tuple(module.named_parameters()))
    optimizer = build_optimizers([trained], config)["all"]
    gradients = {name: [] for name in starts}
    for _ in range(3):
        for name, parameter in module.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            gradients[name].append(parameter.grad.flatten().numpy().copy())
        optimizer.step()
    for name, parameter in module.named_parameters():
        both = everywhere or name == "weight"
        expected = lars_by_hand(
            starts[name], gradients[name], lr=0.7, momentum=0.9, eta=0.01,
            decay=0.05 if both else 0.0, trust=both,
        )  # fmt: skip
        np.testing.assert_allclose(parameter.detach().flatten().numpy(), expected, rtol=1e-12)


def test_a_group_has_its_own_decay_and_can_be_plain():
    config = OptimizerConfig(name="lars", weight_decay=0.1, plain_groups=("classifier",))
    built = build_optimizers([group("slow", weight_decay=0.5), group("classifier")], config)
    assert decays(built["slow"])[4] == 0.5
    assert all(not t["trust"] and t["weight_decay"] == 0 for t in built["classifier"].param_groups)


def test_groups_that_do_not_fit_are_refused():
    twice = group()
    sharing = ParameterGroup(name="other", parameters=twice.parameters)
    config = OptimizerConfig()
    with pytest.raises(ConfigError, match="share a name"):
        build_optimizers([group(), group()], config)
    with pytest.raises(ConfigError, match="trained twice"):
        build_optimizers([twice, sharing], config)
    with pytest.raises(ConfigError, match="empty"):
        build_optimizers([ParameterGroup(name="none", parameters=())], config)
    with pytest.raises(ConfigError, match="plain_groups"):
        build_optimizers([group()], OptimizerConfig(plain_groups=("al",)))


def test_lars_in_multi_tensor_form_is_the_loop_to_the_bit():
    torch.manual_seed(0)
    shapes = [(4, 3), (5,), (2, 3, 4), (1, 1), (7, 2)]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    with torch.no_grad():
        parameters[3].zero_()  # no norm: trust 1
    unused = nn.Parameter(torch.ones(2))
    optimizer = Lars([*parameters, unused], lr=0.3, weight_decay=0.1, eta=0.01)
    twins = [p.detach().clone() for p in parameters]
    velocities = [torch.zeros_like(p) for p in twins]
    for _ in range(3):
        for p in parameters:
            p.grad = torch.randn_like(p)
        for w, v, p in zip(twins, velocities, parameters, strict=True):
            assert p.grad is not None
            g = p.grad.add(w, alpha=0.1)
            if w.norm() > 0 and g.norm() > 0:
                g = g * (0.01 * w.norm() / g.norm())
            v.mul_(0.9).add_(g, alpha=0.3)
            w.sub_(v)
        optimizer.step()
        assert all(torch.equal(w, p) for w, p in zip(twins, parameters, strict=True))
    assert torch.equal(unused, torch.ones(2))
