"""Recipes: names, files, the published values, and two steps of each at a reduced size."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhyme import api
from rhyme.api import resolve_recipe
from rhyme.config import dump_yaml
from rhyme.encoders import HEAD_PRESETS, BackboneConfig, build_backbone
from rhyme.errors import ConfigError, UnknownName
from rhyme.recipes import (
    RECIPES,
    Recipe,
    load_recipe,
    recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from rhyme.run import read_jsonl
from rhyme.systems import SYSTEMS, system_class
from rhyme.systems.cstp import CstpConfig
from rhyme.systems.cycle_contrast import CycleContrastConfig
from rhyme.systems.densecl import DenseCLConfig
from rhyme.systems.dual import DualConfig
from rhyme.systems.moco import MocoConfig
from rhyme.systems.simclr import SimclrConfig
from rhyme.systems.vfs import VFSConfig
from rhyme.training.schedules import learning_rate
from rhyme.views import ContrastTransform
from support.tiny_runs import catalog, flags, rhyme

PAPER = [name for name in RECIPES if recipe(name).needs_gpu]
R2V2 = [name for name in PAPER if "_r2v2_" in name]
SMALL = [name for name in RECIPES if name not in PAPER]
BUILT = [name for name, entry in SYSTEMS.items() if entry.state != "planned"]

REDUCED: dict[str, Any] = {
    "train.steps": 2,
    "train.batch_size": 8,
    "train.schedule.warmup_steps": 0,
    "train.log_every": 1,
    "train.workers": 0,
}
PAPER_REDUCED = {
    **REDUCED,
    "train.compile": "off",  # a graph takes longer than the steps
    "model.backbone.name": "resnet18",
    "model.transform.size": 32,
}
SIZES = {"queue": 64, "cycle_queue": 80, "dense_queue": 64, "support": 16}
HEADS = {
    "cstp": {"projector"},
    "cycle_contrast": {"m", "c"},
    "densecl": {"m", "dense"},
    "dual": {"clip", "series"},
    "lsfd": {"psi", "phi"},
    "simclr": {"z"},
    "vfs": {"projector"},
    "vfs_kinetics_negatives_8gpu": {"m"},
}


def reduced(found: Recipe) -> dict[str, Any]:
    """Overrides that make a recipe small enough for the tiny world."""
    changes = dict(PAPER_REDUCED if found.needs_gpu else REDUCED)
    if found.needs_gpu and SYSTEMS[found.system].family == "clips":
        changes["model.backbone.name"] = "small3d"
    # two items in each group of the norm, as many as the norm needs
    changes["train.batch_size"] = max(8, 2 * found.model.backbone.norm_groups)
    if found.train.schedule.warmup_epochs:
        changes["train.schedule.warmup_epochs"] = 0
    own = {f"model.{k}": size for k, size in SIZES.items() if hasattr(found.model, k)}
    return changes | own


def test_every_built_system_has_a_paper_recipe_and_a_small_one() -> None:
    assert BUILT
    for system in BUILT:
        own = [name for name in RECIPES if recipe(name).system == system]
        assert any(recipe(name).needs_gpu for name in own)
        assert recipe(system) == recipe(f"{system}_folder_cpu")
        assert not recipe(system).needs_gpu


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_survives_a_file(name: str, tmp_path: Path) -> None:
    found = recipe(name)
    assert found.name == name
    assert name.startswith(f"{found.system}_")
    assert found.about
    assert isinstance(found.model, system_class(found.system).Config)
    assert recipe_from_dict(recipe_to_dict(found)) == found
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(recipe_to_dict(found)))
    assert load_recipe(file) == found
    assert resolve_recipe(file) == found
    assert resolve_recipe(found, {}) == found


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_at_a_reduced_size(name: str, tmp_path: Path) -> None:
    found = recipe(name)
    run, file = tmp_path / "run", tmp_path / "mine.yaml"
    # the way that the refusal on a CPU names: a file of one's own, without the mark
    file.write_text(dump_yaml(recipe_to_dict(replace(found, needs_gpu=False))))
    done = rhyme("train", file, "--data", catalog(), "--out", run, "--json", *flags(reduced(found)))
    assert done.code == 0, done.err
    assert done.document["steps"] == 2
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    kept = load_recipe(run / "config.yaml")
    assert kept.model.backbone.norm_groups == found.model.backbone.norm_groups
    assert kept.train.optimizer == found.train.optimizer
    package = api.load(run).package
    assert package.config.name == kept.model.backbone.name
    assert set(package.heads) == HEADS.get(name, HEADS.get(found.system, {"m"}))


@pytest.mark.parametrize("name", R2V2)
def test_the_published_schedule(name: str) -> None:
    """ResNet-50 on 8 GPUs: the values that both published scripts share."""
    found = recipe(name)
    assert found.needs_gpu
    train = found.train
    assert (train.epochs, train.steps, train.batch_size) == (200, None, 512)
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.06, 0.9)
    assert (optimizer.weight_decay, optimizer.nesterov) == (1e-4, False)
    assert optimizer.decays_all, "biases and norms decay too"
    assert train.clip_norm is None
    schedule = train.schedule
    assert (schedule.name, schedule.per, schedule.final_lr) == ("cosine", "epoch", 0)
    assert (schedule.warmup_steps, schedule.warmup_epochs) == (0, 0)
    per_epoch = 1360
    for epoch in (0, 1, 100, 199):
        for step in (0, per_epoch - 1):
            found_rate = learning_rate(
                schedule, optimizer.lr, epoch * per_epoch + step, 200 * per_epoch, per_epoch
            )
            published = 0.06 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
            assert found_rate == pytest.approx(published, rel=1e-9)


@pytest.mark.parametrize("name", R2V2)
def test_the_published_network_and_views(name: str) -> None:
    model = recipe(name).model
    assert (model.backbone.name, model.backbone.norm_groups) == ("resnet50", 8)
    head = model.head
    assert (head.layers, head.out, head.hidden, head.hidden_norm) == (2, 128, None, False)
    assert (head.last_norm, head.activation, head.normalise) == (False, "relu", True)
    assert (model.temperature, model.momentum, model.queue) == (0.07, 0.999, 65536)
    transform = model.transform
    assert isinstance(transform, ContrastTransform)
    assert (transform.size, transform.scale) == (224, (0.2, 1.0))
    assert transform.ratio == pytest.approx((3 / 4, 4 / 3))
    assert (transform.jitter, transform.gray, transform.blur, transform.flip) == (
        0.8,
        0.2,
        0.5,
        0.5,
    )
    colour = (transform.brightness, transform.contrast, transform.saturation, transform.hue)
    assert colour == (0.4, 0.4, 0.4, 0.1)
    assert (transform.blur_sigma, transform.blur_kernel) == ((0.1, 2.0), None)
    assert (transform.solarize, transform.gray_first) == (0, False)
    assert transform.mean == (0.485, 0.456, 0.406)
    assert transform.std == (0.229, 0.224, 0.225)


def test_the_published_cycle() -> None:
    model = recipe("cycle_contrast_r2v2_8gpu").model
    assert isinstance(model, CycleContrastConfig)
    assert (model.cycle_queue, model.support) == (81920, 16384)
    assert model.cycle_queue - (model.support or 0) == model.queue, "as many negatives as MoCo has"
    assert (model.intra_weight, model.cycle_weight) == (1.0, 0.1)
    assert model.neighbour_temperature is None, "one temperature for all three contrasts"
    assert (model.separate_heads, model.include_self, model.candidates) == (True, False, 1)
    assert (model.positive, model.neighbour_values) == ("video", "support")
    assert not model.exclude_query_frame
    batch = recipe("cycle_contrast_r2v2_8gpu").train.batch_size
    assert model.queue % batch == model.cycle_queue % batch == 0


def test_the_published_baseline_is_image_level() -> None:
    model = recipe("moco_r2v2_8gpu").model
    assert isinstance(model, MocoConfig)
    assert model.positive == "image"


@pytest.mark.parametrize(
    ("name", "epochs", "rate"),
    [("densecl_imagenet_8gpu", 200, 0.03), ("densecl_coco_8gpu", 800, 0.3)],
)
def test_the_published_dense_contrast(name: str, epochs: int, rate: float) -> None:
    found = recipe(name)
    assert (found.train.epochs, found.train.batch_size) == (epochs, 256)
    optimizer, schedule = found.train.optimizer, found.train.schedule
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", rate, 0.9)
    assert optimizer.weight_decay == 1e-4
    assert (schedule.name, schedule.per, schedule.warmup_steps) == ("cosine", "epoch", 0)
    model = found.model
    assert isinstance(model, DenseCLConfig)
    assert (model.backbone.name, model.backbone.norm_groups) == ("resnet50", 8)
    for head in (model.head, model.dense_head):
        assert (head.layers, head.out, head.hidden, head.hidden_norm) == (2, 128, None, False)
    assert (model.temperature, model.momentum, model.queue) == (0.2, 0.999, 65536)
    assert (model.dense_queue, model.dense_weight, model.dense_warmup_steps) == (65536, 0.5, 0)
    assert (model.matching, model.grid) == ("backbone", None)


@pytest.mark.parametrize("name", PAPER)
def test_recipes_for_gpus_are_refused_on_a_cpu(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sized for GPUs") as caught:
        api.train(name, catalog(), out=tmp_path / "run", device="cpu", progress=False)
    assert f"rhyme train {recipe(name).system}" in str(caught.value.remedy)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_are_small(name: str) -> None:
    found = recipe(name)
    assert found.model.backbone.name in ("small", "small3d")
    assert found.model.transform.size <= 64
    assert (found.train.steps or 0) <= 1000
    assert (found.train.epochs or 0) <= 30


def test_the_published_simclr() -> None:
    found = recipe("simclr_imagenet_8gpu")
    train, model = found.train, found.model
    assert isinstance(model, SimclrConfig)
    assert (train.epochs, train.batch_size, train.peak_lr) == (1000, 4096, pytest.approx(4.8))
    optimizer, schedule = train.optimizer, train.schedule
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("lars", 0.9, 1e-6)
    assert (optimizer.eta, optimizer.decays_all) == (1e-3, False)
    assert (schedule.name, schedule.per, schedule.warmup_epochs) == ("cosine", "step", 10)
    assert (model.backbone.name, model.backbone.norm_groups) == ("resnet50", 1)
    assert model.head == HEAD_PRESETS["simclr"]
    assert (model.temperature, model.balance) == (0.1, "paper")
    transform = model.transform
    assert isinstance(transform, ContrastTransform)
    assert (transform.size, transform.scale) == (224, (0.08, 1.0))
    assert (transform.strength, transform.brightness, transform.hue) == (1.0, 0.8, 0.2)
    assert (transform.jitter, transform.gray, transform.blur) == (0.8, 0.2, 0.5)
    assert (transform.blur_sigma, transform.blur_kernel) == ((0.1, 2.0), 0.1)
    assert (transform.mean, transform.std) == ((0.0,) * 3, (1.0,) * 3)
    small = recipe("simclr_imagenet_b512")
    assert small.train.peak_lr == pytest.approx(0.075 * 512**0.5)
    assert (small.model.temperature, small.model.head.layers) == (0.2, 3)


def test_every_simclr_but_the_demo_has_the_views_of_the_paper() -> None:
    """Its colours and crops at some strength and size, in [0, 1]; what `train simclr` does too."""
    own = [recipe(name) for name in RECIPES if recipe(name).system == "simclr"]
    assert "simclr_folder_cpu" in {found.name for found in own}
    for found in own:
        look = found.model.transform
        if found.name == "simclr_world_demo":
            assert look == recipe("moco_world_demo").model.transform
            continue
        assert look == ContrastTransform.simclr(
            size=look.size,
            strength=1.0 if look.size == 224 else 0.5,
            blur=0.0 if look.size == 32 else 0.5,
            interpolation="bilinear" if found.name == "simclr_cifar10_cpu" else "bicubic",
        )


@pytest.mark.parametrize("colour", ["", "colour"])
@pytest.mark.parametrize(
    ("form", "epochs", "batch", "hidden", "frames", "width"),
    [("r50{}_8gpu", 500, 256, 512, 2, 2048), ("r18{}_2gpu", 200, 64, 128, 8, 512)],
)
def test_the_published_vfs(
    colour: str, form: str, epochs: int, batch: int, hidden: int, frames: int, width: int
) -> None:
    """100 epochs over the set five times (ResNet-18: twice), 32 videos on each GPU."""
    found = recipe("vfs_kinetics_" + form.format(colour))
    _vfs_schedule(found, epochs, batch)
    model = found.model
    assert isinstance(model, VFSConfig)
    backbone = model.backbone
    assert (backbone.name, backbone.norm_groups) == (f"resnet{form[1:3]}", 1)
    assert backbone.zero_init_residual
    assert (model.frames, model.stride) == (frames, None)
    assert (model.stop_gradient, model.negatives) == (True, False)
    projector, predictor = model.projector, model.predictor
    assert (projector.layers, projector.hidden, projector.out) == (3, None, 0), (
        "as wide as it reads"
    )
    assert (projector.hidden_norm, projector.last_norm, projector.last_affine) == (
        True,
        True,
        "both",
    )
    assert (predictor.layers, predictor.hidden, predictor.out) == (2, hidden, 0)
    assert (predictor.hidden_norm, predictor.last_norm) == (True, False)
    assert build_backbone(backbone).feature_dim == width
    look = model.transform
    assert isinstance(look, ContrastTransform)
    assert (look.size, look.scale, look.flip) == (224, (0.2, 1.0), 0.5)
    assert (look.jitter, look.gray, look.blur) == ((0.8, 0.2, 0.5) if colour else (0, 0, 0))
    if colour:
        jitter = (look.brightness, look.contrast, look.saturation, look.hue)
        assert jitter == (0.4, 0.4, 0.4, 0.1)


def test_the_published_vfs_with_negatives() -> None:
    found = recipe("vfs_kinetics_negatives_8gpu")
    _vfs_schedule(found, 500, 256)
    model = found.model
    assert isinstance(model, VFSConfig)
    assert (model.negatives, model.batch_negatives) == (True, True)
    assert (model.momentum, model.temperature, model.queue) == (0.999, 0.2, 65536)
    head = model.head
    assert (head.layers, head.out, head.hidden, head.hidden_norm) == (2, 128, None, False)
    assert model.backbone.norm_groups == 8, "shuffle-BN is on"


def _vfs_schedule(found: Recipe, epochs: int, batch: int) -> None:
    train = found.train
    assert (train.epochs, train.steps, train.batch_size) == (epochs, None, batch)
    optimizer, schedule = train.optimizer, train.schedule
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.05, 0.9)
    assert (optimizer.weight_decay, optimizer.decays_all, optimizer.nesterov) == (1e-4, True, False)
    assert train.peak_lr == 0.05, "not rescaled by the batch"
    assert (schedule.name, schedule.per, schedule.final_lr) == ("cosine", "step", 0)
    assert (schedule.warmup_steps, schedule.warmup_epochs) == (0, 0)


def test_colours_of_vfs_are_changed_by_three_options() -> None:
    """Those that its page names."""
    changes = {"jitter": 0.8, "gray": 0.2, "blur": 0.5}
    found = resolve_recipe(
        "vfs_folder_cpu", {f"model.transform.{name}": value for name, value in changes.items()}
    )
    assert found.model.transform == ContrastTransform.moco_v2(size=64)


@pytest.mark.parametrize("name", ["moco_folder_cpu", "densecl_folder_cpu", "vfs_folder_cpu"])
def test_a_folder_is_seen_with_the_views_of_the_paper(name: str) -> None:
    own = ContrastTransform.vfs_nc if name.startswith("vfs") else ContrastTransform.moco_v2
    assert recipe(name).model.transform == own(size=64)


@pytest.mark.parametrize("data", ["k400", "ucf101"])
@pytest.mark.parametrize("base", ["simclr", "moco"])
def test_the_published_dual(data: str, base: str) -> None:
    found = recipe(f"dual_{data}_{base}_8gpu")
    train, model = found.train, found.model
    assert isinstance(model, DualConfig)
    assert (train.epochs, train.batch_size, train.peak_lr) == (200, 64, 0.003)
    optimizer, schedule = train.optimizer, train.schedule
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
    assert optimizer.decays_all
    assert (schedule.name, schedule.milestones, schedule.gamma) == ("step", (120, 160), 0.1)
    assert (schedule.per, schedule.warmup_steps, schedule.warmup_epochs) == ("epoch", 0, 0)
    assert (model.backbone.name, model.backbone.norm_groups) == ("r21d", 1)
    assert (model.base, model.mode, model.segments) == (base, "clip-sr-tc", 2)
    assert (model.frames, model.stride, model.place, model.reverse) == (16, 4, "edges", 0.5)
    assert (model.temperature, model.tc_temperature, model.theta) == (0.07, 0.07, 0.05)
    assert (model.w_clip, model.w_tc, model.w_sr, model.clamp) == (1, 1, 1, None)
    assert (model.momentum, model.queue) == (0.999, 16384)
    for head, out in ((model.head, 128), (model.series, 64)):
        assert (head.layers, head.out, head.hidden, head.hidden_norm) == (2, out, None, False)
    assert model.transform == ContrastTransform.dual(size=112)
    assert model.source_skip == 0.2
    for small in ("dual_folder_cpu", "dual_world_demo"):
        assert recipe(small).model.backbone.temporal_strides == (1, 2, 2, 2), "sees 16 frames"
    published = recipe("dual_k400_published_8gpu").model
    assert published == DualConfig.published(transform=published.transform)


@pytest.mark.parametrize(
    ("name", "batch", "rate"),
    [("cstp_k400_r21d_8gpu", 128, 0.09), ("cstp_ucf101_r21d_1gpu", 60, 0.03)],
)
def test_the_published_cstp(name: str, batch: int, rate: float) -> None:
    found = recipe(name)
    train, model = found.train, found.model
    assert isinstance(model, CstpConfig)
    assert (train.epochs, train.batch_size, train.clip_norm) == (300, batch, 18)
    optimizer, schedule = train.optimizer, train.schedule
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", rate, 0.9)
    assert (optimizer.weight_decay, optimizer.decays_all) == (5e-4, True)
    rates = [learning_rate(schedule, rate, step, 600, 2) for step in (0, 150, 300, 450, 600)]
    half = (rate + 1e-5) / 2
    assert rates == pytest.approx([1e-5, half, rate, half, 1e-5])
    assert model == CstpConfig(), "the defaults are the published ones"
    assert (model.backbone.name, model.backbone.norm_groups) == ("r21d", 1)
    assert model.overlap.paces == (1, 2, 4, 8)
    assert model.overlap.rates == (1.0, 0.8, 0.6, 0.4, 0.2)
    look = model.transform
    assert (look.size, look.skip, look.flip, look.gray_mode) == (112, 0.7, 0.5, "channel")
    assert (look.jitter, look.gray, look.blur, look.hue) == (0.8, 0.2, 0.5, 0.1)


def test_the_published_versions_of_moco() -> None:
    first, second = (recipe(f"moco_v{k}_imagenet_8gpu") for k in (1, 2))
    for found in (first, second):
        train, model = found.train, found.model
        assert (train.epochs, train.batch_size, train.peak_lr) == (200, 256, 0.03)
        assert (train.optimizer.name, train.optimizer.weight_decay) == ("sgd", 1e-4)
        assert (model.momentum, model.queue, model.backbone.norm_groups) == (0.999, 65536, 8)
        assert model.queue % train.batch_size == 0
        assert model.shuffle
    assert (first.model.temperature, second.model.temperature) == (0.07, 0.2)
    assert (first.model.head.layers, second.model.head.layers) == (1, 2)
    assert first.model.transform == ContrastTransform.moco_v1()
    assert second.model.transform == ContrastTransform.moco_v2()
    assert (first.train.schedule.name, first.train.schedule.milestones) == ("step", (120, 160))
    assert (second.train.schedule.name, second.train.schedule.per) == ("cosine", "epoch")


@pytest.mark.parametrize("name", [name for name in RECIPES if "_cifar10_1gpu" in name])
def test_small_pictures_on_one_gpu(name: str) -> None:
    found = recipe(name)
    assert (found.model.backbone.name, found.model.backbone.stem) == ("resnet18", "cifar")
    assert (found.train.epochs, found.train.batch_size) == (200, 512)
    assert found.model.backbone.norm_groups == (8 if found.system == "moco" else 1)
    assert (found.train.precision, found.train.channels_last) == ("bf16", True)
    assert found.train.compile == "auto"
    assert (found.data.cache_frames, found.data.augment) == (1, "device")
    assert (found.model.transform.size, found.model.transform.blur) == (32, 0)


def test_rates_of_small_pictures_on_one_gpu_are_the_published_ones() -> None:
    """SimCLR's code takes a rate for 256 pictures and scales it; MoCo's is that of the batch."""
    simclr, moco = (recipe(f"{name}_cifar10_1gpu").train for name in ("simclr", "moco"))
    optimizer = simclr.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.lr_scaling) == ("lars", 1.0, "linear")
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.eta) == (0.9, 1e-4, 1e-3)
    assert (simclr.batch_size, simclr.peak_lr) == (512, 2.0)
    assert (simclr.schedule.name, simclr.schedule.warmup_epochs) == ("cosine", 10)
    assert (moco.optimizer.name, moco.batch_size, moco.peak_lr) == ("sgd", 512, 0.06)


def test_arms_of_one_budget_differ_in_the_method_alone() -> None:
    for cycle in (name for name in RECIPES if name.startswith("cycle_contrast")):
        ours, theirs = recipe(cycle), recipe(cycle.replace("cycle_contrast", "moco"))
        assert ours.train == theirs.train
        assert ours.data == theirs.data
        for shared in ("backbone", "head", "transform", "temperature", "momentum", "queue"):
            assert getattr(ours.model, shared) == getattr(theirs.model, shared)


def test_unknown_and_planned_names() -> None:
    with pytest.raises(UnknownName) as caught:
        recipe("moco_folder_gpu")
    assert "moco_folder_cpu" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="planned"):
        recipe("nerv")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"model.cycle_queue": 64}, "cycle_queue"),
        ({"cycle.queue": 64}, "cycle"),
        ({"data.cache_frames": None}, "cache_size"),
        ({"data.segment": -1}, "segment"),
        ({"train.steps": "many"}, "train.steps"),
        ({"system": "mocco"}, "mocco"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe("moco_folder_cpu", changes)
    assert names in str(caught.value)


def test_a_length_replaces_the_other_one() -> None:
    assert resolve_recipe("moco_folder_cpu", {"train.epochs": 3}).train.steps is None
    long = resolve_recipe("moco_r2v2_8gpu", {"train.steps": 5}).train
    assert (long.steps, long.epochs) == (5, None)
    both = resolve_recipe("moco_folder_cpu", {"train.epochs": 3, "train.steps": 9}).train
    assert (both.steps, both.epochs) == (9, 3)


def test_another_network_does_not_inherit_options_of_the_old_one() -> None:
    def backbone(recipe: str | Recipe, **changes: Any) -> tuple[BackboneConfig, list[str]]:
        said: list[str] = []
        dotted = {f"model.backbone.{name}": value for name, value in changes.items()}
        return resolve_recipe(recipe, dotted, say=said.append).model.backbone, said

    for name in ("resnet18", "torchvision:convnext_tiny"):
        found, said = backbone("moco_folder_cpu", name=name)
        assert found == BackboneConfig(name=name)
        assert said == [
            f"{name} has its own strides; those of the recipe are made for small "
            "(strides [2, 2, 2, 2])"
        ]
    # What says how it is used goes over, and what is given holds.
    found, _ = backbone("moco_cifar10_cpu", name="resnet18")
    assert found == BackboneConfig(name="resnet18", norm_groups=8)
    found, said = backbone("moco_folder_cpu", name="resnet18", strides=[1, 2, 1, 1])
    assert (found.strides, said) == ((1, 2, 1, 1), [])
    found, said = backbone("dual_folder_cpu", name="r3d_18")
    assert found == BackboneConfig(name="r3d_18")
    assert "temporal_strides" in said[0]
    # Options of a network of the same kind mean the same.
    found, said = backbone("moco_cifar10_1gpu", name="resnet50")
    assert (found.stem, found.norm_groups, said) == ("cifar", 8, [])
    assert backbone("moco_folder_cpu", name="small")[0].strides == (2, 2, 2, 2)
    assert backbone("moco_folder_cpu", name="resnet51")[1] == [], "the name is what is wrong"
    # Null is the network's own.
    assert backbone("moco_folder_cpu", strides=None)[0] == BackboneConfig(name="small")
    assert build_backbone(backbone("moco_folder_cpu", strides=None)[0]).config.strides[0] == 1
    # A run that goes on keeps what it has.
    kept = resolve_recipe(
        "moco", {"model.backbone.name": "resnet50", "model.backbone.strides": [2, 2, 2, 2]}
    )
    assert recipe_from_dict(recipe_to_dict(kept)) == kept
    assert resolve_recipe(kept, {"train.workers": 1}).model == kept.model
    whole = {"name": "resnet18", "strides": [1, 2, 1, 1]}
    given = resolve_recipe("moco", {"model.backbone": whole}).model.backbone
    assert given.strides == (1, 2, 1, 1)
