r"""DUAL: the inter-intra variant dual of a clip (Zhang et al., BMVC 2021, arXiv 2107.01194).

Two clips of one video should be alike, and the segments of one clip should differ. A clip passes a
3D trunk; a *clip* head gives one unit vector *z*, a *series* head s of them, one for each temporal
segment, all from the same pooled feature. Let *q*, *k* be the segments of a clip and of another
clip of its video (*source*, *positive*), *r* those of the source's own frames in another view, and
*p* those of that view with its segments shuffled in pixel space by a permutation π and then put
back (*calibrated*): p_π(j) is the head's j-th vector.

*Shuffle-rank*, within a clip: each segment *u* is nearer to itself, v(u), than to any other *w*,

    R(a, b) = mean over u, w of log(1 + exp((u·w − u·v(u))/θ)),   L_sr = ½ R(q, p) + ½ R(r, p).

The head can only be right where the pooled feature knows what happened when.

*Temporal coherence*, between videos: two clips are as alike as all pairs of their segments,

    S(x, y) = mean over i, j of x_i·y_j = x̄·ȳ,        L_tc = InfoNCE of S(q, k)/τ_tc,

and the usual contrast of clips stays, L_clip = InfoNCE of z_q·z_k/τ. Together

    L = w_clip L_clip + w_tc L_tc + w_sr L_sr.

Both contrasts are SimCLR's (NT-Xent over the batch's clips) or MoCo's (keys and two queues from a
momentum encoder; shuffle-rank has no keys).

What we changed. The published code does not run, and its numbers rest on a balance that it does not
state: its clip term, of which every one of W processes takes the whole, but only its own slice of
the gradient, weighs 1/W. The weights here are what they say; ``DualConfig.published`` gives 1/8.
Its SimCLR form cuts (u·w − u·v)/θ off at 5, so the worst pairs get no gradient; ``clamp`` does so
on demand. Permutations and batch statistics are those of the global batch on any number of ranks.
Other items of a group are no negatives of each other, as clips of one source would be.

Cost: four clips a video pass the trunk, for MoCo one of them without a backward pass; the segments
themselves cost nothing beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.encoders import (
    BackboneConfig,
    EncoderWithHeads,
    HeadConfig,
    build_backbone,
    build_head,
    unit,
)
from rhyme.errors import ConfigError
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import (
    ObjectiveOutput,
    calibrate_segments,
    info_nce,
    nt_xent,
    segment_mean,
    segment_ranking,
    shuffle_segments,
)
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import kin, masks_batch, masks_queue
from rhyme.systems.moco import check_momentum_contrast
from rhyme.systems.momentum_pair import MomentumPair, check_reads, inference_plan
from rhyme.transfer import sent
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec

Mode = Literal["clip", "clip-sr", "clip-tc", "clip-sr-tc"]


@dataclass(frozen=True, kw_only=True)
class DualConfig:
    """Options of DUAL; the defaults are the published run's, but for the two that it hides.

    Attributes:
        backbone: the encoder of clips.
        head: form of the clip head.
        series: form of the series head; ``series.out`` is the length of *one* segment's vector.
        base: ``"simclr"``, negatives from the batch, or ``"moco"``, from queues.
        mode: which terms there are: ``"clip"`` is SimCLR or MoCo on clips alone.
        segments: s, of ``frames / s`` frames each.
        frames: T, frames of a clip.
        stride: native frames between them; None goes by ``spacing``.
        spacing: seconds between them instead.
        place: ``"edges"`` draws the middle frame of a clip from the whole video and holds the first
            and last frame beyond its ends, as published; ``"random"`` keeps the clip inside.
        reverse: probability that all clips of a video run backwards.
        transform: how each clip is augmented, drawn once for all its frames.
        source_skip: share of the source clips whose colours are left alone, of those that
            ``transform.skip`` does not leave alone already.
        temperature: τ of the clip term.
        tc_temperature: τ_tc of temporal coherence.
        theta: θ of shuffle-rank.
        clamp: largest exponent in shuffle-rank (5 in the published SimCLR form); None for none.
        w_clip: weight of the clip term.
        w_tc: weight of temporal coherence.
        w_sr: weight of shuffle-rank.
        momentum: m of the momentum encoder (MoCo).
        queue: K, keys in each of the two queues (MoCo).
        mask_same_group: leave other items of an item's group out of its negatives. None does so
            where items share groups (SimCLR), or with fewer groups than ten times the queue (MoCo).
        calibration: ``"recorded"``, or as control ``"random"``: segments are put back by another
            permutation than the one that was applied, so that order cannot be learnt.
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="r21d"))
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=2, out=128))
    series: HeadConfig = field(default_factory=lambda: HeadConfig(layers=2, out=64))
    base: Literal["simclr", "moco"] = "simclr"
    mode: Mode = "clip-sr-tc"
    segments: int = 2
    frames: int = 16
    stride: int | None = 4
    spacing: float | None = None
    place: Literal["edges", "random"] = "edges"
    reverse: float = 0.5
    transform: Transform = field(default_factory=ContrastTransform.dual)
    source_skip: float = 0.2
    temperature: float = 0.07
    tc_temperature: float = 0.07
    theta: float = 0.05
    clamp: float | None = None
    w_clip: float = 1.0
    w_tc: float = 1.0
    w_sr: float = 1.0
    momentum: float = 0.999
    queue: int = 16384
    mask_same_group: bool | None = None
    calibration: Literal["recorded", "random"] = "recorded"

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def published(cls, base: Literal["simclr", "moco"] = "simclr", **changes: Any) -> Self:
        """What the published code amounts to on its 8 GPUs.

        With SimCLR: the clip term at 1/8, shuffle-rank cut off at 5. With MoCo the terms weigh the
        same, and nothing is cut off.
        """
        hidden: dict[str, Any] = {"w_clip": 1 / 8, "clamp": 5.0} if base == "simclr" else {}
        values: dict[str, Any] = {"base": base, **hidden, **changes}
        return cls(**values)

    @property
    def ranks_segments(self) -> bool:
        """Whether there is a shuffle-rank term."""
        return self.mode in ("clip-sr", "clip-sr-tc")

    @property
    def coheres(self) -> bool:
        """Whether there is a temporal-coherence term."""
        return self.mode in ("clip-tc", "clip-sr-tc")


