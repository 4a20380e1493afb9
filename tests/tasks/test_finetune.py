"""A classifier trained on pictures: it learns, a frozen encoder stays, repeats are equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rhyme.catalog import Catalog, scan
from rhyme.encoders import BackboneConfig, InferencePlan, build_backbone
from rhyme.errors import ConfigError, DataError, Diverged, UnknownName
from rhyme.loading import FrameCache
from rhyme.synthetic import WorldConfig, write_world
from rhyme.tasks import Classifier, Tuning, fine_tune, predict_classes, usable_rows

PLAN = InferencePlan(size=12, resize=12)
QUICK = Tuning(epochs=8, batch_size=8, lr=1.0)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Pictures with stripes along or across, of any colour: 16 of each class."""
    root = tmp_path_factory.mktemp("stripes")
    random = np.random.default_rng(0)
    for name in ("along", "across"):
        (root / name).mkdir()
        for k in range(16):
            wave = (np.arange(12) // 2 % 2)[:, None].repeat(12, 1)
            wave = wave if name == "across" else wave.T
            colour = random.integers(120, 255, 3)
            picture = (wave[..., None] * colour).astype(np.uint8)
            Image.fromarray(picture).save(root / name / f"p{k}.png")
    return scan(root)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("films")
    write_world(
        WorldConfig(counts=(12, 1, 1), size=24, frames=9, sound=False, truth="labels"), folder
    )
    return scan(folder).select(split="train")


@pytest.fixture
def encoder() -> nn.Module:
    config = BackboneConfig(name="small", widths=(8, 8, 8, 8), norm_groups=4)
    return build_backbone(config, seed=0).eval()


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, v in module.state_dict().items() if not torch.equal(v, before[n])}


