r"""CycleContrast: contrastive learning from cycles across videos (Wu & Wang, ICCV 2021).

arXiv 2105.06463; not the paper of the same name about frame-video cycles (arXiv 2010.14810).

A frame's query *q* looks for its own video twice, with two heads on one backbone.

*Intra-video* (head m): another frame *p* of the video against a queue *M* of older keys,

    L_intra = InfoNCE(q_m, p_m, M; τ).

*Cycle* (head c): first out to the other videos, as the soft nearest neighbour in a support *U* of
queue features, then back, to a frame of the own video among the remaining features *N*,

    α_j = softmax_j(q_c·u_j / τ_nn),   q̂ = norm(Σ_j α_j u_j),   L_cycle = InfoNCE(q̂, p_c, N; τ),

    L = w_intra L_intra + w_cycle L_cycle.

U and N are two parts of a random permutation of the queue, drawn anew in each step. Queue and keys
carry no gradient: the cycle term reaches the encoder only through the weights α.

What we changed. "Other videos" is enforced: queues remember each key's group, and U, N and M leave
the query's own group out where there are fewer groups than ten times the queue (the published code
never masked, its videos being far more than its queues hold). The permutation is the same on all
ranks, so one global batch has one loss. Queues have any size. The one option that keeps a gradient
in the values, ``include_self``, is off by default as in the published run.

Cost: MoCo's step and one more key pass; ``b·K_c·d`` multiplications for each of the two halves of
the cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.errors import ConfigError
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import ObjectiveOutput, cycle, info_nce
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import masks_queue
from rhyme.systems.moco import check_momentum_contrast
from rhyme.systems.momentum_pair import MomentumPair, check_reads, encoder_export
from rhyme.transfer import sent
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec


@dataclass(frozen=True, kw_only=True)
class CycleContrastConfig:
    """Options of CycleContrast; the defaults are the published run's, but for batch norm's groups.

    Attributes:
        backbone: the encoder; ``backbone.norm_groups`` > 1 turns shuffle-BN on (8 in the published
            run and its recipe; 1, the default, has nothing to shuffle).
        head: form of each head.
        separate_heads: a head and a queue for each loss; else both share head m and queue M.
        transform: how each frame is augmented, independently.
        temperature: τ of both contrasts.
        neighbour_temperature: τ_nn of the soft nearest neighbour; None for τ.
        momentum: m of the momentum encoder.
        queue: K, keys of queue M.
        cycle_queue: K_c, keys of queue C (unused with shared heads).
        support: S, size of U; None uses the whole queue as U and as N.
        include_self: adds the query itself to its own support, with gradient.
        positive: ``"video"``, another frame, or ``"image"``, another view of the same frame
            (MoCo's positive), for the intra-video term.
        candidates: n_c, frames drawn from the video; each loss picks one of them by itself.
        exclude_query_frame: never draw the query's own frame among the candidates.
        intra_weight: w_intra.
        cycle_weight: w_cycle; 0 computes no cycle. Candidates are read and encoded all the same,
            and head c and queue C kept, so that draws and state are those of the whole.
        mask_same_group: leave the query's group out of U, N and M; None decides by the number of
            groups (on with fewer than ten times the larger queue).
        neighbour_values: ``"support"``, or as control ``"shuffled"``: the weights α fall on
            permuted features, which keeps their scale and destroys their meaning. The permutation
            is of the whole support, so that a share of an item's own group, as large as its share
            of the support, comes back through the same-group mask.
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet50"))
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=2, out=128))
    separate_heads: bool = True
    transform: Transform = field(default_factory=ContrastTransform.moco_v2)
    temperature: float = 0.07
    neighbour_temperature: float | None = None
    momentum: float = 0.999
    queue: int = 65536
    cycle_queue: int = 81920
    support: int | None = 16384
    include_self: bool = False
    positive: Literal["video", "image"] = "video"
    candidates: int = 1
    exclude_query_frame: bool = False
    intra_weight: float = 1.0
    cycle_weight: float = 0.1
    mask_same_group: bool | None = None
    neighbour_values: Literal["support", "shuffled"] = "support"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def shared_queue(self) -> int:
        """Size of the queue that the cycle term reads."""
        return self.cycle_queue if self.separate_heads else self.queue


