from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rhyme.encoders import GroupBatchNorm1d, GroupBatchNorm2d, GroupBatchNorm3d
from rhyme.encoders.norm import GroupBatchNorm, at_once, by_broadcast, by_turns, group_norms
from rhyme.errors import ConfigError
from support.extras import extra


def randomise(norm: nn.Module) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.5)


def rows(*shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64) * 2 + 3
    # Rows of very different scale, so that statistics of other rows would show.
    return x * torch.arange(1, shape[0] + 1).view(-1, *[1] * (len(shape) - 1))


def test_one_group_is_batch_norm_to_the_bit() -> None:
    ours, theirs = GroupBatchNorm2d(5), nn.BatchNorm2d(5)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(6, 5, 4, 3)
    for mode in (True, True, False):
        ours.train(mode), theirs.train(mode)
        assert torch.equal(ours(x), theirs(x))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


@pytest.mark.parametrize("groups", [2, 3, 6])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 4), (12, 5, 4, 3), (12, 5, 2, 4, 3)])
def test_groups_are_separate_batch_norms(groups: int, shape: tuple[int, ...]) -> None:
    kind, plain = {
        4: (GroupBatchNorm2d, nn.BatchNorm2d),
        5: (GroupBatchNorm3d, nn.BatchNorm3d),
    }.get(len(shape), (GroupBatchNorm1d, nn.BatchNorm1d))
    ours = kind(5, norm_groups=groups).double()
    randomise(ours)
    x = rows(*shape).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(shape, dtype=torch.float64)
    separate = [plain(5).double() for _ in range(groups)]
    for norm in separate:
        norm.load_state_dict(ours.state_dict())
    expected = torch.cat([n(part) for n, part in zip(separate, y.chunk(groups), strict=True)])
    (expected * weights).sum().backward()
    output = ours(x)
    (output * weights).sum().backward()
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-12)
    for name in ("weight", "bias"):
        total = sum(getattr(norm, name).grad for norm in separate)
        torch.testing.assert_close(getattr(ours, name).grad, total, rtol=1e-10, atol=1e-12)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(norm, name) for norm in separate]).mean(0)
        torch.testing.assert_close(getattr(ours, name), mean, rtol=1e-12, atol=1e-12)
    assert int(ours.num_batches_tracked) == 1


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 4), (12, 5, 4, 3), (12, 5, 2, 4, 3)])
@pytest.mark.parametrize("affine", ["both", "scale", "none"])
def test_all_ways_to_take_groups_agree(affine: str, shape: tuple[int, ...], last: bool) -> None:
    x = rows(*shape)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    given = {"both": (weight, bias), "scale": (weight, None), "none": (None, None)}[affine]
    factors = torch.randn(shape, dtype=torch.float64)
    found = []
    for way in (by_turns, at_once, by_broadcast):
        y = x.clone().requires_grad_()
        output, mean, variance = way(y, 3, *given, 1e-5)
        assert output.shape == x.shape
        (output * factors).sum().backward()
        own = [one.grad for one in given if one is not None]
        found.append([output.detach(), mean, variance, y.grad, *own])
        weight.grad = bias.grad = None
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)
    if last and len(shape) > 2:
        assert output.movedim(1, -1).is_contiguous()


def test_a_row_does_not_see_the_other_groups() -> None:
    norm = GroupBatchNorm1d(3, norm_groups=2)
    x = torch.randn(8, 3)
    other = x.clone()
    other[4:] *= 100
    assert torch.equal(norm(x)[:4], norm(other)[:4])
    norm = GroupBatchNorm1d(3)
    assert not torch.allclose(norm(x)[:4], norm(other)[:4])


def test_evaluation_uses_running_statistics_whatever_the_groups() -> None:
    norm = GroupBatchNorm2d(3, norm_groups=4)
    norm(torch.randn(8, 3, 4, 4) + 5)
    plain = nn.BatchNorm2d(3)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(7, 3, 4, 4)  # no multiple of the groups
    assert torch.equal(norm.eval()(x), plain.eval()(x))
    assert not torch.equal(plain.running_mean, torch.zeros(3))


def test_momentum_none_averages_over_batches() -> None:
    norm = GroupBatchNorm1d(2, norm_groups=2, momentum=None)
    batches = [torch.randn(6, 2) for _ in range(3)]
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, torch.cat(batches).mean(0))


def test_half_precision_keeps_its_type() -> None:
    norm = GroupBatchNorm2d(4, norm_groups=2)
    x = torch.randn(4, 4, 8, 8).bfloat16()
    y = norm(x)
    assert y.dtype == torch.bfloat16
    exact = copy.deepcopy(norm)(x.float())
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.02)


def test_a_norm_without_offset_has_no_bias() -> None:
    norm = GroupBatchNorm1d(3, offset=False, norm_groups=2)
    assert "bias" not in norm.state_dict()
    assert "weight" in norm.state_dict()
    torch.testing.assert_close(
        norm(torch.randn(8, 3))[:4].mean(0), torch.zeros(3), atol=1e-6, rtol=0
    )
    norm.reset_parameters()
    bare = GroupBatchNorm1d(3, affine=False)
    assert not list(bare.parameters())


