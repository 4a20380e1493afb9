r"""SimCLR: contrast of two views within the batch (Chen et al., arXiv 2002.05709).

Two views of each of N pictures give 2N unit vectors z. Each has to find the other view of its
picture among all others of the batch, with s_ij = z_i·z_j:

    ℓ(i, j) = −log  exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ),

    L = mean of ℓ over the 2N ordered pairs of views of one picture.

Nothing is detached: a vector is trained as anchor, as positive and as negative, on whichever rank
it is. The published code adds the two directions, which is 2 L; ``balance="official"`` does so. It
makes no difference under LARS without decay.

What we changed: in collections whose items share sources (segments of one film), the other items of
an anchor's own group are left out of its negatives. ``positive="video"`` takes the second view from
another frame of the item. Batch norm takes its statistics over both views of the whole global batch
(``backbone.norm_groups`` = 1), as in the paper: with statistics of a device's own rows a network
can tell its positives by them.

Cost: a forward and backward pass of 2N views, and (2N)²·d multiplications for the similarities,
which are never held all at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from rhyme import distributed
from rhyme.encoders import (
    HEAD_PRESETS,
    BackboneConfig,
    EncoderWithHeads,
    HeadConfig,
    build_backbone,
    build_head,
)
from rhyme.errors import ConfigError
from rhyme.loading import Batch
from rhyme.objectives import nt_xent
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import kin, masks_batch
from rhyme.systems.momentum_pair import check_reads, inference_plan
from rhyme.views import Clip, ContrastTransform, Transform, ViewPlan, ViewSpec

_VIEWS = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class SimclrConfig:
    """Options of SimCLR; the defaults are the paper's for ImageNet.

    Attributes:
        backbone: the encoder; ``backbone.norm_groups`` = 1 is batch norm over the global batch.
        head: the projection: ``layers`` 2 in the paper, 3 in its published code (SimCLRv2), 0 for
            the ablation without one.
        transform: how each view is augmented; ``transform.strength`` is the paper's *s*.
        temperature: τ.
        balance: ``"paper"`` is the mean over ordered pairs, ``"official"`` twice that.
        positive: ``"image"``, two views of one frame, or ``"video"``, of two frames of an item.
        exclude_query_frame: for ``"video"``: never draw the same frame twice.
        mask_same_group: leave other items of an anchor's group out of its negatives; None does so
            where items share groups.
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet50"))
    head: HeadConfig = HEAD_PRESETS["simclr"]
    transform: Transform = field(default_factory=ContrastTransform.simclr)
    temperature: float = 0.1
    balance: Literal["paper", "official"] = "paper"
    positive: Literal["image", "video"] = "image"
    exclude_query_frame: bool = False
    mask_same_group: bool | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(
                "temperature must be positive", value=self.temperature, remedy="try 0.1 or 0.5"
            )
        if self.exclude_query_frame and self.positive == "image":
            raise ConfigError(
                "exclude_query_frame needs a positive from another frame",
                value=self.positive,
                remedy="set model.positive to video",
            )


class Simclr(System):
    """The system; see the module's text.

    Args:
        config: its options.
    """

    Config = SimclrConfig

    def __init__(self, config: SimclrConfig) -> None:
        super().__init__(config)
        check_reads("SimCLR", config.backbone, clips=False, why="as it tells single frames apart")
        backbone = build_backbone(config.backbone)
        head = build_head(
            config.head, backbone.feature_dim, norm_groups=config.backbone.norm_groups
        )
        self.encoder = EncoderWithHeads(backbone, {"z": head})
        self.mask_same_group = bool(config.mask_same_group)

    def plans(self) -> dict[str, ViewPlan]:
        """Two views of one frame, or of two frames."""
        c = self.config
        clips, second = {"a": Clip()}, "a"
        if c.positive == "video":
            clips["b"], second = Clip(exclude="a" if c.exclude_query_frame else None), "b"
        views = {
            name: ViewSpec(clip=clip, transform=c.transform)
            for name, clip in zip(_VIEWS, ("a", second), strict=True)
        }
        return {"train": ViewPlan(clips=clips, views=views)}

    def setup(self, context: RunContext) -> None:
        """Mask other items of a group where there are any."""
        self.mask_same_group = masks_batch(self.config.mask_same_group, context)

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """Both views of each item, ``[b, 2, d]``, through the encoder in one batch."""
        views = torch.cat([batch.views[name].data for name in _VIEWS], dim=1)
        # Item by item, so that the global batch has one order for any number of ranks.
        _, embeddings = self.encoder(views.flatten(0, 1))
        return {"z": embeddings["z"].unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """NT-Xent of all views of the global batch."""
        first, second = embeddings["z"].unbind(1)
        contrast = nt_xent(
            first,
            second,
            temperature=self.config.temperature,
            groups=kin(batch, self.mask_same_group),
        )
        mean = distributed.mean(contrast.values, contrast.valid)
        return StepOutput(
            loss=2 * mean if self.config.balance == "official" else mean,
            parts={"nt_xent": mean.detach()},
            diagnostics=contrast.diagnostics,
            embeddings={"z": first.detach()},
        )

    def exports(self) -> dict[str, Export]:
        """The backbone, its head beside it."""
        plan = inference_plan(self.config.transform)
        return {"encoder": Export(kind="encoder", module=self.encoder, plan=plan)}
