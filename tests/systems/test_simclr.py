"""The invariants of SimCLR: its loss on whole batches, its head, its views, its learning rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rhyme.encoders import HEAD_PRESETS, BackboneConfig
from rhyme.errors import ConfigError
from rhyme.objectives import nt_xent
from rhyme.systems import RunContext
from rhyme.systems.simclr import Simclr, SimclrConfig
from rhyme.training import OptimizerConfig, TrainConfig, build_optimizers
from support.tiny_systems import TINY, at, batch_for


def loss_of(system: Simclr, z: Tensor) -> Tensor:
    """The loss of given embeddings ``[b, 2, d]``."""
    batch = batch_for(system, items=len(z))
    return system.loss({"z": z}, batch, at(0)).loss


def by_hand(z: Tensor, temperature: float) -> float:
    """The paper's double loop over all ordered pairs, in NumPy."""
    rows = z.transpose(0, 1).flatten(0, 1).detach().numpy()
    n = len(rows) // 2
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        logits = {k: float(rows[i] @ rows[k]) / temperature for k in range(2 * n) if k != i}
        total += np.logaddexp.reduce(list(logits.values())) - logits[j]
    return total / (2 * n)


def unit(*shape: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return nn.functional.normalize(drawn, dim=-1)


def test_a_step_is_the_double_loop_of_the_paper(build) -> None:
    system = build("simclr")
    batch = batch_for(system)
    z = system.embed(batch, at(0))["z"]
    assert z.shape == (6, 2, 8)
    output = system.training_step(batch, at(0))
    assert output.loss.item() == pytest.approx(by_hand(z, 0.2), rel=1e-12)
    assert output.parts["nt_xent"] == output.loss


def test_each_row_holds_the_two_views_of_its_item(build) -> None:
    system = build("simclr").eval()
    batch = batch_for(system)
    z = system.embed(batch, at(0))["z"]
    for place, name in enumerate(("first", "second")):
        _, alone = system.encoder(batch.views[name].frames)
        assert torch.allclose(z[:, place], alone["z"], atol=1e-12)


def test_the_published_code_has_twice_the_loss_and_gradient(build) -> None:
    found = {}
    for balance in ("paper", "official"):
        system = build("simclr", balance=balance)
        output = system.training_step(batch_for(system), at(0))
        output.loss.backward()
        found[balance] = output.loss.detach(), system.encoder.backbone.layer1.conv.weight.grad
    for ours, theirs in zip(found["paper"], found["official"], strict=True):
        assert torch.allclose(2 * ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(256, 6.236), (4096, 9.011), (4, math.log(7))])
def test_equal_embeddings_give_the_logarithm_of_the_others(build, n: int, expected: float) -> None:
    z = torch.zeros(n, 2, 8, dtype=torch.float64)
    z[..., 0] = 1
    assert loss_of(build("simclr"), z).item() == pytest.approx(expected, abs=1e-3)
    official = loss_of(build("simclr", balance="official"), z).item()
    assert official == pytest.approx(2 * expected, abs=2e-3)


def test_orthonormal_pairs(build) -> None:
    n = 256
    z = torch.eye(n, dtype=torch.float64)[:, None].expand(n, 2, n)
    assert loss_of(build("simclr", temperature=0.1), z).item() == pytest.approx(0.0229, abs=1e-4)


def test_an_item_at_right_angles_to_all_others_of_the_largest_batch() -> None:
    """The value of orthonormal pairs at N = 4096, without as many dimensions: the others agree."""
    n = 4096
    z = torch.zeros(n, 2, dtype=torch.float64)
    z[0, 0] = 1
    z[1:, 1] = 1
    values = nt_xent(z, z, temperature=0.1).values
    closed = -math.log(math.exp(10) / (math.exp(10) + 2 * n - 2))
    assert closed == pytest.approx(0.316, abs=5e-4)
    assert values[[0, n]].tolist() == pytest.approx([closed] * 2, rel=1e-12)
    rest = math.log(2 * n - 3 + 2 * math.exp(-10))
    assert values[1:n].tolist() == pytest.approx([rest] * (n - 1), rel=1e-12)


def test_one_item_has_nothing_to_compare_with(build) -> None:
    assert loss_of(build("simclr"), unit(1, 2, 8)).item() == 0


def test_the_views_may_be_swapped_and_the_space_turned(build) -> None:
    system, z = build("simclr"), unit(6, 2, 8)
    turned = z @ torch.linalg.qr(unit(8, 8))[0]
    want = loss_of(system, z)
    assert torch.allclose(loss_of(system, z.flip(1)), want, rtol=1e-12)
    assert torch.allclose(loss_of(system, turned), want, rtol=1e-12)


def test_the_gradient_is_orthogonal_to_the_embedding(build) -> None:
    """Lengths are divided out, so no step makes a vector longer; each view gets a gradient."""
    system, raw = build("simclr"), (3 * unit(6, 2, 8)).requires_grad_()
    z = nn.functional.normalize(raw, dim=-1)
    loss_of(system, z).backward()
    assert raw.grad is not None
    assert (raw.grad * raw).sum(-1).abs().max() < 1e-12
    assert (raw.grad.norm(dim=-1) > 1e-6).all()
    longer = nn.functional.normalize(7 * raw.detach(), dim=-1)
    assert torch.allclose(loss_of(system, longer), loss_of(system, z), rtol=1e-12)