def codes(catalog: Catalog) -> np.ndarray:
    return catalog.labels()[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_it_learns_and_leaves_the_given_encoder(stripes, encoder, frozen: bool) -> None:
    before, labels = state(encoder), codes(stripes)
    done: list[tuple[int, int]] = []
    tuning = replace(QUICK, frozen=True, epochs=20, lr=30.0, scale=(0.6, 1.0)) if frozen else QUICK
    model = fine_tune(
        encoder, PLAN, stripes, labels, 2, tuning, progress=lambda a, b: done.append((a, b))
    )
    rows, predicted = predict_classes(model, PLAN, stripes, frames_per_item=1)
    assert rows.tolist() == list(range(32))
    assert (predicted == labels[rows]).mean() >= (0.75 if frozen else 0.9)
    assert changed(encoder, before) == set()
    assert encoder.config.norm_groups == 4
    moved = changed(model.encoder, before)
    assert moved == set() if frozen else {"layer1.conv.weight", "layer1.bn.running_mean"} <= moved
    assert done[-1] == (32 * tuning.epochs, 32 * tuning.epochs)
    assert not model.training


def test_the_same_seed_gives_the_same_bits_with_and_without_a_cache(stripes, encoder) -> None:
    torch.set_num_threads(1)
    labels, short = codes(stripes), replace(QUICK, epochs=2)
    cache = FrameCache.build(stripes, frames_per_item=1, size=12)
    first, second, other = (
        state(fine_tune(encoder, PLAN, stripes, labels, 2, short, seed=s, cache=c))
        for s, c in ((0, None), (0, cache), (1, None))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_frames_are_drawn_from_the_same_ones_with_and_without_a_cache(films, encoder) -> None:
    torch.set_num_threads(1)
    labels, short = np.arange(len(films)) % 2, replace(QUICK, epochs=3)
    cache = FrameCache.build(films, frames_per_item=2, size=24)
    first, second, every = (
        state(fine_tune(encoder, PLAN, films, labels, 2, short, cache=c, frames=n))
        for c, n in ((cache, 2), (None, 2), (None, None))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], every["head.weight"])


def test_the_labels_belong_to_the_items_whatever_their_order(stripes, encoder) -> None:
    order = np.random.default_rng(1).permutation(32)
    short, labels = replace(QUICK, epochs=2), codes(stripes)
    straight = fine_tune(encoder, PLAN, stripes, labels, 2, short)
    shuffled = fine_tune(encoder, PLAN, stripes.select(indices=order), labels[order], 2, short)
    pixels = torch.rand(2, 1, 3, 12, 12)
    assert torch.equal(straight(pixels).pooled, shuffled(pixels).pooled)


def test_the_rate_follows_the_batch(stripes, encoder, monkeypatch) -> None:
    rates: list[float] = []
    real = torch.optim.SGD.step

    def watched(self, *rest):
        rates.append(self.param_groups[0]["lr"])
        return real(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    fine_tune(encoder, PLAN, stripes, codes(stripes), 2, Tuning(epochs=2, batch_size=16, lr=0.8))
    expected = [0.05 * 0.5 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]
    assert rates == pytest.approx(expected)


def test_refusals(stripes, encoder) -> None:
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            Tuning(**wrong)
    with pytest.raises(ConfigError, match="batch_size must be at least 2"):
        Tuning(batch_size=1, norm=True)
    with pytest.raises(DataError, match="two classes"):
        fine_tune(encoder, PLAN, stripes, np.zeros(32, np.int64), 2, QUICK)
    with pytest.raises(UnknownName, match="unknown schedule"):
        Tuning(schedule="steps")
    with pytest.raises(ConfigError, match="milestones"):
        Tuning(milestones=(3,))


def test_probabilities_of_frames_are_averaged(stripes: Catalog, encoder, tmp_path: Path) -> None:
    model = Classifier(encoder, 3, seed=1).eval()
    pooled = model(torch.rand(4, 1, 3, 12, 12)).pooled
    assert pooled.shape == (4, 3)
    assert torch.allclose(pooled.sum(1), torch.ones(4))


def test_a_classifier_starts_near_zero(encoder) -> None:
    """N(0, 0.01) and no offset, as MoCo's linear protocol has it."""
    head = Classifier(encoder, 4000, seed=1).head
    assert head.bias.abs().max() == 0
    weights = head.weight.detach()
    assert float(weights.mean()) == pytest.approx(0, abs=3e-4)
    assert float(weights.std()) == pytest.approx(0.01, rel=0.02)
    assert float(weights.abs().max()) > 0.03, "normal and not uniform"
    other = Classifier(encoder, 4000, seed=2).head.weight
    assert not torch.equal(weights, other)


def test_a_run_that_diverges_ends_with_its_epoch(stripes, encoder) -> None:
    done: list[int] = []
    with pytest.raises(Diverged, match=r"diverged at lr 1e\+30"):
        fine_tune(
            encoder, PLAN, stripes, codes(stripes), 2, replace(QUICK, lr=1e30),
            progress=lambda a, _: done.append(a),
        )  # fmt: skip
    assert done[-1] < 32 * QUICK.epochs


def test_steps_instead_of_epochs(stripes, encoder) -> None:
    done: list[int] = []
    fine_tune(
        encoder, PLAN, stripes, codes(stripes), 2, replace(QUICK, steps=6),
        progress=lambda a, _: done.append(a),
    )  # fmt: skip
    assert done == [8, 16, 24, 32, 40, 48], "six batches of 8 run over the four of an epoch"
    with pytest.raises(ConfigError, match="steps"):
        Tuning(steps=-1)


def batches_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the size of each batch that a classifier reads."""
    sizes: list[int] = []
    real = Classifier.logits

    def counted(self: Classifier, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Classifier, "logits", counted)
    return sizes


@pytest.mark.parametrize(("batch", "steps"), [(20, 2), (31, 1), (30, 2)])
def test_an_epoch_sees_every_item_but_a_single_last_one(
    stripes, encoder, monkeypatch, batch: int, steps: int
) -> None:
    sizes = batches_seen(monkeypatch)
    tuning = replace(QUICK, batch_size=batch, epochs=1)
    fine_tune(encoder, PLAN, stripes, codes(stripes), 2, tuning)
    assert len(sizes) == steps
    assert sum(sizes) == (31 if batch == 31 else 32), "batch norm cannot read a single row"


@pytest.mark.parametrize(("damaged", "batch", "sizes"), [(1, 15, [15, 15]), (2, 31, [30])])
def test_an_epoch_is_divided_by_the_items_that_can_be_read(
    stripes, encoder, monkeypatch, damaged: int, batch: int, sizes: list[int]
) -> None:
    """One damaged of 32 leaves a single last row, two of them less than a batch of 31."""
    cache = FrameCache.build(stripes, frames_per_item=1, size=12)
    cache.counts[:damaged] = 0
    seen = batches_seen(monkeypatch)
    tuning = replace(QUICK, batch_size=batch, epochs=1, norm=True)
    fine_tune(encoder, PLAN, stripes, codes(stripes), 2, tuning, cache=cache)
    assert seen == sizes
    kept = usable_rows(PLAN, stripes, tuning, cache=cache)
    assert kept.tolist() == list(range(damaged, 32))
    assert usable_rows(PLAN, stripes, tuning).tolist() == list(range(32))


def test_where_one_class_cannot_be_read_there_is_nothing_to_learn(stripes, encoder) -> None:
    cache = FrameCache.build(stripes, frames_per_item=1, size=12)
    cache.counts[1:] = 0
    with pytest.raises(DataError, match="two classes"):
        fine_tune(encoder, PLAN, stripes, codes(stripes), 2, QUICK, cache=cache)
    cache.counts[:] = 0
    with pytest.raises(DataError, match="every item is too short for the view plan, or damaged"):
        fine_tune(encoder, PLAN, stripes, codes(stripes), 2, QUICK, cache=cache)
