"""MS-TCN: temporal convolutions over the features of a whole video (Abu Farha and Gall, CVPR 2019).

A stage is a 1x1 convolution, L residual layers whose dilation doubles from layer to layer, and a
classifier of each frame; a later stage reads the class probabilities of the one before it. With
p_t the probabilities of frame t, sg the stop-gradient and σ the truncation,

    loss of a stage = CE + λ · mean over t, c of  min((log p_t,c − sg log p_t−1,c)², σ²),

and the stages are summed (arXiv 1903.01945, §3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.errors import ConfigError, DataError, EvaluationError
from rhyme.tasks.table import Float, Integer

__all__ = ["MultiStageTCN", "SegmenterConfig", "fit_segmenter", "predict_frames",
           "segmentation_loss"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Size and training of the network; the defaults are the paper's.

    Attributes:
        stages: stages.
        layers: dilated residual layers of each; the last sees 2^(layers + 1) - 1 frames.
        maps: channels within a stage.
        dropout: in every layer, while training.
        epochs: passes over the videos; the last one's weights are taken.
        lr: learning rate of Adam.
        smoothing: λ, weight of the smoothness between neighbouring frames.
        truncation: σ, the difference of log-probabilities from which it no longer grows.
    """

    stages: int = 4
    layers: int = 10
    maps: int = 64
    dropout: float = 0.5
    epochs: int = 50
    lr: float = 5e-4
    smoothing: float = 0.15
    truncation: float = 4.0

    def __post_init__(self) -> None:
        for name, most in (("stages", 32), ("layers", 20), ("maps", 4096), ("epochs", 100_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must lie in 1 to {most}", value=getattr(self, name))
        if not 0 <= self.dropout < 1 or not self.lr > 0:
            raise ConfigError(
                "dropout lies in [0, 1) and lr above 0", value=(self.dropout, self.lr)
            )
        if self.smoothing < 0 or self.truncation <= 0:
            raise ConfigError(
                "smoothing must not be negative, and truncation is above 0",
                value=(self.smoothing, self.truncation),
            )


class _Layer(nn.Module):
    """A dilated convolution of three taps, ReLU, 1x1, dropout, and the input added."""

    def __init__(self, maps: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.mix(functional.relu(self.dilated(x))))


class MultiStageTCN(nn.Module):
    """The network.

    Args:
        dim: length of a frame's feature.
        classes: number of classes.
        config: its size.
    """

    def __init__(self, dim: int, classes: int, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(dim if stage == 0 else classes, config.maps, 1),
                *(_Layer(config.maps, 2**i, config.dropout) for i in range(config.layers)),
                nn.Conv1d(config.maps, classes, 1),
            )
            for stage in range(config.stages)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[stages, b, classes, t]`` of features ``[b, dim, t]``."""
        found: list[Tensor] = []
        x = features
        for stage in self.stages:
            logits: Tensor = stage(x)
            found.append(logits)
            x = logits.softmax(dim=1)
        return torch.stack(found)


def segmentation_loss(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.15, truncation: float = 4.0
) -> Tensor:
    """Cross-entropy and truncated smoothness, summed over the stages.

    Args:
        logits: ``[stages, b, classes, t]``.
        labels: int64 ``[b, t]``; a negative label takes its frame out of the cross-entropy.
        smoothing: λ.
        truncation: σ.

    Returns:
        A scalar.
    """
    stages = logits.shape[0]
    entropy = functional.cross_entropy(
        logits.flatten(0, 1), labels.clamp(min=-1).repeat(stages, 1), ignore_index=-1
    )
    if logits.shape[-1] < 2 or smoothing == 0:
        return stages * entropy
    log_p = logits.log_softmax(dim=2)
    step = (log_p[..., 1:] - log_p[..., :-1].detach()).square().clamp(max=truncation**2)
    return stages * (entropy + smoothing * step.mean())


def fit_segmenter(
    videos: Sequence[tuple[Float, Integer]],
    classes: int,
    config: SegmenterConfig,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> MultiStageTCN:
    """Train the network, a whole video a step.

    Args:
        videos: features ``float32 [t, d]`` and classes ``int64 [t]`` of each video's frames; -1
            where a frame has none.
        classes: number of classes.
        config: size and training.
        seed: of first weights, order and dropout.
        device: where to train.
        progress: called with the number of frames of each step.

    Returns:
        The network after the last epoch, in evaluation mode.

    Raises:
        DataError: no video has a labelled frame.
        EvaluationError: the training diverged.
    """
    device = torch.device(device)
    usable = [(x, y) for x, y in videos if len(y) and (np.asarray(y) >= 0).any()]
    if not usable:
        raise DataError("no video with a labelled frame to train on", stage="segmentation")
    ready = [
        (torch.from_numpy(np.ascontiguousarray(x.T))[None].float().to(device),
         torch.from_numpy(np.asarray(y, dtype=np.int64))[None].to(device))
        for x, y in usable
    ]  # fmt: skip
    order = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = MultiStageTCN(ready[0][0].shape[1], classes, config).to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        for _ in range(config.epochs):
            for place in order.permutation(len(ready)).tolist():
                features, labels = ready[place]
                loss = segmentation_loss(
                    model(features),
                    labels,
                    smoothing=config.smoothing,
                    truncation=config.truncation,
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if progress is not None:
                    progress(labels.shape[1])
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise EvaluationError(
            "the training diverged", stage="segmentation", value=config.lr, remedy="lower its lr"
        )
    return model.eval()


@torch.inference_mode()
def predict_frames(model: MultiStageTCN, features: Float) -> Integer:
    """The class of each frame by the last stage.

    Args:
        model: a trained network.
        features: ``float32 [t, d]``.

    Returns:
        ``int64 [t]``.
    """
    device = next(model.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(features.T))[None].float().to(device)
    return model(x)[-1, 0].argmax(dim=0).cpu().numpy().astype(np.int64)
