"""An encoder as a ``torch.export`` program: one file that runs without rhyme's code."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rhyme.config import from_dict
from rhyme.encoders import Backbone, EncoderPackage, Features, InferencePlan
from rhyme.errors import ConfigError, PackageError
from rhyme.run import atomic_write

_FACTS = "rhyme.json"


class _Program(nn.Module):
    """What is traced: pixels to a tuple, with the normalisation inside if asked for."""

    def __init__(self, backbone: Backbone, plan: InferencePlan, normalise: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalise = normalise
        shape = (-1, 1, 1)
        self.register_buffer("mean", torch.tensor(plan.mean).view(shape), persistent=normalise)
        self.register_buffer("std", torch.tensor(plan.std).view(shape), persistent=normalise)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if self.normalise:
            pixels = (pixels - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        features: Features = self.backbone(pixels)
        return (features.pooled,) if features.map is None else (features.pooled, features.map)


@dataclass(frozen=True, kw_only=True)
class ExportedEncoder:
    """A program that was read back.

    Attributes:
        module: ``[b, c, h, w] -> ([b, d], [b, d, h', w'])``: pooled feature and map; for a clip
            encoder ``[b, t, c, h, w] -> ([b, d], [b, d, t', h', w'])``. An encoder without a map
            gives the pooled feature alone, as ``([b, d],)``.
        plan: how it wants its input.
        normalised: it wants pixels on [0, 1] and normalises them itself.
        source: hash of the package it was made from.
    """

    module: nn.Module
    plan: InferencePlan
    normalised: bool
    source: str


def to_torch_export(package: EncoderPackage, path: str | Path, *, normalise: bool = False) -> Path:
    """Write a package's backbone as a ``.pt2`` program for any batch size.

    The size of the views, and the frames of a clip, are those of the inference plan;
    ``torch.export.load`` reads the file, in
    C++ too. The program returns (pooled feature, map), or (pooled feature,) where there is no map.

    Args:
        package: the package.
        path: the file to write; its ending must be ``.pt2``.
        normalise: build mean and standard deviation in; the program then takes pixels on [0, 1].

    Returns:
        The path.

    Raises:
        ConfigError: another ending, a normalisation that does not fit the input's channels, or a
            network that PyTorch cannot trace.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ConfigError("an exported program ends in .pt2", file=path, remedy="rename it")
    channels, plan = package.config.in_channels, package.plan
    if normalise and channels != len(plan.mean):
        raise ConfigError(
            f"the plan normalises {len(plan.mean)} channels, the encoder reads {channels}",
            remedy="export without normalise",
        )
    program = _Program(package.module, plan, normalise).eval()
    device = next(package.module.parameters()).device
    # Two rows: a batch of one would be taken for a constant.
    frames = (plan.frames,) if package.module.reads_clips else ()
    example = torch.zeros(2, *frames, channels, plan.size, plan.size, device=device)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            exported = torch.export.export(
                program.to(device), (example,), dynamic_shapes={"pixels": {0: batch}}
            )
    except Exception as error:  # tracing raises whatever it meets, of a score of classes
        raise ConfigError(
            f"PyTorch cannot trace {package.config.name} into a program",
            stage="export",
            value=str(error).partition("\n")[0][:200],
            remedy="write a package instead, or a folder for a hub",
        ) from error
    facts = {"plan": plan.facts(), "normalised": normalise, "source": package.hash}
    made = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
    torch.export.save(exported, made, extra_files={_FACTS: json.dumps(facts)})
    atomic_write(path, made.getvalue())
    return path


def load_torch_export(path: str | Path) -> ExportedEncoder:
    """Read a program back.

    Only for files of your own: PyTorch's reader of programs is made for trusted files. Take
    packages from others.

    Raises:
        PackageError: the file is missing, damaged, or no program of an encoder.
    """
    path = Path(path)
    if not path.is_file():
        raise PackageError("no such exported program", file=path, remedy="check the path")
    extra: dict[str, Any] = {_FACTS: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
        facts = json.loads(extra[_FACTS])
        return ExportedEncoder(
            module=module,
            plan=from_dict(InferencePlan, facts["plan"]),
            normalised=bool(facts["normalised"]),
            source=str(facts["source"]),
        )
    except Exception as error:  # PyTorch's reader raises whatever it meets
        raise PackageError(
            "not a program that to_torch_export wrote",
            file=path,
            stage="load program",
            value=str(error)[:200],
            remedy="export it again from the package",
        ) from error
