r"""LSFD: long-short view feature decomposition (Behrmann et al., ICCV 2021, arXiv 2109.11593).

A long view of a video and the N short views that it consists of share what stays the same. What
changes belongs to each short view alone, and only all of them in their order make up what the long
view holds. So the pooled feature h of a clip is cut into halves, h = (h_s, h_n): the *stationary*
half, and the *non-stationary* one. With heads ψ on h_s and φ on h_n, ξ = (ψ, φ) of length 1, and an
aggregator g, for the long view x and its parts x_1 … x_N

    L_s    = mean over i of InfoNCE(ψ(x), ψ(x_i)),
    L_n    = InfoNCE(φ(x), g(φ(x_1), …, φ(x_N))),
    L_inst = InfoNCE(ξ(x), ξ(x')),     x' the long view under another augmentation,
    L      = w_s L_s + w_n L_n + w_i L_inst,

where all sides have length 1 and negatives come from other videos. L_s does not touch h_n, nor L_n
h_s: the heads read one half each, so the split is one of the trunk, and both halves can be used.

There is no published code, and no more than the abstract and a note on the paper could be read.
They state the split, which parts are compared, aggregation by a linear map, a network or a
recurrent one, and the sum of three losses. All sizes are ours.

What we chose. Within a batch each pair is asked both ways, so an anchor's negatives are those of
the other kind. With a momentum encoder the short views ask and the long one answers: keys have no
gradient, and an aggregator of keys would never learn. One queue then holds ξ of long views, and
each term reads its part of it. ``aggregator="mean"`` is the control that cannot tell an order;
``order_negatives`` adds what g makes of the short views in a wrong order to the negatives of the
long view. ``divided=False`` lets both heads read all of h.

Cost: N + 2 clips a video pass the trunk, with a momentum encoder one of them without a backward
pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rhyme import distributed
from rhyme.encoders import (
    Aggregation,
    Aggregator,
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
from rhyme.objectives import ObjectiveOutput, info_nce, info_nce_symmetric, with_own_negative
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import kin, masks_batch, masks_queue
from rhyme.systems.moco import check_momentum_contrast
from rhyme.systems.momentum_pair import MomentumPair, check_reads, inference_plan
from rhyme.transfer import sent
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec

PARTS = ("stationary", "non_stationary")
"""Names of the halves of the feature."""


@dataclass(frozen=True, kw_only=True)
class LSFDConfig:
    """Options of LSFD; sizes are ours, as the published ones could not be read.

    Attributes:
        backbone: the encoder of clips; the system names the parts of its feature.
        head: form of ψ and φ; φ is brought to length 1 within the losses only.
        transform: how each view is augmented, drawn once for all its frames.
        parts: N, short views of a long one.
        frames: T, frames of every view, long or short.
        stride: native frames between two of a short view; those of the long view are N times as far
            apart, so that it spans all short ones.
        spacing: seconds between them instead.
        aggregator: g: one matrix on the joined φ, a network of one hidden layer, a recurrent unit's
            last state, or the mean, which is the control without order.
        divided: whether each head reads its half of the feature, or all of it.
        w_s: weight of the stationary term; 0 leaves it out.
        w_n: weight of the non-stationary term; 0 leaves it out.
        w_i: weight of the instance term; 0 leaves it out.
        order_negatives: also keep the long view apart from its short views in a wrong order.
        base: ``"simclr"``, negatives from the batch, or ``"moco"``, from a queue.
        temperature: τ of all three.
        momentum: m of the momentum encoder (MoCo).
        queue: K, keys of long views (MoCo).
        mask_same_group: leave other items of an item's group out of its negatives. None does so
            where items share groups (SimCLR), or with fewer groups than ten times the queue (MoCo).
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="r21d"))
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=2, out=128))
    transform: Transform = field(default_factory=ContrastTransform.dual)
    parts: int = 2
    frames: int = 8
    stride: int | None = 4
    spacing: float | None = None
    aggregator: Aggregation = "linear"
    divided: bool = True
    w_s: float = 1.0
    w_n: float = 1.0
    w_i: float = 1.0
    order_negatives: bool = False
    base: Literal["simclr", "moco"] = "simclr"
    temperature: float = 0.1
    momentum: float = 0.999
    queue: int = 16384
    mask_same_group: bool | None = None

    def __post_init__(self) -> None:
        check_momentum_contrast(self.temperature, self.momentum, self.queue)
        weights = (self.w_s, self.w_n, self.w_i)
        if not all(0 <= w < float("inf") for w in weights) or max(weights) == 0:
            raise ConfigError(
                "loss weights must be finite, not negative, and not all 0", value=weights
            )
        if not 1 <= self.parts <= 64:
            raise ConfigError("parts must lie in 1 to 64", value=self.parts, remedy="try 2")
        if self.order_negatives and (self.parts == 1 or not self.w_n):
            raise ConfigError(
                "order_negatives needs several short views and the non-stationary term",
                value={"parts": self.parts, "w_n": self.w_n},
                remedy="set model.parts to 2 or more and model.w_n above 0",
            )
        if (self.stride is None) == (self.spacing is None):
            raise ConfigError(
                "give the stride of short views or their spacing",
                value={"stride": self.stride, "spacing": self.spacing},
                remedy="set one of them, and the other to null",
            )
        if not self.head.out:
            raise ConfigError("give the length of the heads: head.out", value=self.head.out)

    @property
    def compares_parts(self) -> bool:
        """Whether short views are needed."""
        return bool(self.w_s or self.w_n)


