"""An encoder with heads and its momentum copy: what MoCo and CycleContrast have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.encoders import (
    BackboneConfig,
    EncoderWithHeads,
    Head,
    HeadConfig,
    InferencePlan,
    build_backbone,
    build_head,
    in_parts,
)
from rhyme.encoders.backbone import backbone_class
from rhyme.errors import ConfigError
from rhyme.memory import BatchShuffle, MomentumEncoder
from rhyme.systems.base import Export
from rhyme.views import Clip, ContrastTransform, Transform, TurnTransform

Read = Callable[[EncoderWithHeads, Tensor], dict[str, Tensor]]
"""What is made of frames ``[b, c, h, w]`` by an encoder or its copy: ``[b, ...]`` by name."""

_EVAL_MARGIN = 256 / 224  # the customary resize before the central crop
_TINY = 32  # views up to this size are of pictures as small, which have no margin to lose


def read_heads(encoder: EncoderWithHeads, frames: Tensor) -> dict[str, Tensor]:
    """The embeddings of every head."""
    _, embeddings = encoder(frames)
    return embeddings


class MomentumPair(nn.Module):
    """An online encoder and the slowly moving copy that makes the keys (arXiv 1911.05722).

    Queries pass through the online encoder with gradient. Keys pass through the copy without; their
    rows are shuffled over the batch-norm groups before and put back after, so that the statistics
    of a query's group say nothing about which key is its own.

    Args:
        backbone: the backbone; its ``norm_groups`` are the groups of both encoders.
        heads: heads by name, all on the backbone's pooled feature.
        momentum: m in ``θ_k ← m θ_k + (1 − m) θ_q``.
        shuffle: False keeps the keys in the order of the queries, the ablation that leaks.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        heads: dict[str, HeadConfig],
        momentum: float,
        *,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        trunk = build_backbone(backbone)
        built = {
            name: build_head(head, trunk.feature_dim, norm_groups=backbone.norm_groups)
            for name, head in heads.items()
        }
        self.online = EncoderWithHeads(trunk, built)
        self.momentum = MomentumEncoder(self.online, momentum)
        self.norm_groups = backbone.norm_groups
        self.shuffle = BatchShuffle(backbone.norm_groups if shuffle else 1)

    @property
    def shuffle_told(self) -> str:
        """Which shuffle-BN is active, on the ranks that there are now, and why if none is."""
        groups = self.norm_groups
        if groups == 1:
            return "none (norm_groups 1)"
        if self.shuffle.backend == "none":
            return f"none (turned off, {groups} groups)"
        if self.shuffle.backend == "local":
            return f"local, {groups} groups"
        return f"across {distributed.world_size()} ranks, {groups} groups"

    def add_head(self, name: str, head: Head) -> None:
        """Add a head to the encoder before any training; the copy is made anew, with the head."""
        self.online.heads[name] = head
        self.momentum = MomentumEncoder(self.online, self.momentum.momentum)

    def queries(self, frames: Tensor, read: Read = read_heads) -> dict[str, Tensor]:
        """What ``read`` makes of frames ``[b, c, h, w]``, with gradient; else ``[b, d]`` a head."""
        return read(self.online, frames)

    @torch.no_grad()
    def keys(
        self,
        frames: Tensor,
        generator: torch.Generator,
        parts: int = 1,
        read: Read = read_heads,
    ) -> dict[str, Tensor]:
        """What ``read`` makes of frames ``[b, v, c, h, w]`` as ``[b, v, ...]``, without gradient.

        All ``v`` frames of an item travel in one batch, item by item, so that the global batch has
        one order for any number of ranks. They pass through the copy in ``parts``, which changes
        nothing but the memory that it takes.
        """
        items, views = frames.shape[:2]
        shuffled, restore = self.shuffle.shuffle(frames.flatten(0, 1), generator=generator)
        copied = cast(EncoderWithHeads, self.momentum.module)
        made = in_parts(self.momentum, parts, lambda i: read(copied, shuffled.chunk(parts)[i]))
        return {
            name: restore(torch.cat([part[name] for part in made])).unflatten(0, (items, views))
            for name in made[0]
        }

    def update(self) -> None:
        """Move the copy a step towards the online encoder.

        Called after each optimiser step, which is the same as before each key pass: at the first
        step both are equal.
        """
        self.momentum.update()


def check_reads(system: str, backbone: BackboneConfig, *, clips: bool, why: str) -> None:
    """Refuse an encoder of frames for a system of clips, and the other way round.

    Args:
        system: title of the system.
        backbone: the encoder that was chosen; it need not have been built.
        clips: whether the system gives it clips ``[b, t, c, h, w]``, not frames.
        why: what the system has of that, behind a comma.

    Raises:
        ConfigError: with encoders of the kind that it needs.
        UnknownName: no such encoder.
    """
    if backbone_class(backbone.name).reads_clips == clips:
        return
    kind, examples = ("clips", "small3d, r21d") if clips else ("frames", "small, resnet18")
    raise ConfigError(
        f"{system} needs an encoder of {kind}, {why}",
        value=backbone.name,
        remedy=f"set model.backbone.name to {examples} or another that reads {kind}",
    )


def inference_plan(transform: Transform, clip: Clip | None = None) -> InferencePlan:
    """How to feed an encoder that was trained under a transform: its size, its normalisation.

    The shorter side is scaled to 8/7 of the crop (256 before 224), or to the shorter side that the
    transform itself scales to, and the central square is cut; where that transform changes the
    aspect of every frame, so does the plan. Crops of contrast of 32 pixels and
    below are neither scaled up nor cut off: CIFAR's pictures are judged whole.

    Args:
        transform: of the views that it was trained on.
        clip: the clip that it reads, for its frames and their distance (the least where that is
            drawn); None for frames.
    """
    if isinstance(transform, TurnTransform):
        transform = transform.base
    aspect: float | None = None
    if isinstance(transform, ContrastTransform):
        aspect = transform.aspect
        own = min(transform.resize or (round(transform.size * _EVAL_MARGIN),))
        resize = own if transform.size > _TINY else transform.size
    else:
        resize = transform.resize or transform.size
    plan = InferencePlan(
        size=transform.size,
        resize=resize,
        mean=transform.mean,
        std=transform.std,
        aspect=aspect,
        interpolation=transform.interpolation,
    )
    if clip is None:
        return plan
    stride = 0 if clip.spacing is not None else clip.stride or (clip.strides or (1,))[0]
    return replace(plan, frames=clip.frames, spacing=clip.spacing or 0.0, stride=stride)


def encoder_export(pair: MomentumPair, transform: Transform) -> Export:
    """The online encoder with its heads, and how to feed it."""
    return Export(kind="encoder", module=pair.online, plan=inference_plan(transform))