class Dual(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = DualConfig

    def __init__(self, config: DualConfig) -> None:
        super().__init__(config)
        why = "whose feature can tell what happened when"
        check_reads("DUAL", config.backbone, clips=True, why=why)
        s = config.segments
        series = replace(config.series, out=s * config.series.out, blocks=s)
        heads = {"clip": config.head} | ({} if config.mode == "clip" else {"series": series})
        self.queues = nn.ModuleDict()
        if config.base == "moco":
            self.encoders = MomentumPair(config.backbone, heads, config.momentum)
            # Both are filled by the same steps, so their pointers are always equal.
            self.queues["clip"] = FeatureQueue(config.queue, config.head.out)
            if config.coheres:
                queue = self.queues["series"] = FeatureQueue(config.queue, series.out)
                queue.features.copy_(unit(queue.features.unflatten(1, (s, -1))).flatten(1))
        else:
            trunk, norms = build_backbone(config.backbone), config.backbone.norm_groups
            built = {name: build_head(h, trunk.feature_dim, norms) for name, h in heads.items()}
            self.encoder = EncoderWithHeads(trunk, built)
        self.mask_same_group = bool(config.mask_same_group)
        self._fresh: tuple[Embeddings, Tensor] | None = None

    @property
    def online(self) -> EncoderWithHeads:
        """The encoder that is trained."""
        return self.encoders.online if self.config.base == "moco" else self.encoder

    def plans(self) -> dict[str, ViewPlan]:
        """``source`` and ``positive``: two clips; ``shuffled``: the source's frames once more."""
        c = self.config
        weak, clip = c.transform, self._clip
        if isinstance(weak, ContrastTransform):
            weak = replace(weak, skip=weak.skip + (1 - weak.skip) * c.source_skip)
        chosen = {"source": ("a", weak), "positive": ("b", c.transform)}
        if c.ranks_segments:
            chosen["shuffled"] = ("a", c.transform)
        views = {
            name: ViewSpec(clip=clip_name, transform=transform, consistent="clip")
            for name, (clip_name, transform) in chosen.items()
        }
        return {"train": ViewPlan(clips={"a": clip, "b": clip}, views=views)}

    @property
    def _clip(self) -> Clip:
        c = self.config
        return Clip(
            frames=c.frames, stride=c.stride, spacing=c.spacing, place=c.place, reverse=c.reverse
        )

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask, by shared groups or by their number."""
        c, choice = self.config, self.config.mask_same_group
        if c.base == "moco":
            self.mask_same_group = masks_queue(choice, context, c.queue)
        else:
            self.mask_same_group = masks_batch(choice, context)

    def order(self, batch: Batch, context: StepContext, draw: str = "shuffle") -> Tensor:
        """The segment that stands at each place of an item's shuffled clip, int64 ``[b, s]``."""
        drawn = context.per_sample(draw, batch.ids).permutation("segments", self.config.segments)
        return sent(torch.from_numpy(drawn), batch.ids.device)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """What the trained encoder makes of each clip, as ``<clip>/clip`` and ``<clip>/series``.

        Clips that pass together share their batch statistics: with SimCLR the shuffled ones are
        normalised by themselves, with MoCo the source's are.
        """
        clips = {name: view.data for name, view in batch.views.items()}
        passes = [["source", "positive"]] if self.config.base == "simclr" else [["source"]]
        if self.config.ranks_segments:
            clips["unshuffled"] = clips["shuffled"]
            clips["shuffled"] = shuffle_segments(clips["shuffled"], self.order(batch, context))
            if self.config.base == "simclr":
                passes = [["source", "positive", "unshuffled"], ["shuffled"]]
            else:
                passes = [["source"], ["unshuffled", "shuffled"]]
        found: Embeddings = {}
        for names in passes:
            # Item by item, so that the global batch has one order for any number of ranks.
            stacked = torch.stack([clips[name] for name in names], dim=1)
            _, made = self.online(stacked.flatten(0, 1))
            for head, rows in made.items():
                each = rows.unflatten(0, stacked.shape[:2]).unbind(1)
                found |= {f"{n}/{head}": row for n, row in zip(names, each, strict=True)}
        return found

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """The terms that the mode asks for; keys of this batch are not among its own negatives."""
        c = self.config
        keys = embeddings if c.base == "simclr" else self._keys(batch, context)
        source, positive = embeddings["source/clip"], keys["positive/clip"]
        terms = {"clip": (c.w_clip, self._contrast("clip", source, positive, batch))}
        if c.coheres:
            pair = embeddings["source/series"], keys["positive/series"]
            terms["tc"] = (c.w_tc, self._contrast("series", *pair, batch))
        order = None
        if c.ranks_segments:
            order = self.order(batch, context)
            back = order if c.calibration == "recorded" else self.order(batch, context, "control")
            terms["sr"] = (c.w_sr, self._ranking(embeddings, back, order))
        parts = {name: distributed.mean(t.values, t.valid) for name, (_, t) in terms.items()}
        told = {f"{n}/{k}": v for n, (_, t) in terms.items() for k, v in t.diagnostics.items()}
        return StepOutput(
            loss=torch.stack([terms[name][0] * value for name, value in parts.items()]).sum(),
            parts={name: value.detach() for name, value in parts.items()},
            diagnostics=told | {"clip/intra_variance": _intra_variance(source, positive)},
            embeddings={head: embeddings[f"source/{head}"].detach() for head in self.online.heads},
            record=None if order is None else {"order": order},
        )

    def _segments(self, rows: Tensor) -> Tensor:
        """Segment vectors ``[b, s, d]`` of the series head's rows."""
        return rows.unflatten(1, (self.config.segments, -1))

    def _keys(self, batch: Batch, context: StepContext) -> Embeddings:
        """What the momentum encoder makes of the positive clips, without gradient."""
        heads = tuple(self.queues)

        def read(encoder: EncoderWithHeads, clips: Tensor) -> Embeddings:
            return encoder(clips, heads)[1]

        clips = batch.views["positive"].data[:, None]
        found = self.encoders.keys(clips, context.generator("keys"), context.parts, read)
        self._fresh = ({head: rows[:, 0] for head, rows in found.items()}, batch.group)
        return {f"positive/{head}": rows for head, rows in self._fresh[0].items()}

    def _contrast(
        self, head: str, anchors: Tensor, positives: Tensor, batch: Batch
    ) -> ObjectiveOutput:
        """SimCLR's or MoCo's contrast: of clip vectors, or of the means of segment vectors."""
        c, masked = self.config, self.mask_same_group
        queue = cast(FeatureQueue, self.queues[head]) if c.base == "moco" else None
        rows = [anchors, positives] + ([] if queue is None else [queue.features])
        if head == "series":
            rows = [segment_mean(self._segments(x)) for x in rows]
        temperature = c.temperature if head == "clip" else c.tc_temperature
        if queue is None:
            return nt_xent(*rows, temperature=temperature, groups=kin(batch, masked))
        return info_nce(
            *rows,
            temperature=temperature,
            anchor_groups=batch.group if masked else None,
            negative_groups=queue.owners if masked else None,
        )

    def _ranking(self, embeddings: Embeddings, back: Tensor, order: Tensor) -> ObjectiveOutput:
        """The mean of both rankings; accuracy is that of clips whose order did change."""
        c = self.config
        source, unshuffled, shuffled = (
            self._segments(embeddings[f"{name}/series"])
            for name in ("source", "unshuffled", "shuffled")
        )
        calibrated = calibrate_segments(shuffled, back)
        moved = (order != torch.arange(c.segments, device=order.device)).any(dim=1)
        one, other = (
            segment_ranking(x, calibrated, theta=c.theta, clamp=c.clamp, measured=moved)
            for x in (source, unshuffled)
        )
        told = {name: (v + other.diagnostics[name]) / 2 for name, v in one.diagnostics.items()}
        told["moved_fraction"] = moved.to(one.values).mean()
        return ObjectiveOutput((one.values + other.values) / 2, one.valid, told)

    def after_step(self, applied: bool) -> None:
        """With MoCo: move the momentum encoder, then put this batch's keys into both queues."""
        if applied and self._fresh is not None:
            keys, group = self._fresh
            self.encoders.update()
            for head, queue in self.queues.items():
                cast(FeatureQueue, queue).enqueue(keys[head], group)
        self._fresh = None

    def exports(self) -> dict[str, Export]:
        """The trunk with both heads; it wants clips as it was trained on them."""
        plan = inference_plan(self.config.transform, self._clip)
        return {"encoder": Export(kind="encoder", module=self.online, plan=plan)}


@torch.no_grad()
def _intra_variance(first: Tensor, second: Tensor) -> Tensor:
    """Variance within videos, each seen twice, as a share of all variance of the global batch."""
    both = distributed.gather(torch.stack([first, second], dim=1).float())
    within = both.var(dim=1, unbiased=False).sum(-1).mean()
    total = both.flatten(0, 1).var(dim=0, unbiased=False).sum()
    return within / total.clamp(min=1e-12)


def _check(c: DualConfig) -> None:
    check_momentum_contrast(min(c.temperature, c.tc_temperature), c.momentum, c.queue)
    if c.segments < 1 or c.frames % c.segments:
        raise ConfigError(
            f"a clip of {c.frames} frames does not divide into {c.segments} segments",
            value={"frames": c.frames, "segments": c.segments},
            remedy="choose model.segments among the divisors of model.frames",
        )
    if c.ranks_segments and c.segments == 1:
        raise ConfigError(
            "a single segment cannot be ranked",
            value=c.segments,
            remedy="set model.segments to 2 or more, or model.mode to clip-tc",
        )
    for name in ("theta", "clamp"):
        value = cast(float | None, getattr(c, name))
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be positive", value=value)
    weights = (c.w_clip, c.w_tc, c.w_sr)
    used = c.w_clip + c.w_tc * c.coheres + c.w_sr * c.ranks_segments
    if not all(0 <= w < float("inf") for w in weights) or used == 0:
        raise ConfigError(
            f"loss weights must be finite, not negative, and not all 0 that mode '{c.mode}' uses",
            value={"w_clip": c.w_clip, "w_tc": c.w_tc, "w_sr": c.w_sr},
        )
    if c.head.blocks != 1 or c.series.blocks != 1 or not c.head.out or not c.series.out:
        raise ConfigError(
            "give the lengths of both heads; their blocks are the segments",
            value={"head.out": c.head.out, "series.out": c.series.out},
        )
    if c.source_skip and not isinstance(c.transform, ContrastTransform):
        raise ConfigError(
            "source_skip needs a transform that can leave its colours alone",
            value=type(c.transform).__name__,
            remedy="set model.source_skip to 0",
        )
