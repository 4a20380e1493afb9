r"""VFS: video frame-level similarity (Xu & Wang, ICCV 2021, arXiv 2103.17263).

Two frames of one video are alike as wholes; that is all it is taught, and what it learns can tell
which places of two frames belong together. ``n`` frames are drawn, one from each of ``n`` equal
parts of the video; those of its first half are compared with those of its second half, every frame
with every frame.

*Without negatives* (the default), by a projector *z* and a predictor *p* behind one encoder:

    D(a, b) = 2 − 2 cos(a, b),      sg: stop-gradient,
    L = mean over pairs (i, j) of  ½ D(p_i, sg z_j) + ½ D(p_j, sg z_i).

*With negatives*, by a momentum encoder and a queue *N*: frames of the first half are queries *q*,
those of the second are keys *k*, and each positive is normalised by itself, so that the other
positives of a query are in no denominator,

    L = mean over pairs (i, j) of  −log  exp(q_i·k_j/τ) / (exp(q_i·k_j/τ) + Σ_{m∈N} exp(q_i·m/τ)).

N holds the queue and, with ``batch_negatives``, the keys of the other videos of the batch.

What we changed. The published code rolls one half against the other, T times, with weight 1/T; the
mean over all T² pairs is the same. Queues are our MoCo's: of any size, masked by group where
groups are few. ``stop_gradient=False`` is the control that collapses.

Cost: without negatives a forward and backward pass of all n frames; with them the forward pass of
the second half goes through the copy and needs no backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.encoders import (
    HEAD_PRESETS,
    BackboneConfig,
    EncoderWithHeads,
    Head,
    HeadConfig,
    build_backbone,
    build_head,
    unit,
)
from rhyme.errors import ConfigError
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import multi_positive_info_nce, pair_distance
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import kin, masks_queue
from rhyme.systems.moco import HEAD_V2, check_momentum_contrast
from rhyme.systems.momentum_pair import MomentumPair, check_reads, encoder_export, inference_plan
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec


@dataclass(frozen=True, kw_only=True)
class VFSConfig:
    """Options of VFS; the defaults are those of the published ResNet-50 without negatives.

    Attributes:
        backbone: the encoder; batch norm over the whole global batch, residual branches from zero.
        projector: head *z* on the pooled feature, without negatives.
        predictor: head *p* on the projector's output (``hidden=128`` for ResNet-18).
        transform: how each frame is augmented, independently; colours are kept by default.
        frames: frames of a video, an even number: 2, or 8 for the published ResNet-18.
        stride: native frames between neighbouring frames; None spreads them over the whole video,
            a random one in each of ``frames`` equal parts.
        stop_gradient: detach the targets; off, everything collapses to one point.
        negatives: learn from negatives, with a momentum encoder and a queue.
        head: form of the head with negatives.
        temperature: τ, with negatives.
        momentum: m of the momentum encoder, with negatives.
        queue: K, keys of single frames, with negatives.
        shuffle: with negatives, encode keys in a random order of the global batch (shuffle-BN);
            where ``backbone.norm_groups`` is 1 there is nothing to shuffle.
        batch_negatives: the keys of the batch's other videos are negatives beside the queue.
        mask_same_group: leave keys of the video's own group out of the negatives; None decides by
            the number of groups (on with fewer than ten times the queue).
    """

    backbone: BackboneConfig = field(
        default_factory=lambda: BackboneConfig(name="resnet50", zero_init_residual=True)
    )
    projector: HeadConfig = HEAD_PRESETS["vfs_projector"]
    predictor: HeadConfig = HEAD_PRESETS["vfs_predictor"]
    transform: Transform = field(default_factory=ContrastTransform.vfs_nc)
    frames: int = 2
    stride: int | None = None
    stop_gradient: bool = True
    negatives: bool = False
    head: HeadConfig = HEAD_V2
    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    shuffle: bool = True
    batch_negatives: bool = True
    mask_same_group: bool | None = None

    def __post_init__(self) -> None:
        check_momentum_contrast(self.temperature, self.momentum, self.queue)
        if self.frames < 2 or self.frames % 2:
            raise ConfigError(
                "frames must be an even number, half of them in each half of the video",
                value=self.frames,
                remedy="take 2 or 8",
            )
        if self.stride is not None and self.stride < 1:
            raise ConfigError("stride must be at least 1", value=self.stride, remedy="leave it out")


class VFS(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = VFSConfig

    def __init__(self, config: VFSConfig) -> None:
        super().__init__(config)
        why = "as it compares single frames of a video"
        check_reads("VFS", config.backbone, clips=False, why=why)
        self._fresh: tuple[Tensor, Tensor] | None = None
        if config.negatives:
            self.mask_same_group = bool(config.mask_same_group)
            self.encoders = MomentumPair(
                config.backbone, {"m": config.head}, config.momentum, shuffle=config.shuffle
            )
            self.queue = FeatureQueue(config.queue, self.encoders.online.head("m").out_dim)
            return
        groups = config.backbone.norm_groups
        trunk = build_backbone(config.backbone)
        projector = build_head(config.projector, trunk.feature_dim, norm_groups=groups)
        self.encoder = EncoderWithHeads(trunk, {"projector": projector})
        self.predictor: Head = build_head(config.predictor, projector.out_dim, norm_groups=groups)
        if self.predictor.out_dim != projector.out_dim:
            raise ConfigError(
                "the predictor must give what the projector gives",
                value=(projector.out_dim, self.predictor.out_dim),
                remedy="set model.predictor.out to 0",
            )

    def plans(self) -> dict[str, ViewPlan]:
        """``frames``: all frames of a video, the first half before the second.

        A video of fewer frames begins again; a still picture, whose halves are one frame, is left
        out.
        """
        c = self.config
        clip = Clip(frames=c.frames, place="uniform", short="loop", least=2)
        if c.stride is not None:
            clip = Clip(frames=c.frames, stride=c.stride, short="loop", least=2)
        view = ViewSpec(clip="a", transform=c.transform)
        return {"train": ViewPlan(clips={"a": clip}, views={"frames": view})}

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask by the number of groups."""
        c = self.config
        if c.negatives:
            self.mask_same_group = masks_queue(c.mask_same_group, context, c.queue)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """Embeddings ``[b, t, d]`` of frames; each half passes the encoder by itself."""
        halves = batch.views["frames"].data.chunk(2, dim=1)
        if self.config.negatives:
            rows = self.encoders.queries(halves[0].flatten(0, 1))["m"]
            return {"m": rows.unflatten(0, halves[0].shape[:2])}
        projected, predicted = zip(*(self._project(half) for half in halves), strict=True)
        return {"z": torch.cat(projected, dim=1), "p": torch.cat(predicted, dim=1)}

    def _project(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Unit projections and predictions ``[b, t, d]`` of frames ``[b, t, c, h, w]``."""
        _, made = self.encoder(frames.flatten(0, 1))
        z = made["projector"]
        p = self.predictor(z, normalise=False)
        items = frames.shape[:2]
        return unit(z).unflatten(0, items), unit(p).unflatten(0, items)

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """Frames of the first half against those of the second."""
        if self.config.negatives:
            return self._contrast(embeddings["m"], batch, context)
        z, p = embeddings["z"], embeddings["p"]
        targets = z.detach() if self.config.stop_gradient else z
        (p1, p2), (z1, z2) = p.chunk(2, dim=1), targets.chunk(2, dim=1)
        forth, back = pair_distance(p1, z2), pair_distance(p2, z1)
        loss = distributed.mean((forth.values + back.values) / 2)
        told = {
            "positive_cosine": 1 - loss.detach() / 2,
            "projection_cosine": 1 - pair_distance(*z.detach().chunk(2, dim=1)).values.mean() / 2,
        }
        return StepOutput(
            loss=loss,
            parts={"distance": loss.detach()},
            diagnostics=told,
            embeddings={"z": z.detach()},
        )

    def _contrast(self, queries: Tensor, batch: Batch, context: StepContext) -> StepOutput:
        c = self.config
        frames = batch.views["frames"].data.chunk(2, dim=1)[1]
        keys = self.encoders.keys(frames, context.generator("shuffle"), context.parts)["m"]
        # Without the mask only the video itself is left out, by its place in the data.
        masked, queue = self.mask_same_group, self.queue
        owners = queue.owners if masked else torch.full_like(queue.owners, -1)
        own = kin(batch, masked).to(owners)
        negatives = queue.features
        if c.batch_negatives:
            everyone = distributed.gather(keys).flatten(0, 1).to(negatives)
            groups = distributed.gather(own).repeat_interleave(keys.shape[1])
            negatives, owners = torch.cat([everyone, negatives]), torch.cat([groups, owners])
        contrast = multi_positive_info_nce(
            queries,
            keys,
            negatives,
            temperature=c.temperature,
            anchor_groups=own,
            negative_groups=owners,
        )
        self._fresh = (keys, batch.group)
        loss = distributed.mean(contrast.values, contrast.valid)
        return StepOutput(
            loss=loss,
            parts={"info_nce": loss.detach()},
            diagnostics=contrast.diagnostics,
            embeddings={"m": queries.detach()},
        )

    def after_step(self, applied: bool) -> None:
        """With negatives: move the momentum encoder, then put this batch's keys into the queue."""
        if applied and self._fresh is not None:
            keys, group = self._fresh
            self.encoders.update()
            owners = group.repeat_interleave(keys.shape[1])
            self.queue.enqueue(keys.flatten(0, 1), owners)
        self._fresh = None

    def exports(self) -> dict[str, Export]:
        """The online backbone with the projector, or with the head of the contrast."""
        if self.config.negatives:
            return {"encoder": encoder_export(self.encoders, self.config.transform)}
        plan = inference_plan(self.config.transform)
        return {"encoder": Export(kind="encoder", module=self.encoder, plan=plan)}
