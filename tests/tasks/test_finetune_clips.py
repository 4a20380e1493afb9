"""Fine-tuning on clips: the order of frames is learnt, and every setting does what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rhyme.catalog import Catalog, scan
from rhyme.encoders import BackboneConfig, Features, InferencePlan, build_backbone
from rhyme.loading import FrameCache
from rhyme.tasks import Classifier, Tuning, fine_tune, predict_classes
from rhyme.views import clip_sampling

PLAN = InferencePlan(size=8, resize=8, frames=4, stride=2)
QUICK = Tuning(epochs=10, batch_size=8, lr=0.3, lr_batch=8, scale=(0.6, 1.0))


class TinyClips(nn.Module):
    """A clip encoder: one convolution over space and time, batch norm, mean over the clip."""

    reads_clips = True
    feature_dim = 6

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv3d(3, 6, 3, padding=(0, 1, 1), bias=False)
        self.bn = nn.BatchNorm3d(6)

    def forward(self, clips: Tensor) -> Features:
        found = torch.relu(self.bn(self.conv(clips.transpose(1, 2))))
        return Features(pooled=found.mean(dim=(2, 3, 4)), map=found)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Films of 8 frames that grow brighter or darker; each has a twin that runs backwards."""
    root = tmp_path_factory.mktemp("ordered")
    random = np.random.default_rng(0)
    for k in range(10):
        tint = random.uniform(0.5, 1.0, 3)
        for name in ("up", "down"):
            folder = root / name / f"film{k}"
            folder.mkdir(parents=True)
            for t in range(8):
                level = 20 + 28 * (t if name == "up" else 7 - t)
                picture = np.full((8, 8, 3), level * tint, np.uint8)
                Image.fromarray(picture).save(folder / f"{t}.png")
    return scan(root)


def labels(catalog: Catalog) -> np.ndarray:
    return catalog.labels()[0]


def accuracy(model: Classifier, catalog: Catalog, rule: str = "linspace3") -> float:
    sampling = clip_sampling(rule, frames=PLAN.frames, stride=PLAN.stride)
    rows, predicted = predict_classes(model, PLAN, catalog, sampling=sampling)
    assert len(rows) == len(catalog)
    return float((predicted == labels(catalog)[rows]).mean())


def test_clips_tell_what_frames_cannot(ordered: Catalog) -> None:
    assert len(ordered) == 20
    model = fine_tune(TinyClips(), PLAN, ordered, labels(ordered), 2, QUICK)
    assert accuracy(model, ordered) == 1.0
    assert accuracy(model, ordered, "tiled+last") == 1.0
    assert accuracy(model, ordered, "half-overlap") == 1.0
    frames = build_backbone(BackboneConfig(name="small", widths=(8, 8, 8, 8)), seed=0)
    blind = fine_tune(frames, PLAN, ordered, labels(ordered), 2, replace(QUICK, epochs=2))
    # whole films: the mean over the frames of a film and of its twin are the same
    every = clip_sampling("linspace1", frames=8, stride=1)
    rows, predicted = predict_classes(blind, PLAN, ordered, sampling=every)
    assert (predicted == labels(ordered)[rows]).mean() == 0.5


def test_a_frozen_clip_encoder_stays_as_it_is(ordered: Catalog) -> None:
    encoder = TinyClips()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tuning = replace(QUICK, frozen=True, norm=True, epochs=12)
    model = fine_tune(encoder, PLAN, ordered, labels(ordered), 2, tuning)
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    batches = math.ceil(len(ordered) / tuning.batch_size)
    assert int(model.norm.num_batches_tracked) == 12 * batches  # pyright: ignore
    assert accuracy(model, ordered) >= 0.9


