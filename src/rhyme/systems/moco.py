r"""MoCo v1 and v2: momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297).

A query has to find its key among the keys of earlier batches. With unit vectors *q* (online
encoder), *k* (momentum encoder, another view of the same frame) and a queue *N* of older keys,

    L = −log  exp(q·k/τ) / (exp(q·k/τ) + Σ_{n∈N} exp(q·n/τ)).

The positive may also be a key of *another* frame of the same video (``positive="video"``): that is
the intra-video arm which CycleContrast builds on.

What we changed: the queue has any size (no divisibility), and remembers the group of every key;
with fewer groups than ten times the queue the keys of a query's own group are left out of its
negatives. Shuffle-BN works in ``norm_groups`` over the global batch, on one device too.

Cost: a forward and backward pass of the online encoder and one forward pass of the copy (two for
``positive="video"``), and ``b·K·d`` multiplications for the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.errors import ConfigError
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import info_nce
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import masks_queue
from rhyme.systems.momentum_pair import MomentumPair, check_reads, encoder_export
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec

HEAD_V1 = HeadConfig(layers=1, out=128)
HEAD_V2 = HeadConfig(layers=2, out=128)


@dataclass(frozen=True, kw_only=True)
class MocoConfig:
    """Options of MoCo; the defaults are v2's, but for the groups of batch norm.

    Attributes:
        backbone: the encoder; ``backbone.norm_groups`` G > 1 is batch norm in G groups of the
            global batch, on one device too, and turns shuffle-BN on (8 in the published run and its
            recipe); 1, the default, is synchronised batch norm, which has nothing to shuffle.
        head: two layers for v2, one for v1.
        transform: how each frame is augmented.
        temperature: τ; .2 for v2, .07 for v1.
        momentum: m of the momentum encoder.
        queue: K, the number of keys remembered.
        shuffle: encode keys in a random order of the global batch (shuffle-BN). False is the
            ablation: a group's statistics then tell which key belongs to a query.
        positive: ``"image"``, another view of the query's frame, or ``"video"``, a view of another
            frame of its video.
        exclude_query_frame: for ``"video"``: never draw the query's own frame as positive.
        mask_same_group: leave keys of the query's group out of its negatives; None decides by
            the number of groups (on with fewer than ten times the queue).
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet50"))
    head: HeadConfig = HEAD_V2
    transform: Transform = field(default_factory=ContrastTransform.moco_v2)
    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    shuffle: bool = True
    positive: Literal["image", "video"] = "image"
    exclude_query_frame: bool = False
    mask_same_group: bool | None = None

    def __post_init__(self) -> None:
        check_momentum_contrast(self.temperature, self.momentum, self.queue)
        if self.exclude_query_frame and self.positive == "image":
            raise ConfigError(
                "exclude_query_frame needs a positive from another frame",
                value=self.positive,
                remedy="set model.positive to video",
            )


def check_momentum_contrast(temperature: float, momentum: float, queue: int) -> None:
    """Refuse values that no momentum-contrast system can train with."""
    if temperature <= 0:
        raise ConfigError(
            "temperature must be positive", value=temperature, remedy="try 0.07 or 0.2"
        )
    if not 0 <= momentum < 1:
        raise ConfigError("momentum must lie in [0, 1)", value=momentum, remedy="try 0.99 or 0.999")
    if queue < 1:
        raise ConfigError("the queue needs at least one place", value=queue, remedy="try 4096")


class Moco(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = MocoConfig

    def __init__(self, config: MocoConfig) -> None:
        super().__init__(config)
        check_reads("MoCo", config.backbone, clips=False, why="as it tells single frames apart")
        self.encoders = MomentumPair(
            config.backbone, {"m": config.head}, config.momentum, shuffle=config.shuffle
        )
        self.queue = FeatureQueue(config.queue, self.encoders.online.head("m").out_dim)
        self.mask_same_group = bool(config.mask_same_group)
        self._fresh: tuple[Tensor, Tensor] | None = None

    def plans(self) -> dict[str, ViewPlan]:
        """Two views of one frame, and for ``positive="video"`` a third of another frame."""
        c = self.config
        clips = {"a": Clip()}
        views = {name: ViewSpec(clip="a", transform=c.transform) for name in ("query", "key")}
        if c.positive == "video":
            clips["b"] = Clip(exclude="a" if c.exclude_query_frame else None)
            views["candidate"] = ViewSpec(clip="b", transform=c.transform)
        return {"train": ViewPlan(clips=clips, views=views)}

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask by the number of groups."""
        c = self.config
        self.mask_same_group = masks_queue(c.mask_same_group, context, c.queue)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """The queries."""
        return self.encoders.queries(batch.views["query"].frames)

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """One contrast of the batch's queries with their positives and the queue."""
        q = embeddings["m"]
        frames = [batch.views["key"].data]
        if self.config.positive == "video":
            frames.append(batch.views["candidate"].data)
        shuffle = context.generator("shuffle")
        keys = self.encoders.keys(torch.cat(frames, dim=1), shuffle, context.parts)["m"]
        masked = self.mask_same_group
        contrast = info_nce(
            q,
            keys[:, -1],
            self.queue.features,
            temperature=self.config.temperature,
            anchor_groups=batch.group if masked else None,
            negative_groups=self.queue.owners if masked else None,
        )
        self._fresh = (keys[:, 0], batch.group)
        loss = distributed.mean(contrast.values, contrast.valid)
        return StepOutput(
            loss=loss,
            parts={"info_nce": loss.detach()},
            diagnostics=contrast.diagnostics,
            embeddings={"m": q.detach()},
        )

    def after_step(self, applied: bool) -> None:
        """Move the momentum encoder, then put this batch's keys into the queue."""
        if applied and self._fresh is not None:
            self.encoders.update()
            self.queue.enqueue(*self._fresh)
        self._fresh = None

    def exports(self) -> dict[str, Export]:
        """The online backbone, its head beside it."""
        return {"encoder": encoder_export(self.encoders, self.config.transform)}