class LSFD(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = LSFDConfig

    def __init__(self, config: LSFDConfig) -> None:
        super().__init__(config)
        check_reads("LSFD", config.backbone, clips=True, why="whose feature can tell what changes")
        backbone = replace(config.backbone, parts=PARTS if config.divided else ())
        heads: dict[str, HeadConfig] = {}
        if config.w_s or config.w_i:
            heads["psi"] = replace(config.head, part=(0, 2) if config.divided else (0, 1))
        if config.w_n or config.w_i:
            part = (1, 2) if config.divided else (0, 1)
            heads["phi"] = replace(config.head, normalise=False, part=part)
        if config.base == "moco":
            self.encoders = MomentumPair(backbone, heads, config.momentum)
            self.queue = FeatureQueue(config.queue, len(heads) * config.head.out)
            halves = self.queue.features.unflatten(1, (len(heads), -1))
            self.queue.features.copy_(unit(halves).flatten(1))
        else:
            trunk, norms = build_backbone(backbone), backbone.norm_groups
            built = {name: build_head(h, trunk.feature_dim, norms) for name, h in heads.items()}
            self.encoder = EncoderWithHeads(trunk, built)
        self.aggregator = None
        if config.w_n:
            self.aggregator = Aggregator(config.aggregator, config.parts, config.head.out)
        self.mask_same_group = bool(config.mask_same_group)
        self._fresh: tuple[Tensor, Tensor] | None = None

    @property
    def online(self) -> EncoderWithHeads:
        """The encoder that is trained."""
        return self.encoders.online if self.config.base == "moco" else self.encoder

    @property
    def _short_clip(self) -> Clip:
        c = self.config
        return Clip(frames=c.frames, stride=c.stride, spacing=c.spacing)

    def plans(self) -> dict[str, ViewPlan]:
        """``long``, the same frames ``again``, and its parts ``short0``, ``short1`` and so on."""
        c, short = self.config, self._short_clip
        clips = {
            "long": replace(
                short,
                stride=None if c.stride is None else c.stride * c.parts,
                spacing=None if c.spacing is None else c.spacing * c.parts,
            )
        }
        names = {"long": "long"}
        if c.w_i or c.base == "moco":
            names["again"] = "long"
        if c.compares_parts:
            for i in range(c.parts):
                clips[f"part{i}"] = Clip(part=(i, c.parts), of="long")
                names[f"short{i}"] = f"part{i}"
        views = {
            name: ViewSpec(clip=clip, transform=c.transform, consistent="clip")
            for name, clip in names.items()
        }
        return {"train": ViewPlan(clips=clips, views=views)}

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask, by shared groups or by their number."""
        c, choice = self.config, self.config.mask_same_group
        if c.base == "moco":
            self.mask_same_group = masks_queue(choice, context, c.queue)
        else:
            self.mask_same_group = masks_batch(choice, context)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """ψ and φ of every view, e.g. ``long/psi``, and the aggregated ``short/g``.

        All views pass the encoder together, but for ``again``, which the copy sees, where there is
        one. ``short/wrong`` is what the aggregator makes of a wrong order.
        """
        c = self.config
        names = [name for name in batch.views if c.base == "simclr" or name != "again"]
        # Item by item, so that the global batch has one order for any number of ranks.
        stacked = torch.stack([batch.views[name].data for name in names], dim=1)
        _, made = self.online(stacked.flatten(0, 1))
        found: Embeddings = {}
        for head, rows in made.items():
            each = rows.unflatten(0, stacked.shape[:2]).unbind(1)
            found |= {f"{name}/{head}": row for name, row in zip(names, each, strict=True)}
        if self.aggregator is not None:
            short = torch.stack([found[f"short{i}/phi"] for i in range(c.parts)], dim=1)
            found["short/g"] = self.aggregator(short)
            if c.order_negatives:
                place = self.wrong_order(batch, context)[..., None].expand_as(short)
                found["short/wrong"] = self.aggregator(short.gather(1, place))
        return found

    def wrong_order(self, batch: Batch, context: StepContext) -> Tensor:
        """A drawn turn of each item's short views, none of which stays in place, int64 ``[b, n]``.

        Place j holds short view (j + r) mod N, with r in 1 to N − 1.
        """
        parts, keys = self.config.parts, context.per_sample("order", batch.ids)
        turn = 1 + torch.from_numpy(keys.integers("turn", parts - 1))
        order = (torch.arange(parts)[None, :] + turn[:, None]) % parts
        return sent(order, batch.ids.device)

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """The terms that have a weight."""
        c = self.config
        if c.base == "moco":
            answers = self._keys(batch, context)
        else:
            answers = {head: embeddings[f"long/{head}"] for head in self.online.heads}
        terms: dict[str, tuple[float, ObjectiveOutput]] = {}
        if c.w_s:
            asked = [embeddings[f"short{i}/psi"] for i in range(c.parts)]
            each = [self._contrast(x, answers["psi"], "psi", batch) for x in asked]
            terms["s"] = (c.w_s, _mean(each))
        if c.w_n:
            terms["n"] = (c.w_n, self._order_term(embeddings, answers["phi"], batch))
        if c.w_i:
            one = _joined(embeddings["long/psi"], embeddings["long/phi"])
            if c.base == "moco":
                other = _joined(answers["psi"], answers["phi"])
            else:
                other = _joined(embeddings["again/psi"], embeddings["again/phi"])
            terms["i"] = (c.w_i, self._contrast(one, other, "xi", batch))
        parts = {name: distributed.mean(t.values, t.valid) for name, (_, t) in terms.items()}
        told = {f"{n}/{k}": v for n, (_, t) in terms.items() for k, v in t.diagnostics.items()}
        watched = {head: unit(embeddings[f"long/{head}"].detach()) for head in self.online.heads}
        return StepOutput(
            loss=torch.stack([terms[name][0] * value for name, value in parts.items()]).sum(),
            parts={name: value.detach() for name, value in parts.items()},
            diagnostics=told,
            embeddings=watched,
        )

    def _order_term(self, embeddings: Embeddings, answers: Tensor, batch: Batch) -> ObjectiveOutput:
        """L_n; the long view's own wrong order joins the negatives, compared with the long view.

        With a queue, whose rows are compared with the joined short views, a value has both kinds.
        """
        joined, long = unit(embeddings["short/g"]), unit(answers)
        out = self._contrast(joined, long, "phi", batch)
        if not self.config.order_negatives:
            return out
        wrong, b = unit(embeddings["short/wrong"]), len(joined)
        # Within a batch, the long view asks in the later half of the values; with a queue, in none.
        own = slice(len(out.values) - b, None)
        whole = with_own_negative(
            ObjectiveOutput(out.values[own], out.valid[own], out.diagnostics),
            long,
            joined,
            wrong,
            temperature=self.config.temperature,
        )
        values = torch.cat([out.values[: len(out.values) - b], whole.values])
        valid = torch.cat([out.valid[: len(out.values) - b], whole.valid])
        told = {**whole.diagnostics, "masked_rows": distributed.sum_all((~valid).sum().to(values))}
        return ObjectiveOutput(values, valid, told)

    def _contrast(self, asked: Tensor, answers: Tensor, part: str, batch: Batch) -> ObjectiveOutput:
        """InfoNCE of unit rows: both ways within the batch, or with part of the queue."""
        c, masked = self.config, self.mask_same_group
        if c.base == "simclr":
            groups = kin(batch, masked)
            return info_nce_symmetric(asked, answers, temperature=c.temperature, groups=groups)
        keys = self.queue.features
        if part == "xi":
            keys = keys * len(self.online.heads) ** -0.5
        elif len(self.online.heads) == 2:
            keys = keys.chunk(2, dim=1)[0 if part == "psi" else 1]
        return info_nce(
            asked,
            answers,
            keys,
            temperature=c.temperature,
            anchor_groups=batch.group if masked else None,
            negative_groups=self.queue.owners if masked else None,
        )

    def _keys(self, batch: Batch, context: StepContext) -> Embeddings:
        """ψ and φ of the long view under the momentum encoder, without gradient."""
        clips = batch.views["again"].data[:, None]
        found = self.encoders.keys(clips, context.generator("shuffle"), context.parts)
        keys = {head: unit(rows[:, 0]) for head, rows in found.items()}
        self._fresh = (torch.cat(list(keys.values()), dim=1), batch.group)
        return keys

    def after_step(self, applied: bool) -> None:
        """With MoCo: move the momentum encoder, then put this batch's keys into the queue."""
        if applied and self._fresh is not None:
            self.encoders.update()
            self.queue.enqueue(*self._fresh)
        self._fresh = None

    def exports(self) -> dict[str, Export]:
        """The trunk with its heads; its features name both halves, and it wants short views."""
        plan = inference_plan(self.config.transform, self._short_clip)
        return {"encoder": Export(kind="encoder", module=self.online, plan=plan)}


def _joined(psi: Tensor, phi: Tensor) -> Tensor:
    """ξ: both embeddings, each of length 1, joined to one of length 1."""
    return functional.normalize(torch.cat([unit(psi), unit(phi)], dim=1), dim=1)


def _mean(outs: list[ObjectiveOutput]) -> ObjectiveOutput:
    """The mean of objectives over the same anchors."""
    values = torch.stack([out.values for out in outs]).mean(dim=0)
    told = {
        name: torch.stack([out.diagnostics[name] for out in outs]).mean(dim=0)
        for name in outs[0].diagnostics
    }
    return ObjectiveOutput(values, outs[0].valid, told)