def test_a_cache_of_every_frame_changes_nothing(ordered: Catalog) -> None:
    torch.set_num_threads(1)
    short = replace(QUICK, epochs=2, jitter=0.5)
    cache = FrameCache.build(ordered, frames_per_item=8, size=8)
    states = [
        fine_tune(TinyClips(), PLAN, ordered, labels(ordered), 2, short, cache=c).state_dict()
        for c in (None, cache)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_clips_are_drawn_as_a_whole_with_their_stride() -> None:
    plan = InferencePlan(size=112, resize=128, frames=16, stride=4)
    views = Tuning(stride=2, crop="window", jitter=0.8, strength=2.0, flip=0.25).views(plan)
    clip, spec = views.clips["a"], views.views["crop"]
    assert (clip.frames, clip.stride, clip.spacing) == (16, 2, None)
    assert spec.consistent == "clip"
    crops = spec.transform
    assert (crops.resize, crops.jitter, crops.flip) == ((128, 171), 0.8, 0.25)  # pyright: ignore
    assert (crops.gray, crops.blur) == (0, 0)  # pyright: ignore
    spaced = Tuning().views(replace(plan, stride=0, spacing=0.2)).clips["a"]
    assert (spaced.frames, spaced.stride, spaced.spacing) == (16, None, 0.2)
    assert Tuning(frames=8).plan(plan).frames == 8
    still = Tuning().views(InferencePlan(size=24, resize=24)).clips["a"]
    assert (still.frames, still.stride) == (1, None)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []
    real = torch.optim.SGD.step

    def watched(self, *rest):
        seen.append(self.param_groups[0]["lr"])
        return real(self, *rest)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    return seen


def test_steps_fall_at_their_epochs(ordered: Catalog, rates: list[float]) -> None:
    tuning = Tuning(
        epochs=4, batch_size=10, lr=0.1, lr_batch=10, schedule="step", milestones=(1, 3)
    )
    fine_tune(TinyClips(), PLAN, ordered, labels(ordered), 2, tuning)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_a_plateau_lowers_the_rate(ordered: Catalog, rates: list[float]) -> None:
    """Every epoch shows the whole films, so that at this rate the loss stands still."""
    whole = Tuning(epochs=5, batch_size=20, lr=1e-6, lr_batch=20, frames=8, stride=1)
    tuning = replace(whole, schedule="plateau", patience=1, scale=(1.0, 1.0))
    fine_tune(TinyClips(), PLAN, ordered, labels(ordered), 2, tuning)
    assert rates == pytest.approx([1e-6, 1e-6, 1e-6, 1e-7, 1e-7])


def test_unit_features_and_batch_norm_stand_before_the_classifier() -> None:
    clips = torch.rand(5, 4, 3, 8, 8)
    model = Classifier(TinyClips(), 3, unit=True, norm=True)
    feature = model.encoder(clips).pooled
    unit = feature / feature.norm(dim=1, keepdim=True)
    normed = (unit - unit.mean(0)) / (unit.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normed @ model.head.weight.T + model.head.bias
    assert torch.allclose(model.logits(clips), expected, atol=1e-5)
    assert isinstance(Classifier(TinyClips(), 3).norm, nn.Identity)


@pytest.mark.parametrize("aggregate", ["softmax", "logits"])
def test_what_is_averaged_over_clips(ordered: Catalog, aggregate: str, tmp_path: Path) -> None:
    """Against a loop over the clips of each film."""
    model = Classifier(TinyClips(), 3, seed=1, aggregate=aggregate).eval()  # pyright: ignore
    with torch.no_grad():
        model.head.weight.mul_(300)  # far from linear, so that the two means differ
    sampling = clip_sampling("linspace3", frames=4, stride=1)
    rows, predicted = predict_classes(model, PLAN, ordered, sampling=sampling)
    assert rows.tolist() == list(range(20))
    clips = sampling.of(ordered.facts())
    for row in (0, 7, 19):
        reader = ordered.reader(row)
        told: list[Tensor] = []
        for index in clips.index[clips.rows == row]:
            frames, _ = reader.read((index + 0.5) / 25)
            mean, std = (torch.tensor(v)[:, None, None] for v in (PLAN.mean, PLAN.std))
            logits = model.logits(((frames.float() / 255 - mean) / std)[None])[0]
            told.append(logits.softmax(0) if aggregate == "softmax" else logits)
        reader.close()
        assert predicted[row] == int(torch.stack(told).mean(0).argmax())
