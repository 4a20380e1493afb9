r"""CSTP: contrast and overlap rates of two clips (AAAI 2022, arXiv 2112.08913).

Two clips of a video are drawn so that they overlap by known rates in time and in the frame, at one
pace, each turned by quarters. A clip's feature *y* is that of the trunk *f*. It is taught twice.
By BYOL, without negatives, through a projector *g*, a predictor *q* and a slow copy f', g':

    L_ctr = D(q(g(y₁)), sg g'(y'₂)) + D(q(g(y₂)), sg g'(y'₁)),     D(a, b) = 2 − 2 cos(a, b),

and by telling how the clips were made, the two overlap rates from both features side by side, pace
and turn from each, with ℓ the cross-entropy of a two-layer head:

    L = .1 L_ctr + ℓ_s(y₁, y₂) + ℓ_t(y₁, y₂) + ℓ_pace(y₁) + ℓ_pace(y₂) + ℓ_rot(y₁) + ℓ_rot(y₂).

What we changed. In the published code the second clip of its packed data begins where the first
does, so the temporal rate is told from nothing; crops are laid into frames that were turned before,
so the spatial rate holds only for equal turns; a mirrored clip carries the label of another turn;
and drawing until it fits makes full overlap the rule. Here each label is drawn first, uniformly, in
the upright frame (:class:`rhyme.views.Overlap`, where ``sampler="released"`` is the published way).
The copy starts equal to the encoder, the heads have as many outputs as there are labels, and batch
norm takes its statistics over both clips of the whole global batch.

Cost: a forward and backward pass of 2b clips, and a forward pass of them through the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.encoders import (
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
from rhyme.objectives import balanced_accuracy, label_cross_entropy, pair_distance
from rhyme.systems.base import Embeddings, Export, StepContext, StepOutput, System
from rhyme.systems.momentum_pair import MomentumPair, check_reads, inference_plan
from rhyme.views import Clip, ContrastTransform, Overlap, OverlapPlan, TurnTransform, ViewSpec

CLIPS = ("first", "second")
PAIRS = ("spatial", "temporal")
"""Labels of two clips together."""
SINGLES = ("pace", "rotation")
"""Labels that each clip is asked for."""
QUARTERS = 4

PROJECTOR = HeadConfig(layers=2, out=512, hidden=4096, hidden_norm=True, normalise=False)
PREDICTOR = replace(PROJECTOR, out=0)
LABEL_HEAD = HeadConfig(layers=2, out=0, hidden_norm=True, normalise=False)


@dataclass(frozen=True, kw_only=True)
class CstpConfig:
    """Options of CSTP; the defaults are the published ones, drawn as the module's text says.

    Attributes:
        backbone: the encoder, one of clips.
        projector: *g*, on the trunk's feature.
        predictor: *q*, on the projector's output and of its length (``out=0``).
        label_head: form of the four heads; their length of output is the number of labels.
        transform: size, flip and colours of each clip; what ``skip`` leaves out is not tilted. The
            crops are drawn by ``overlap``.
        tilt: reach of the small rotation, in degrees.
        frames: frames of a clip.
        stride: native frames between the frames of a clip where the encoder is used.
        overlap: how the two clips are drawn.
        momentum: m of the copy, constant.
        byol_weight: weight of L_ctr; 0 leaves copy, projector and predictor out.
        spatial_weight: weight of ℓ_s; 0 leaves the head out, here and below.
        temporal_weight: weight of ℓ_t.
        pace_weight: weight of ℓ_pace of both clips.
        rotation_weight: weight of ℓ_rot of both clips.
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="r21d"))
    projector: HeadConfig = PROJECTOR
    predictor: HeadConfig = PREDICTOR
    label_head: HeadConfig = LABEL_HEAD
    transform: ContrastTransform = field(default_factory=ContrastTransform.cstp)
    tilt: float = 10.0
    frames: int = 16
    stride: int = 4
    overlap: Overlap = field(default_factory=Overlap)
    momentum: float = 0.996
    byol_weight: float = 0.1
    spatial_weight: float = 1.0
    temporal_weight: float = 1.0
    pace_weight: float = 1.0
    rotation_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ConfigError("a clip needs frames to have a pace", value=self.frames)
        if self.stride < 1:
            raise ConfigError("stride must be at least 1", value=self.stride)
        if not 0 <= self.momentum <= 1:
            raise ConfigError("momentum must lie in [0, 1]", value=self.momentum)
        weights = {"byol": self.byol_weight, **self.weights}
        if any(not 0 <= w < float("inf") for w in weights.values()) or not any(weights.values()):
            raise ConfigError(
                "weights must not be negative, and not all be 0",
                value=weights,
                remedy="give model.byol_weight or the weight of a label",
            )
        drawn = ContrastTransform.cstp()
        for name in ("scale", "ratio"):
            if getattr(self.transform, name) != getattr(drawn, name):
                raise ConfigError(
                    f"transform.{name} plays no part: both clips' crops are drawn together",
                    value=getattr(self.transform, name),
                    remedy=f"set model.overlap.{name} instead",
                )
        if self.rotation_weight > 0 and not self.overlap.turn:
            raise ConfigError(
                "clips that are not turned have no turn to be told",
                remedy="set model.rotation_weight to 0, or model.overlap.turn to true",
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the labels by name."""
        return {name: getattr(self, f"{name}_weight") for name in (*PAIRS, *SINGLES)}

    @property
    def classes(self) -> dict[str, int]:
        """Numbers of labels by name."""
        rates, paces = len(self.overlap.rates), len(self.overlap.paces)
        return {"spatial": rates, "temporal": rates, "pace": paces, "rotation": QUARTERS}


class Cstp(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = CstpConfig

    def __init__(self, config: CstpConfig) -> None:
        super().__init__(config)
        check_reads("CSTP", config.backbone, clips=True, why="whose feature can tell their pace")
        groups = config.backbone.norm_groups
        if config.byol_weight > 0:
            heads = {"projector": config.projector}
            self.encoders = MomentumPair(config.backbone, heads, config.momentum, shuffle=False)
            length = self.encoder.head("projector").out_dim
            self.predictor: Head = build_head(config.predictor, length, norm_groups=groups)
            if self.predictor.out_dim != length:
                raise ConfigError(
                    "the predictor must give what the projector gives",
                    value=(length, self.predictor.out_dim),
                    remedy="set model.predictor.out to 0",
                )
        else:
            self.trunk = EncoderWithHeads(build_backbone(config.backbone), {})
        dim = self.encoder.feature_dim
        self.labels = nn.ModuleDict()
        for name, weight in config.weights.items():
            if weight > 0:
                shape = replace(config.label_head, out=config.classes[name], normalise=False)
                wide = 2 * dim if name in PAIRS else dim
                self.labels[name] = build_head(shape, wide, norm_groups=groups)

    @property
    def encoder(self) -> EncoderWithHeads:
        """The encoder that is trained."""
        return self.encoders.online if self.config.byol_weight > 0 else self.trunk

    def plans(self) -> dict[str, OverlapPlan]:
        """``first`` and ``second``: two clips of an item, drawn together."""
        c = self.config
        # Where turns come first, as published, mirroring comes last.
        look = TurnTransform(
            base=c.transform,
            tilt=c.tilt,
            mirror="last" if c.overlap.sampler == "released" else "first",
        )
        views = {n: ViewSpec(clip=n, transform=look, consistent="clip") for n in CLIPS}
        clips = {n: Clip(frames=c.frames) for n in CLIPS}
        return {"train": OverlapPlan(clips=clips, views=views, overlap=c.overlap)}

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """Unit predictions ``p [b, 2, d]``, and the logits of each label, ``[b, (2,) labels]``."""
        clips = torch.stack([batch.views[name].data for name in CLIPS], dim=1)
        # Item by item, so that the global batch has one order for any number of ranks.
        features, made = self.encoder(clips.flatten(0, 1))
        told = self.tell(features.pooled.unflatten(0, clips.shape[:2]))
        if "projector" not in made:
            return told
        p = self.predictor(made["projector"], normalise=True)
        return {"p": p.unflatten(0, clips.shape[:2]), **told}

    def tell(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of each label from the features ``[b, 2, d]`` of both clips.

        Returns:
            ``spatial`` and ``temporal`` ``[b, labels]``, ``pace`` and ``rotation`` ``[b, 2,
            labels]``; those that have a head.
        """
        told: dict[str, Tensor] = {}
        for name, head in self.labels.items():
            if name in PAIRS:
                told[name] = head(features.flatten(1), normalise=False)
            else:
                told[name] = head(features.flatten(0, 1), normalise=False).unflatten(
                    0, features.shape[:2]
                )
        return told

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """The weighted sum of the contrast and of the labels' cross-entropies."""
        c = self.config
        parts: dict[str, Tensor] = {}
        diagnostics: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        if c.byol_weight > 0:
            p, z = embeddings["p"], self._targets(batch, context)
            forth = pair_distance(p[:, :1], z[:, 1:])
            back = pair_distance(p[:, 1:], z[:, :1])
            parts["byol"] = distributed.mean(forth.values + back.values)
            diagnostics["positive_cosine"] = 1 - parts["byol"].detach() / 4
            watched["z"] = z.flatten(0, 1)
        truths = self.truths(batch.targets)
        answers: dict[str, Tensor] = {}
        for name in self.labels:
            found = label_cross_entropy(embeddings[name], truths[name])
            # The values of both clips are added, not averaged.
            values = found.values if name in PAIRS else found.values.sum(dim=1)
            parts[name] = distributed.mean(values)
            answers[name] = embeddings[name].detach().argmax(dim=-1)
        for name, value in self._accuracies(answers, truths).items():
            diagnostics[f"{name}_balanced_accuracy"] = value
        weights = {"byol": c.byol_weight, **c.weights}
        loss = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return StepOutput(
            loss=loss,
            parts={name: value.detach() for name, value in parts.items()},
            diagnostics=diagnostics,
            embeddings=watched,
        )

    def truths(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The labels in the shape of :meth:`tell`, of those that have a head."""
        both = {name: targets[name] for name in self.labels}
        if "pace" in both:
            both["pace"] = both["pace"][:, None].expand(-1, len(CLIPS))
        return both

    def _targets(self, batch: Batch, context: StepContext) -> Tensor:
        """Unit projections of the copy, ``[b, 2, d]``."""
        clips = torch.stack([batch.views[name].data for name in CLIPS], dim=1)
        made = self.encoders.keys(clips, context.generator("shuffle"), context.parts)
        return unit(made["projector"])

    def _accuracies(
        self, answers: Mapping[str, Tensor], truths: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Balanced accuracies over the global batch."""
        columns = [t.reshape(len(t), -1) for n in answers for t in (answers[n], truths[n])]
        if not columns:
            return {}
        rows = distributed.gather(torch.cat(columns, dim=1))
        pieces = iter(rows.split([column.shape[1] for column in columns], dim=1))
        classes = self.config.classes
        return {
            name: balanced_accuracy(next(pieces).flatten(), next(pieces).flatten(), classes[name])
            for name in answers
        }

    def after_step(self, applied: bool) -> None:
        """Move the copy a step towards the encoder."""
        if applied and self.config.byol_weight > 0:
            self.encoders.update()

    def exports(self) -> dict[str, Export]:
        """The encoder with its projector; the heads that tell the labels."""
        c = self.config
        plan = inference_plan(c.transform, Clip(frames=c.frames, stride=c.stride))
        found = {"encoder": Export(kind="encoder", module=self.encoder, plan=plan)}
        if len(self.labels):
            found["labels"] = Export(kind="classifier", module=self.labels)
        return found