class CycleContrast(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = CycleContrastConfig

    def __init__(self, config: CycleContrastConfig) -> None:
        super().__init__(config)
        why = "whose cycles go through single frames"
        check_reads("CycleContrast", config.backbone, clips=False, why=why)
        heads = {"m": config.head} | ({"c": config.head} if config.separate_heads else {})
        self.encoders = MomentumPair(config.backbone, heads, config.momentum)
        length = self.encoders.online.head("m").out_dim  # of both heads
        self.queue = FeatureQueue(config.queue, length)
        self.cycle_queue = (
            FeatureQueue(config.cycle_queue, length) if config.separate_heads else None
        )
        self.mask_same_group = bool(config.mask_same_group)
        self._fresh: tuple[dict[str, Tensor], Tensor] | None = None

    def plans(self) -> dict[str, ViewPlan]:
        """``query`` and ``key``: two views of one frame; ``candidate``: frames of its video."""
        c = self.config
        excluded = "a" if c.exclude_query_frame else None
        clips = {
            "a": Clip(),
            "b": Clip(frames=c.candidates, place="sample", exclude=excluded),
        }
        transform = c.transform
        views = {
            "query": ViewSpec(clip="a", transform=transform),
            "key": ViewSpec(clip="a", transform=transform),
            "candidate": ViewSpec(clip="b", transform=transform),
        }
        return {"train": ViewPlan(clips=clips, views=views)}

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask by the number of groups."""
        c = self.config
        size = max(c.queue, c.shared_queue) if c.cycle_weight > 0 else c.queue
        self.mask_same_group = masks_queue(c.mask_same_group, context, size)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """The queries of each head."""
        return self.encoders.queries(batch.views["query"].frames)

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """Both terms for a batch; the keys of this batch are not among its own negatives."""
        c = self.config
        frames = torch.cat([batch.views["key"].data, batch.views["candidate"].data], dim=1)
        keys = self.encoders.keys(frames, context.generator("shuffle"), context.parts)

        def candidate(head: str, name: str) -> Tensor:
            if c.candidates == 1:
                return keys[head][:, 1]  # a draw would wait for the ids, and for all work before
            pick = context.per_sample(name, batch.ids).integers("candidate", c.candidates)
            rows = torch.arange(len(batch), device=frames.device)
            return keys[head][rows, 1 + sent(torch.from_numpy(pick), frames.device)]

        intra = self._intra(
            embeddings["m"],
            keys["m"][:, 0] if c.positive == "image" else candidate("m", "intra"),
            batch.group,
        )
        terms = {"intra": (c.intra_weight, intra)}
        head = self.cycle_head
        if c.cycle_weight > 0:
            terms["cycle"] = (
                c.cycle_weight,
                self._cycle(
                    embeddings[head],
                    candidate(head, "cycle"),
                    keys[head][:, 0],
                    batch.group,
                    context.generator("support"),
                ),
            )
        self._fresh = ({name: value[:, 0] for name, value in keys.items()}, batch.group)

        parts = {name: distributed.mean(t.values, t.valid) for name, (_, t) in terms.items()}
        loss = torch.stack([terms[name][0] * value for name, value in parts.items()]).sum()
        return StepOutput(
            loss=loss,
            parts={name: value.detach() for name, value in parts.items()},
            diagnostics={
                f"{name}/{key}": value
                for name, (_, term) in terms.items()
                for key, value in term.diagnostics.items()
            },
            embeddings={name: value.detach() for name, value in embeddings.items()},
        )

    def _intra(self, query: Tensor, positive: Tensor, group: Tensor) -> ObjectiveOutput:
        masked = self.mask_same_group
        return info_nce(
            query,
            positive,
            self.queue.features,
            temperature=self.config.temperature,
            anchor_groups=group if masked else None,
            negative_groups=self.queue.owners if masked else None,
        )

    def _cycle(
        self,
        query: Tensor,
        positive: Tensor,
        key: Tensor,
        group: Tensor,
        generator: torch.Generator,
    ) -> ObjectiveOutput:
        c = self.config
        queue = self.cycle_queue if self.cycle_queue is not None else self.queue
        features, owners = queue.features, queue.owners
        support, negatives, from_support, from_negatives = features, features, owners, owners
        if c.support is not None:
            order = sent(torch.randperm(queue.size, generator=generator), query.device)
            out, back = order[: c.support], order[c.support :]
            support, negatives = features[out], features[back]
            from_support, from_negatives = owners[out], owners[back]
        values = None
        if c.neighbour_values == "shuffled":
            shuffled = sent(torch.randperm(len(support), generator=generator), query.device)
            values = support[shuffled]
        masked = self.mask_same_group
        return cycle(
            query,
            positive,
            support,
            negatives,
            temperature=c.temperature,
            neighbour_temperature=c.neighbour_temperature or c.temperature,
            anchor_groups=group if masked else None,
            support_groups=from_support if masked else None,
            negative_groups=from_negatives if masked else None,
            include_self=key if c.include_self else None,
            values=values,
        )

    def after_step(self, applied: bool) -> None:
        """Move the momentum encoder, then put the keys of ``key`` into the queues.

        Candidates never enter a queue.
        """
        if applied and self._fresh is not None:
            keys, group = self._fresh
            self.encoders.update()
            self.queue.enqueue(keys["m"], group)
            if self.cycle_queue is not None:
                self.cycle_queue.enqueue(keys["c"], group)
        self._fresh = None

    @property
    def cycle_head(self) -> str:
        """Head c, or the one head where both losses share it.

        With a cycle weight of 0 head c stays as it was drawn: what a trained one is held against.
        """
        return "c" if self.config.separate_heads else "m"

    def exports(self) -> dict[str, Export]:
        """The online backbone, its heads beside it."""
        return {"encoder": encoder_export(self.encoders, self.config.transform)}


def _check(c: CycleContrastConfig) -> None:
    check_momentum_contrast(c.temperature, c.momentum, c.queue)
    check_momentum_contrast(c.temperature, c.momentum, c.cycle_queue)
    if c.neighbour_temperature is not None and not c.neighbour_temperature > 0:
        raise ConfigError(
            "neighbour_temperature must be positive",
            value=c.neighbour_temperature,
            remedy="try 0.07, or a large value such as 1e4 for uniform weights",
        )
    if c.support is not None and not 1 <= c.support < c.shared_queue:
        raise ConfigError(
            "support must leave at least one feature of the queue as negative",
            value=c.support,
            remedy=f"choose 1 to {c.shared_queue - 1}, or null for the whole queue",
        )
    if c.candidates < 1:
        raise ConfigError("candidates must be at least 1", value=c.candidates)
    weights = (c.intra_weight, c.cycle_weight)
    if min(weights) < 0 or max(weights) == 0 or not all(map(math.isfinite, weights)):
        raise ConfigError(
            "loss weights must be finite, not negative, and not both 0", value=weights
        )
