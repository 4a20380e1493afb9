"""MS-TCN: its form, its loss against a loop, and what it learns that no single frame tells."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import (
    MultiStageTCN,
    SegmenterConfig,
    fit_segmenter,
    predict_frames,
    segmentation_loss,
)

SMALL = SegmenterConfig(stages=2, layers=4, maps=16, epochs=12, lr=5e-3)


def test_the_published_size() -> None:
    model = MultiStageTCN(2048, 48, SegmenterConfig())
    assert len(model.stages) == 4
    dilations = [layer.dilated.dilation[0] for layer in list(model.stages[0])[1:-1]]
    assert dilations == [2**i for i in range(10)]
    layer = 64 * 64 * 3 + 64 + 64 * 64 + 64
    stage = 10 * layer + (64 * 48 + 48)
    first, later = 2048 * 64 + 64, 48 * 64 + 64
    assert sum(p.numel() for p in model.parameters()) == 4 * stage + first + 3 * later


def test_every_stage_speaks_for_every_frame_and_sees_so_far() -> None:
    model = MultiStageTCN(5, 3, SegmenterConfig(stages=1, layers=3, maps=32)).eval()
    x = torch.randn(1, 5, 41, requires_grad=True)
    logits = model(x)
    assert logits.shape == (1, 1, 3, 41)
    logits[0, 0, :, 20].sum().backward()
    reached = x.grad.abs().sum(1)[0].nonzero()[:, 0]
    assert (int(reached.min()), int(reached.max())) == (20 - 7, 20 + 7), "2^(3 + 1) - 1 frames"


def test_a_later_stage_reads_probabilities() -> None:
    model = MultiStageTCN(5, 3, SegmenterConfig(stages=2, layers=2, maps=4)).eval()
    seen = []
    model.stages[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(torch.randn(1, 5, 9))
    assert torch.allclose(seen[0], logits[0].softmax(1))
    assert torch.allclose(seen[0].sum(1), torch.ones(1, 9))


def test_loss_and_gradient_against_a_loop() -> None:
    torch.manual_seed(0)
    stages, classes, t = 2, 3, 7
    logits = (6 * torch.randn(stages, 1, classes, t, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([[0, 0, 2, -1, 1, 1, 0]])
    loss = segmentation_loss(logits, labels, smoothing=0.15, truncation=4.0)
    loss.backward()
    z = logits.detach().numpy()
    logp = z - np.log(np.exp(z).sum(2, keepdims=True))
    p = np.exp(logp)
    total, gradient = 0.0, np.zeros_like(z)
    known = [i for i in range(t) if labels[0, i] >= 0]
    truncated = 0
    for s in range(stages):
        for i in known:
            y = int(labels[0, i])
            total -= logp[s, 0, y, i] / len(known)
            for c in range(classes):
                gradient[s, 0, c, i] += (p[s, 0, c, i] - (c == y)) / len(known)
        for i in range(1, t):
            for c in range(classes):
                gap = logp[s, 0, c, i] - logp[s, 0, c, i - 1]
                weight = 0.15 / (classes * (t - 1))
                total += weight * min(gap**2, 16)
                truncated += gap**2 > 16
                if gap**2 < 16:  # the earlier frame is detached: only frame i is moved
                    for k in range(classes):
                        gradient[s, 0, k, i] += weight * 2 * gap * ((k == c) - p[s, 0, k, i])
    assert truncated, "the truncation is met"
    assert loss.item() == pytest.approx(total, abs=1e-12)
    assert np.allclose(logits.grad.numpy(), gradient, atol=1e-12)


def test_uniform_logits_cost_the_log_of_the_classes_a_stage() -> None:
    logits = torch.zeros(4, 1, 5, 6, dtype=torch.float64)
    labels = torch.zeros(1, 6, dtype=torch.int64)
    assert segmentation_loss(logits, labels).item() == pytest.approx(4 * math.log(5))
    assert segmentation_loss(logits[..., :1], labels[:, :1]).isfinite()


def ordered_videos(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The class of a frame is told by a pulse at the beginning of its segment, and by nothing in
    the frames behind it."""
    rng = np.random.default_rng(seed)
    videos = []
    for _ in range(count):
        labels, features = [], []
        for label in rng.integers(0, 3, 4):
            length = int(rng.integers(6, 10))
            x = 0.1 * rng.normal(size=(length, 6))
            x[:2, label] += 2
            labels.append(np.full(length, label))
            features.append(x)
        videos.append((np.concatenate(features).astype(np.float32), np.concatenate(labels)))
    return videos


def test_it_carries_what_a_frame_does_not_show_and_repeats_itself() -> None:
    torch.set_num_threads(1)
    train, test = ordered_videos(0, 20), ordered_videos(1, 10)
    before = torch.get_rng_state()
    steps = []
    model = fit_segmenter(train, 3, SMALL, seed=3, progress=steps.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(steps) == SMALL.epochs * sum(len(y) for _, y in train)
    right = np.concatenate([predict_frames(model, x) == y for x, y in test])
    assert right.mean() > 0.85, "a frame alone: a third of the frames, and chance for the rest"
    short = dataclasses.replace(SMALL, epochs=2)
    model, again, other = (fit_segmenter(train[:6], 3, short, seed=s) for s in (3, 3, 4))
    x = test[0][0]
    logits = [m(torch.from_numpy(x.T)[None]) for m in (model, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_options_and_data_that_cannot_be() -> None:
    for changes in ({"stages": 0}, {"dropout": 1.0}, {"lr": 0.0}, {"truncation": 0.0}):
        with pytest.raises(ConfigError):
            SegmenterConfig(**changes)
    with pytest.raises(DataError, match="no video"):
        fit_segmenter([(np.zeros((4, 2), np.float32), np.full(4, -1))], 2, SMALL)