def test_batch_norm_sees_both_views_of_all_items(build) -> None:
    system = build("simclr")
    batch = batch_for(system)
    before = system.embed(batch, at(0))["z"].detach()
    batch.views["second"].data[5] += 3.0
    after = system.embed(batch, at(0))["z"].detach()
    assert not torch.allclose(before[0, 0], after[0, 0], atol=1e-6)


def test_items_of_one_film_are_no_negatives(build) -> None:
    system = build("simclr")
    batch = batch_for(system)
    batch.group.copy_(torch.tensor([0, 0, 1, 1, 2, 3]))
    run = {"items": 6, "batch_size": 6, "steps": 10}
    assert not system.mask_same_group
    plain = system.training_step(batch, at(0))
    system.setup(RunContext(groups=6, **run))
    assert torch.equal(system.training_step(batch, at(0)).loss, plain.loss)
    system.setup(RunContext(groups=4, **run))
    masked = system.training_step(batch, at(0))
    assert masked.loss < plain.loss
    # of 10 negatives each, the first four items lose two
    share = masked.diagnostics["masked_fraction"] - plain.diagnostics["masked_fraction"]
    assert share.item() == pytest.approx(4 * 2 / (6 * 12))
    forced = build("simclr", mask_same_group=False)
    forced.setup(RunContext(groups=4, **run))
    assert not forced.mask_same_group


def test_the_second_view_may_come_from_another_frame(build) -> None:
    plan = build("simclr").plans()["train"]
    assert {view.clip for view in plan.views.values()} == {"a"}
    plan = build("simclr", positive="video", exclude_query_frame=True).plans()["train"]
    assert {name: view.clip for name, view in plan.views.items()} == {"first": "a", "second": "b"}
    assert plan.clips["b"].exclude == "a"
    with pytest.raises(ConfigError, match="another frame"):
        SimclrConfig(exclude_query_frame=True)
    with pytest.raises(ConfigError, match="temperature"):
        SimclrConfig(temperature=0.0)


@pytest.mark.parametrize(("preset", "layers"), [("simclr", 2), ("simclr_v2", 3)])
def test_the_heads_of_paper_and_code(preset: str, layers: int) -> None:
    """Batch norm behind every layer, the last one without offset; no layer with a bias."""
    head = Simclr(SimclrConfig(backbone=TINY, head=HEAD_PRESETS[preset])).encoder.head("z")
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(linear) == len(norms) == layers
    assert [m.out_features for m in linear] == [10] * (layers - 1) + [128]
    assert all(m.bias is None for m in linear)
    assert [m.bias is not None for m in norms] == [True] * (layers - 1) + [False]
    assert sum(isinstance(m, nn.ReLU) for m in head.modules()) == layers - 1


def test_without_a_head_the_loss_reads_the_feature() -> None:
    system = Simclr(SimclrConfig(backbone=TINY, head=HEAD_PRESETS["identity"])).double()
    z = system.embed(batch_for(system), at(0))["z"]
    assert z.shape == (6, 2, 10)
    assert torch.allclose(z.norm(dim=-1), torch.ones(6, 2, dtype=torch.float64))


def test_the_stem_for_small_pictures_keeps_their_grid() -> None:
    backbone = BackboneConfig(name="resnet18", stem="cifar")
    system = Simclr(SimclrConfig(backbone=backbone)).eval()
    features, _ = system.encoder(torch.rand(1, 3, 32, 32), stages=("stem",))
    assert features.stages["stem"].shape == (1, 64, 32, 32)
    assert features.map.shape == (1, 512, 4, 4)


def test_lars_leaves_norms_and_biases_alone(build) -> None:
    system = build("simclr", head=HEAD_PRESETS["simclr"])
    config = OptimizerConfig(name="lars", weight_decay=1e-6)
    groups = system.parameter_groups()
    names = {parameter: name for name, parameter in groups[0].parameters}
    full, bare = build_optimizers(groups, config)["all"].param_groups
    assert (full["trust"], full["weight_decay"]) == (True, 1e-6)
    assert (bare["trust"], bare["weight_decay"]) == (False, 0.0)
    # no layer of this system has a bias beside a norm's, so what is not a norm is a weight
    plain = {names[p] for p in bare["params"]}
    assert plain == {n for n in names.values() if ".bn." in n or "heads.z.layers.1" in n
                     or "heads.z.layers.4" in n}  # fmt: skip
    assert len(full["params"]) == 4 + 2


@pytest.mark.parametrize(
    ("scaling", "lr", "batch", "peak"),
    [("linear", 0.3, 4096, 4.8), ("sqrt", 0.075, 4096, 4.8), ("sqrt", 0.075, 256, 1.2),
     ("linear", 0.3, 256, 0.3), ("none", 0.5, 4096, 0.5)],
)  # fmt: skip
def test_learning_rates_follow_the_batch(scaling, lr, batch, peak) -> None:
    optimizer = OptimizerConfig(name="lars", lr=lr, lr_scaling=scaling)
    assert TrainConfig(steps=1, batch_size=batch, optimizer=optimizer).peak_lr == pytest.approx(
        peak
    )
