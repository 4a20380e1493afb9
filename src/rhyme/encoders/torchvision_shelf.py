"""Torchvision's classifiers of pictures as encoders, under torchvision's own parameter names.

The pooled feature is what the classifier's last layer reads. Maps are taken out by torchvision's
feature extractor; a stage is the last map of each resolution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from rhyme.encoders.backbone import Backbone, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.borrowed import OPTIONS, Borrowed, switch_off_chance, unreadable
from rhyme.encoders.cell_places import CellPlaces
from rhyme.encoders.norm import group_norms
from rhyme.errors import ConfigError, UnknownName, nearest

_CLASSES = 1000
_OLD_NAMES = (  # of files that torchvision still serves
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What is taken out of a network.

    Attributes:
        pooled: node of what the classifier reads.
        stages: node by name of a stage, in order.
        geometry: (stride, offset) in pixels by stage.
        last: the stages whose maps have the channels last.
        tokens: side of the grid of tokens that stands for the map, 0 without.
        dim: length of the pooled feature.
    """

    pooled: str
    stages: dict[str, str]
    geometry: dict[str, tuple[float, float]]
    last: frozenset[str]
    tokens: int
    dim: int


class TorchvisionEncoder(Borrowed, Backbone):
    """A classifier of torchvision's without its last layer.

    Dropout and stochastic depth are off: they would make a step depend on how many ranks share a
    batch. Batch norm works over groups of the global batch.

    Args:
        config: ``name`` is ``torchvision:NAME``, of a vision transformer also
            ``torchvision:NAME@SIDE`` for pictures of another size.

    Raises:
        UnknownName: torchvision has no such classifier.
        ConfigError: an option that these encoders do not have.
    """

    on_meta: ClassVar[bool] = False

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, OPTIONS)
        if config.in_channels != 3:
            raise ConfigError("torchvision's encoders read 3 channels", value=config.in_channels)
        nodes = find_nodes(config.name)
        wanted = {"pooled": nodes.pooled, **nodes.stages}
        # two names of one node are not allowed
        outputs = {node: node for node in dict.fromkeys(wanted.values())}
        net = create_feature_extractor(build(config.name), outputs)
        switch_off_chance(net)
        group_norms(net, config.norm_groups)
        self.net: nn.Module = net
        self._nodes = nodes
        self.feature_dim = nodes.dim
        self.geometry = dict(nodes.geometry)
        bare, side = split_name(config.name)
        if bare.startswith(("vit_", "maxvit")):
            self.side = side or recommended(bare)["crop_size"][0]

    @classmethod
    def renamed(cls, name: str) -> str:
        """Today's name of an entry in torchvision's older files."""
        for pattern, new in _OLD_NAMES:
            name = pattern.sub(new, name)
        return name

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """What the classifier reads, the last map, and the maps of ``stages``."""
        try:
            found = self.net(x)
        except (AssertionError, RuntimeError) as error:
            raise unreadable(self.config.name, x, error, self.side) from error
        maps = {name: self._map(name, found[node]) for name, node in self._nodes.stages.items()}
        pooled = found[self._nodes.pooled]
        if pooled.ndim == 4:
            pooled = pooled.mean(dim=(-2, -1))
        return pooled, list(maps.values())[-1], {name: maps[name] for name in stages}

    def _map(self, stage: str, value: Tensor) -> Tensor:
        if value.ndim == 3:
            side = self._nodes.tokens
            return value[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        return value.permute(0, 3, 1, 2) if stage in self._nodes.last else value


def build(name: str) -> nn.Module:
    """Torchvision's classifier with fresh weights.

    Raises:
        UnknownName: there is none of that name.
        ConfigError: a size for one that reads any, or one that its patches do not divide.
    """
    bare, side = split_name(name)
    options: dict[str, Any] = {}
    if bare in ("googlenet", "inception_v3"):
        # its official weights were made for pixels that it scales by itself
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    elif bare.startswith("vit_"):
        patch = int(bare.rpartition("_")[2])
        if side % patch:
            near = max(side // patch, 1) * patch
            raise ConfigError(
                f"'{bare}' has patches of {patch} pixels, which {side} is no multiple of",
                stage="build encoder",
                value=name,
                remedy=f"give a multiple of {patch}: --size {near} or {near + patch} "
                f"(as a backbone's name: torchvision:{bare}@{near})",
            )
        options = {"image_size": side or recommended(bare)["crop_size"][0]}
    elif side:
        raise ConfigError(f"'{bare}' has no size of its own", value=name, remedy=f"write {bare}")
    if bare.startswith("maxvit"):
        options = {"input_size": (224, 224)}
    return models.get_model(bare, weights=None, **options)


def split_name(name: str) -> tuple[str, int]:
    """(torchvision's name, side or 0) of ``torchvision:NAME@SIDE``.

    Raises:
        UnknownName: there is no classifier of that name.
        ConfigError: the side is no number from 16 to 1024.
    """
    bare, _, side = name.removeprefix("torchvision:").partition("@")
    known = models.list_models(module=models)
    if bare not in known:
        raise UnknownName(
            f"torchvision has no encoder '{name.removeprefix('torchvision:')}'",
            stage="build encoder",
            remedy=nearest(bare, [*known, *models.list_models(module=models.video)]),
        )
    if side and not (side.isdecimal() and 16 <= int(side) <= 1024):
        raise ConfigError(
            f"torchvision's encoders are built for 16 to 1024 pixels, not for {side!r}",
            stage="build encoder",
            value=name,
            remedy="leave the size out for its own, or give another one: --size 224 (as a "
            f"backbone's name: torchvision:{bare}@224)",
        )
    return bare, int(side or 0)


def recommended(bare: str) -> dict[str, Any]:
    """What torchvision says of the pixels that its default weights of a network want."""
    told: Any = models.get_model_weights(bare)
    # regnet_y_128gf has no default
    return vars(next(w for w in [getattr(told, "DEFAULT", None), *told] if w).transforms())


@lru_cache(maxsize=64)
def find_nodes(name: str) -> Nodes:
    """Find what is to be taken out of a network, by running it without numbers.

    Raises:
        UnknownName: there is no such network.
    """
    bare, side = split_name(name)
    side = side or recommended(bare)["crop_size"][0]
    with torch.random.fork_rng(devices=[]):
        net = build(name).to("meta").eval()
    names = get_graph_node_names(net)[1]
    every = create_feature_extractor(net, {node: node for node in names})
    every.eval()
    places = CellPlaces(every, side, every)
    shapes = {n: tuple(v.shape) for n, v in places.output.items() if isinstance(v, Tensor)}
    pooled = _classifier_input(every, net, shapes)
    by_side: dict[int, tuple[str, bool]] = {}
    for node, shape in shapes.items():
        if len(shape) == 4 and shape[0] == 2:
            if shape[2] == shape[3] and shape[2] > 1:
                by_side[shape[2]] = (node, False)
            elif shape[1] == shape[2] and shape[1] > 1:
                by_side[shape[1]] = (node, True)
        if node == pooled:
            break
    by_side.pop(side, None)
    tokens = 0
    if "encoder.ln" in shapes and len(shapes["encoder.ln"]) == 3:  # a vision transformer
        tokens = int((shapes["encoder.ln"][1] - 1) ** 0.5)
        by_side = {tokens: ("encoder.ln", False)}
    order = sorted(by_side, reverse=True)
    stages = {f"stage{i + 1}": by_side[s][0] for i, s in enumerate(order)}
    return Nodes(
        pooled=pooled,
        stages=stages,
        geometry={f"stage{i + 1}": places.of(s) for i, s in enumerate(order)},
        last=frozenset(f"stage{i + 1}" for i, s in enumerate(order) if by_side[s][1]),
        tokens=tokens,
        dim=shapes[pooled][1],
    )


def _classifier_input(every: nn.Module, net: nn.Module, shapes: dict[str, tuple[int, ...]]) -> str:
    """The node that the layer reads which gives a value a class."""
    *_, layer = (
        name
        for name, part in net.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == _CLASSES)
        or (isinstance(part, nn.Conv2d) and part.out_channels == _CLASSES)
    )
    order = list(shapes)
    before = order[: order.index(layer)]
    return next(node for node in reversed(before) if len(shapes[node]) in (2, 4))
