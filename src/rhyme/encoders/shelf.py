"""Off-the-shelf encoders as packages in memory: by name and file of weights, never downloaded.

===================== ============================================================================
``torchvision:NAME``  any classifier of pictures or of clips that torchvision has
``timm:NAME``         any network of timm (extra ``timm``)
``hf:FOLDER``         a local Hugging Face folder (extra ``transformers``)
``NAME``              a backbone of rhyme's own
===================== ============================================================================

Without weights they are drawn, and everything that is measured of them says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from rhyme.config import from_dict, to_dict
from rhyme.encoders.backbone import backbone_class, build_backbone
from rhyme.encoders.backbone_config import BACKBONES, SOURCES, BackboneConfig, own_name
from rhyme.encoders.borrowed import nearest_interpolation
from rhyme.encoders.features import InferencePlan
from rhyme.encoders.files import identity
from rhyme.encoders.package import EncoderPackage, package_files
from rhyme.encoders.weights import file_hash, load_state_file
from rhyme.errors import ConfigError, UnknownName, nearest

_KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
# (frames, frames a second) of the clips that torchvision's weights were trained on
_CLIPS = {"mvit": (16, 7.5), "swin3d": (32, 15.0), "s3d": (128, 15.0)}


def open_shelf(
    encoder: str,
    weights: str | Path | None = None,
    *,
    plan: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> EncoderPackage:
    """An off-the-shelf encoder as a package that lies in no folder.

    Args:
        encoder: which; see the module's text.
        weights: a ``.pth`` or ``.safetensors`` file; a Hugging Face folder brings its own. None
            draws them.
        plan: fields of the inference plan that differ from what the library recommends.
        seed: of weights that are drawn.
        device: where the encoder is put.

    Returns:
        The package; ``extra["weights"]`` says which file it is, what was taken of it, and names
        all that was not (:meth:`rhyme.encoders.weights.LoadReport.facts`); None for drawn weights.

    Raises:
        UnknownName: no such encoder, with the nearest one that exists.
        ConfigError: its library is not installed, or cannot build it so.
        PackageError: the weights do not fit; which, is told.
    """
    changes = dict(plan or {})
    config, folder = _described(encoder, weights, changes)
    advised = recommended_plan(config, folder)
    if "size" in changes and "resize" not in changes:
        changes["resize"] = round(changes["size"] * advised.resize / advised.size)
    chosen = from_dict(InferencePlan, {**to_dict(advised), **changes}, where="plan.")
    if chosen.frames > 1 and "stride" in changes:
        chosen = replace(chosen, spacing=0.0)
    elif chosen.frames > 1 and "spacing" in changes:
        chosen = replace(chosen, stride=0)
    module = build_backbone(config, seed=seed)
    facts: dict[str, Any] | None = None
    if folder is not None:
        from rhyme.encoders.hugging_face import load_folder

        report = load_folder(module, folder)
        facts = {"file": folder.name, "sha256": _folder_hash(folder), **report.facts()}
    elif weights is not None:
        path = Path(weights)
        report = load_state_file(module, path)
        facts = {"file": path.name, "sha256": file_hash(path), **report.facts()}
    name = f"hf:{folder.name}" if folder is not None else encoder
    card: dict[str, Any] = {
        "title": name,
        "system": name if facts is None or folder is not None else f"{name} {facts['file']}",
        "summary": "An off-the-shelf encoder, not trained by rhyme.",
        "weights": facts if facts is not None else f"random, seed {seed}",
    }
    # drawn weights have seen no group; those of a file may have seen any
    extra: dict[str, Any] = {"weights": facts, **({} if facts else {"train_groups": []})}
    files = package_files(module, chosen, card=card, extra=extra, where=Path(encoder))
    return EncoderPackage(
        module=module.eval().to(device),
        config=module.config,
        plan=chosen,
        card=card,
        hash=identity(files),
        directory=Path(encoder),
        extra=extra,
    )


def recommended_plan(config: BackboneConfig, folder: Path | None = None) -> InferencePlan:
    """How an encoder's library feeds it: sizes, statistics, and clips for encoders of clips.

    Backbones that no library recommends anything for take 224 of 256 pixels under ImageNet's
    statistics, clips 16 frames of 112 of 128 pixels, 15 a second, under those of Kinetics.

    Args:
        config: the encoder.
        folder: its Hugging Face folder.
    """
    source, _, rest = config.name.rpartition(":")
    clips = backbone_class(config.name).reads_clips
    if folder is not None:
        from rhyme.encoders.hugging_face_pixels import folder_plan

        return InferencePlan(**folder_plan(folder, cast(Any, config).architecture))
    if source == "timm":
        from rhyme.encoders.timm_shelf import recommended

        return InferencePlan(**recommended(config.name))
    from torchvision import models  # seconds, and nothing else here needs it

    bare = rest.partition("@")[0]
    fields: dict[str, Any] = {"size": 224, "resize": 256}
    if clips:
        fields = {"size": 112, "resize": 128, **_KINETICS}
    if bare in models.list_models():
        from rhyme.encoders.torchvision_shelf import recommended

        told = recommended(bare)
        fields = {
            "size": int(told["crop_size"][0]),
            "resize": int(min(told["resize_size"])),
            "mean": tuple(told["mean"]),
            "std": tuple(told["std"]),
            "interpolation": nearest_interpolation(str(told["interpolation"].value)),
        }
    if clips:
        frames, rate = _CLIPS.get(bare.partition("_")[0], (16, 15.0))
        fields |= {"frames": frames, "spacing": 1 / rate}
    return InferencePlan(**fields)


def _described(
    encoder: str, weights: str | Path | None, changes: dict[str, Any]
) -> tuple[BackboneConfig, Path | None]:
    """The encoder's configuration, and its folder where it has one."""
    source, colon, rest = encoder.partition(":")
    if source == "hf" and colon:
        from rhyme.encoders.hugging_face import described

        if weights is not None:
            raise ConfigError(
                "a Hugging Face folder brings its own weights",
                value=str(weights),
                remedy="leave --weights out",
            )
        return described(Path(rest)), Path(rest)
    if not colon and encoder in BACKBONES:
        return BackboneConfig(name=encoder), None
    if source not in SOURCES or not rest:
        raise UnknownName(
            f"unknown encoder '{encoder}'",
            stage="build encoder",
            remedy="write torchvision:NAME, timm:NAME, hf:FOLDER or a backbone's id; "
            + nearest(encoder, BACKBONES),
        )
    config = BackboneConfig(name=own_name(encoder))
    size = changes.get("size")
    if size and "@" not in encoder:  # networks with positions are built for one size
        from rhyme.encoders import timm_shelf

        fixed = config.name.startswith("torchvision:vit_") or (
            source == "timm" and timm_shelf.fixed_size(encoder)
        )
        if fixed and size != recommended_plan(config).size:
            config = replace(config, name=f"{encoder}@{size}")
    return config, None


def _folder_hash(folder: Path) -> str:
    """SHA-256 of a folder's weights; of several files that of their hashes in order of name."""
    hashes = [file_hash(path) for path in sorted(folder.glob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