def test_a_batch_that_does_not_divide_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match="batch of 10 does not divide into 4") as caught:
        GroupBatchNorm1d(3, norm_groups=4)(torch.randn(10, 3))
    assert "multiple of 4" in str(caught.value)
    with pytest.raises(ConfigError, match="one value a channel"):
        GroupBatchNorm1d(3, norm_groups=4)(torch.randn(4, 3))
    with pytest.raises(ConfigError):
        GroupBatchNorm1d(3, norm_groups=0)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Global and grouped statistics, values, gradients and running statistics on two ranks."""
    script = Path(__file__).with_name("norm_on_ranks.py")
    source = Path(__file__).parents[2] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(number), "2", str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        problems = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(problems)
    parts = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in range(2)]
    torch.manual_seed(3)
    x = rows(8, 3, 4, 5)
    weights = torch.randn_like(x)
    for groups in ("1", "2", "4", "1 of clips", "4 of clips"):
        clips = groups.endswith("clips")
        kind = GroupBatchNorm3d if clips else GroupBatchNorm2d
        norm = kind(3, norm_groups=int(groups[0])).double()
        pixels = x.clone().requires_grad_()
        output = norm(pixels.unflatten(2, (2, 2))).flatten(2, 3) if clips else norm(pixels)
        (output * weights).mean().backward()
        both = {n: torch.cat([part[f"{groups}.{n}"] for part in parts]) for n in ("output", "grad")}
        torch.testing.assert_close(both["output"], output.detach(), rtol=1e-9, atol=1e-10)
        # Each rank's loss counts 1/W when parameter gradients are averaged over W ranks.
        torch.testing.assert_close(both["grad"] / 2, pixels.grad, rtol=1e-7, atol=1e-12)
        for name in ("weight", "bias"):
            mean = (parts[0][f"{groups}.{name}"] + parts[1][f"{groups}.{name}"]) / 2
            torch.testing.assert_close(mean, getattr(norm, name).grad, rtol=1e-7, atol=1e-12)
        for name in ("running_mean", "running_var"):
            assert torch.equal(parts[0][f"{groups}.{name}"], parts[1][f"{groups}.{name}"])
            torch.testing.assert_close(
                parts[0][f"{groups}.{name}"], getattr(norm, name), rtol=1e-9, atol=1e-10
            )
    assert all(part["refused"] for part in parts)


class BatchNormAct2d(nn.BatchNorm2d):
    """Of the shape of timm's: a batch norm that drops and activates what it has normalised."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.drop, self.act = nn.Dropout(0.0), nn.PReLU(num_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_batch_norms_with_an_activation_work_in_groups_too() -> None:
    theirs = nn.Sequential(nn.Conv2d(3, 5, 1), BatchNormAct2d(5))
    randomise(theirs)
    ours = copy.deepcopy(theirs)
    group_norms(ours, 2)
    theirs, ours = theirs.double(), ours.double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours[1], GroupBatchNorm)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    apart = torch.cat([copy.deepcopy(theirs)(part) for part in x.chunk(2)])
    assert torch.allclose(ours(x), apart, atol=1e-12)
    assert (apart < 0).any()  # scaled, not cut off: the activation is theirs
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "regnetx_002", "resnetv2_50t"])
def test_no_batch_norm_of_timms_is_left_out(name: str) -> None:
    net = extra("timm").create_model(name, pretrained=False, num_classes=0)
    copied = copy.deepcopy(net)
    group_norms(copied, 2)
    norms = [m for m in copied.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, GroupBatchNorm) for m in norms)
    assert list(copied.state_dict()) == list(net.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(copied.eval()(x), net.eval()(x))


def test_batch_norms_that_cannot_be_grouped_are_refused() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    class OwnKind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_var", torch.ones(3))

    for norm in (Odd(3), nn.SyncBatchNorm(3), OwnKind()):
        with pytest.raises(ConfigError, match="cannot work in groups") as caught:
            group_norms(nn.Sequential(nn.Sequential(norm)), 1)
        assert type(norm).__name__ in str(caught.value)
        assert "0.0" in str(caught.value)
    kept = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.GroupNorm(1, 3))
    group_norms(kept, 1)


@pytest.mark.parametrize(("groups", "batch", "least"), [(1, 1, 2), (2, 2, 4)])
def test_one_value_a_channel_is_refused_with_the_least_batch(
    groups: int, batch: int, least: int
) -> None:
    norm = GroupBatchNorm1d(3, norm_groups=groups)
    with pytest.raises(ConfigError, match="no spread") as caught:
        norm(torch.randn(batch, 3))
    assert f"at least {least}" in str(caught.value.remedy)
    assert norm.eval()(torch.randn(batch, 3)).shape == (batch, 3)
