r"""DenseCL: every cell of a view finds its counterpart (Wang et al., CVPR 2021, arXiv 2011.09157).

Two views of a frame give two contrasts. One is MoCo's, of the views as wholes, with unit vectors
*q*, *k* and a queue *N*. The other is of the cells of their feature maps: a dense head makes *r_i*
of cell *i* of the query view and *t_j* of cell *j* of the key view, and a second queue *N'* holds
for each earlier picture the mean of its dense keys, taken before the normalisation:

    c_i = argmax_j  cos(f_i, f'_j),      f, f': cells of the backbones' maps, without gradient,
    L = (1 − λ) InfoNCE(q, k, N; τ) + λ  mean_i InfoNCE(r_i, t_{c_i}, N'; τ).

With λ = 0 this is MoCo v2, bit by bit.

What we changed. The match c may also come from the dense embeddings (``head``), from chance
(``random``) or from the true geometry of the two crops (``geometry``): those are the ablations of
the idea. A dense grid other than the backbone's is pooled before the match, so both count the same
cells (the published code matches on the backbone's grid and reads on the other). Queues are
MoCo's here: of any size, masked by group where groups are few. The dense head is an MLP on each
cell, which is what 1x1 convolutions are.

Cost: MoCo's step, and for a map of S² cells ``b·S²·K'·d`` multiplications for the dense logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rhyme import distributed
from rhyme.encoders import (
    Backbone,
    BackboneConfig,
    EncoderWithHeads,
    HeadConfig,
    build_head,
    map_channels,
    unit,
)
from rhyme.errors import ConfigError, DataError
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue
from rhyme.objectives import dense_info_nce, info_nce, nearest_cells
from rhyme.systems.base import Embeddings, Export, RunContext, StepContext, StepOutput, System
from rhyme.systems.masking import masks_queue
from rhyme.systems.moco import HEAD_V2, check_momentum_contrast
from rhyme.systems.momentum_pair import MomentumPair, check_reads, encoder_export
from rhyme.transfer import sent
from rhyme.views import (
    Clip,
    ContrastTransform,
    Transform,
    ViewPlan,
    ViewSpec,
    cell_centres,
    cells_apart,
    true_matches,
)

Matching = Literal["backbone", "head", "random", "geometry"]


@dataclass(frozen=True, kw_only=True)
class DenseCLConfig:
    """Options of DenseCL; the defaults are the published run's, but for the groups of batch norm.

    Attributes:
        backbone: the encoder; ``backbone.norm_groups`` > 1 turns shuffle-BN on (8 in the published
            run and its recipes; 1, the default, has nothing to shuffle).
        head: form of the head of whole views.
        dense_head: form of the head of cells; its output is always brought to length 1.
        transform: how each view is augmented.
        temperature: τ of both contrasts.
        momentum: m of the momentum encoder.
        queue: K, keys of whole views.
        dense_queue: K', pooled dense keys, one a picture.
        dense_weight: λ from 0 to 1; 0 is MoCo v2 and saves the dense part.
        dense_warmup_steps: steps at the beginning during which λ is 0 while the second queue fills
            (the authors suggest 10,000 where the first matches are too bad).
        grid: cells a side that maps are averaged to before match and head; None keeps the map.
        matching: where a cell's counterpart comes from: ``"backbone"`` features, ``"head"``, the
            dense embeddings themselves, ``"random"``, or ``"geometry"``, the cell that shows the
            same place; cells outside the other view are left out then.
        shuffle: encode keys in a random order of the global batch (shuffle-BN).
        mask_same_group: leave keys of the query's group out of its negatives; None decides by
            the number of groups (on with fewer than ten times the queue).
    """

    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet50"))
    head: HeadConfig = HEAD_V2
    dense_head: HeadConfig = HEAD_V2
    transform: Transform = field(default_factory=ContrastTransform.moco_v2)
    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 65536
    dense_queue: int = 65536
    dense_weight: float = 0.5
    dense_warmup_steps: int = 0
    grid: int | None = None
    matching: Matching = "backbone"
    shuffle: bool = True
    mask_same_group: bool | None = None

    def __post_init__(self) -> None:
        check_momentum_contrast(self.temperature, self.momentum, self.queue)
        check_momentum_contrast(self.temperature, self.momentum, self.dense_queue)
        if not 0 <= self.dense_weight <= 1:
            raise ConfigError(
                "dense_weight must lie in [0, 1]", value=self.dense_weight, remedy="try 0.5"
            )
        if self.dense_warmup_steps < 0:
            raise ConfigError(
                "dense_warmup_steps must not be negative", value=self.dense_warmup_steps
            )
        if self.grid is not None and not 1 <= self.grid <= 256:
            raise ConfigError("grid must lie in 1 to 256", value=self.grid, remedy="try 7")


class DenseCL(System):
    """The system; see the module's text.

    Args:
        config: its options.

    Raises:
        ConfigError: the backbone makes no map, or one that a head of its features cannot read.
        DataError: it cannot read frames of the transform's size.
    """

    Config = DenseCLConfig

    def __init__(self, config: DenseCLConfig) -> None:
        super().__init__(config)
        check_reads("DenseCL", config.backbone, clips=False, why="whose cells it tells apart")
        # In MoCo's order, so that one seed draws the same weights and the same queue for both.
        self.encoders = MomentumPair(
            config.backbone, {"m": config.head}, config.momentum, shuffle=config.shuffle
        )
        self.queue = FeatureQueue(config.queue, self.encoders.online.head("m").out_dim)
        trunk = self.encoders.online.backbone
        groups = config.backbone.norm_groups
        if config.dense_weight > 0:
            _check_map(trunk, config.transform.size)
        dense = build_head(config.dense_head, trunk.feature_dim, norm_groups=groups)
        self.encoders.add_head("dense", dense)
        self.dense_queue = FeatureQueue(config.dense_queue, dense.out_dim)
        self.mask_same_group = bool(config.mask_same_group)
        self._cells: int | None = None  # of a side of the last map
        self._fresh: tuple[Tensor, Tensor | None, Tensor] | None = None

    def plans(self) -> dict[str, ViewPlan]:
        """Two views of one frame."""
        view = ViewSpec(clip="a", transform=self.config.transform)
        return {"train": ViewPlan(clips={"a": Clip()}, views={"query": view, "key": view})}

    def setup(self, context: RunContext) -> None:
        """Decide on the same-group mask by the number of groups."""
        c = self.config
        size = max(c.queue, c.dense_queue) if c.dense_weight > 0 else c.queue
        self.mask_same_group = masks_queue(c.mask_same_group, context, size)

    def read(self, encoder: EncoderWithHeads, frames: Tensor) -> dict[str, Tensor]:
        """What both encoders make of frames ``[b, c, h, w]``.

        Returns:
            ``m [b, d]``; and with λ > 0 ``dense [b, n, d]``, of any length, and ``cells
            [b, n, c]`` of the backbone's map, without gradient; cells row by row.
        """
        features, embeddings = encoder(frames, heads=("m",))
        if self.config.dense_weight == 0:
            return embeddings
        map_, grid = features.map, self.config.grid
        self._cells = map_.shape[-1]
        if grid is not None:
            map_ = functional.adaptive_avg_pool2d(map_, grid)
        cells = map_.flatten(2).mT
        dense = encoder.head("dense")(cells.flatten(0, 1), normalise=False)
        found = {"dense": dense.unflatten(0, cells.shape[:2])}
        if self.config.matching == "backbone":
            found["cells"] = cells.detach()
        return embeddings | found

    def embed(self, batch: Batch, context: StepContext) -> Embeddings:
        """The queries."""
        return self.encoders.queries(batch.views["query"].frames, self.read)

    def loss(self, embeddings: Embeddings, batch: Batch, context: StepContext) -> StepOutput:
        """The contrast of whole views, and that of their cells."""
        c = self.config
        keys = self.encoders.keys(
            batch.views["key"].data, context.generator("shuffle"), context.parts, self.read
        )
        key = {name: value[:, 0] for name, value in keys.items()}
        masked = self.mask_same_group
        groups = batch.group if masked else None
        whole = info_nce(
            embeddings["m"],
            key["m"],
            self.queue.features,
            temperature=c.temperature,
            anchor_groups=groups,
            negative_groups=self.queue.owners if masked else None,
        )
        loss = distributed.mean(whole.values, whole.valid)
        parts = {"info_nce": loss.detach()}
        watched = {"m": embeddings["m"].detach()}
        diagnostics = dict(whole.diagnostics)
        pooled = None
        if c.dense_weight > 0:
            query = unit(embeddings["dense"])
            match, valid, told = self._match(embeddings, key, batch, context)
            pooled = unit(key["dense"].mean(dim=1))
            cells = dense_info_nce(
                query,
                unit(key["dense"]),
                match,
                self.dense_queue.features,
                temperature=c.temperature,
                valid=valid,
                anchor_groups=groups,
                negative_groups=self.dense_queue.owners if masked else None,
            )
            dense = distributed.mean(cells.values, cells.valid)
            weight = 0.0 if context.step < c.dense_warmup_steps else c.dense_weight
            loss = (1 - weight) * loss + weight * dense
            parts["dense"] = dense.detach()
            watched["dense"] = query.detach()
            diagnostics |= {f"dense/{k}": v for k, v in {**cells.diagnostics, **told}.items()}
        self._fresh = (key["m"], pooled, batch.group)
        return StepOutput(loss=loss, parts=parts, diagnostics=diagnostics, embeddings=watched)

    def _match(
        self, query: Embeddings, key: Embeddings, batch: Batch, context: StepContext
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The counterpart of each cell ``[b, n]``, which of them count, and what to tell of it."""
        kind = self.config.matching
        true = self._geometry(batch)
        count = query["dense"].shape[1]
        if kind == "geometry":
            if true is None:
                raise DataError(
                    "matching by geometry needs views that know where they were cut",
                    stage="densecl",
                    remedy="train from a catalog, or choose model.matching=backbone",
                )
            return true[0], true[1], {"overlap": true[1].to(query["m"]).mean()}
        if kind == "random":
            keys = context.per_sample("match", batch.ids)
            drawn = torch.from_numpy(keys.integers("cell", count, count))
            match = sent(drawn, query["dense"].device)
        else:
            name = "cells" if kind == "backbone" else "dense"
            match = nearest_cells(query[name].detach(), key[name])
        if true is None:
            return match, None, {}
        side = math.isqrt(count)
        # ranks differ in how many cells have a counterpart, so their means have no common mean
        hit = (cells_apart(match, true[0], side) <= 1).to(query["m"].dtype)
        return match, None, {"true_match": distributed.mean(hit, true[1])}

    def _geometry(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """True counterparts and where there are any; None where the views have no maps."""
        query, key = batch.views["query"], batch.views["key"]
        if query.map is None or key.map is None:
            return None
        trunk: Backbone = self.encoders.online.backbone
        stride, offset = list(trunk.geometry.values())[-1]
        size = query.data.shape[-1]
        centres = cell_centres(size, stride, offset, self.config.grid, self._cells)
        match, valid = true_matches(query.map[:, 0], key.map[:, 0], centres, size)
        return sent(match, query.data.device), sent(valid, query.data.device)

    def after_step(self, applied: bool) -> None:
        """Move the momentum encoder, then put this batch's keys into both queues."""
        if applied and self._fresh is not None:
            whole, pooled, group = self._fresh
            self.encoders.update()
            self.queue.enqueue(whole, group)
            if pooled is not None:
                self.dense_queue.enqueue(pooled, group)
        self._fresh = None

    def exports(self) -> dict[str, Export]:
        """The online backbone with both heads; ``dense`` reads the cells of its map."""
        return {"encoder": encoder_export(self.encoders, self.config.transform)}


def _check_map(trunk: Backbone, size: int) -> None:
    """Refuse a backbone whose cells the dense head cannot read; it is as wide as the features."""
    channels = map_channels(trunk, size)
    if channels != trunk.feature_dim:
        made = "no map" if channels is None else f"a map of {channels} channels"
        raise ConfigError(
            f"'{trunk.config.name}' makes {made}, and DenseCL's head reads cells of its "
            f"{trunk.feature_dim} features",
            stage="densecl",
            value={"map": channels, "features": trunk.feature_dim},
            remedy="choose a backbone whose feature is the mean of its map, such as resnet50; "
            "or model.dense_weight=0, which is MoCo",
        )
