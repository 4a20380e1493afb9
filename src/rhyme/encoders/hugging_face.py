"""Encoders of a local Hugging Face folder (extra ``transformers``), under its own names.

A folder is ``config.json`` with ``model.safetensors``. No code of the folder is run, no pickled
file is read, and nothing is downloaded.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone, ClipBackbone, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig, DescribedConfig
from rhyme.encoders.borrowed import OPTIONS, Borrowed, library, switch_off_chance, unreadable
from rhyme.encoders.hugging_face_pixels import OF_CLIPS, side_of
from rhyme.encoders.names import by_kind, grouped
from rhyme.encoders.norm import group_norms
from rhyme.encoders.weights import LoadReport, check_finite
from rhyme.errors import ConfigError, DataError, PackageError

_MOST = 4_000_000_000
_MASKED = "vit_mae"


class _Read(Borrowed):
    """What encoders of frames and of clips share."""

    def prepare(self, config: BackboneConfig) -> Any:
        """The network with fresh weights, without chance and without a pooler that is trained.

        Raises:
            ConfigError: transformers is not installed, or does not know the architecture.
        """
        refuse_options(config, OPTIONS)
        if not isinstance(config, DescribedConfig) or not config.architecture:
            raise ConfigError(
                "an encoder of Hugging Face is built from its folder",
                value=config.name,
                remedy="--encoder hf:FOLDER, with config.json and model.safetensors in it",
            )
        lib = library("transformers")
        told = dict(json.loads(config.architecture))
        kind = str(told.pop("model_type", ""))
        if kind == _MASKED:
            told["mask_ratio"] = 0.0  # it hides most of a picture, by chance, in evaluation too
        try:
            own = lib.AutoConfig.for_model(kind, **told)
            with torch.device("meta"):  # packages come from strangers
                size = sum(p.numel() for p in lib.AutoModel.from_config(own).parameters())
            if size > _MOST:
                raise ValueError(f"{size} parameters are more than {_MOST}")
            with torch.device("cpu"):
                net = lib.AutoModel.from_config(own)
        except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
            raise ConfigError(
                f"transformers cannot build '{kind}': {str(error)[:200]}",
                stage="build encoder",
                remedy="use the version that the folder was written with",
            ) from error
        switch_off_chance(net)
        if isinstance(getattr(getattr(net, "pooler", None), "dense", None), nn.Linear):
            net.pooler = None  # trained for another task, and missing in most folders
        group_norms(net, config.norm_groups)
        return net

    @staticmethod
    def run(net: Any, name: str, pixels: Tensor, **options: Any) -> Any:
        """The network's output."""
        try:
            return net(pixel_values=pixels, **options)
        except (ValueError, RuntimeError, AssertionError, TypeError) as error:
            raise unreadable(name, pixels, error) from error


class HuggingFaceEncoder(_Read, Backbone):
    """An encoder of pictures; its one stage is ``stage1``, the last map, where there is one.

    The pooled feature is the network's own, of transformers the class token, else the mean.

    Args:
        config: a :class:`DescribedConfig`.

    Raises:
        ConfigError: transformers cannot build the network, or it makes no feature of a picture.
    """

    on_meta: ClassVar[bool] = False

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.net: nn.Module = self.prepare(config)
        own: Any = self.net.config
        sizes = getattr(own, "hidden_sizes", None)
        patch = getattr(own, "patch_size", None)
        # positions that were learnt on another grid are interpolated
        takes = inspect.signature(self.net.forward).parameters
        self._more = {n: True for n in ("interpolate_pos_encoding",) if n in takes}
        self._patch = patch if isinstance(patch, int) and not sizes else 0
        self.geometry = {}
        if self._patch and not getattr(own, "depths", None):
            self.geometry = {"stage1": (float(self._patch), (self._patch - 1) / 2)}
        self._ordered = own.model_type == _MASKED and self._patch > 0
        self.feature_dim = self._length(own)

    def _length(self, own: Any) -> int:
        """Length of the pooled feature, which no configuration tells for all architectures.

        It is read off a pass of empty pictures; of zeros, where a network wants numbers.
        """
        side = side_of(getattr(own, "image_size", None)) or 224
        failed: Exception | None = None
        for place in ("meta", "cpu"):
            net = copy.deepcopy(self.net).to(place).eval()
            pixels = torch.zeros(2, self.config.in_channels, side, side, device=place)
            try:
                with torch.no_grad():
                    pooled, _, _ = self._read(net, pixels, ())
                if pooled.ndim != 2:
                    raise ValueError(f"its feature has {pooled.ndim} dimensions")
                return int(pooled.shape[1])
            except Exception as error:  # code for other kinds of input fails in any way
                failed = error
        said = failed.cause if isinstance(failed, DataError) else f"{failed!r}"
        raise ConfigError(
            f"an encoder of type '{own.model_type}' makes no feature of a picture that rhyme can "
            f"read: {said[:300]}",
            stage="build encoder",
            value=own.model_type,
            remedy="give the folder of an encoder of pictures, such as ViT, DINOv2, CLIP or ResNet",
        ) from failed

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The pooled feature, the map of a transformer of one scale, and the same as a stage."""
        return self._read(self.net, x, stages)

    def _read(
        self, net: nn.Module, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        more: dict[str, Any] = dict(self._more)
        if self._ordered:  # patches are sorted by it; none is left out
            cells = (x.shape[-2] // self._patch) * (x.shape[-1] // self._patch)
            more["noise"] = torch.arange(cells, device=x.device).expand(len(x), -1)
        found = self.run(net, self.config.name, x, **more)
        last, pooled = found.last_hidden_state, getattr(found, "pooler_output", None)
        if last.ndim == 4:
            return last.mean(dim=(-2, -1)) if pooled is None else pooled.flatten(1), None, {}
        grid: Tensor | None = None
        maps: dict[str, Tensor] = {}
        before = 0
        if self.geometry:
            rows, columns = (side // self._patch for side in x.shape[-2:])
            before = last.shape[1] - rows * columns
            if before < 0:
                few = ValueError(f"{last.shape[1]} tokens for {rows} x {columns} patches")
                raise unreadable(self.config.name, x, few)
            grid = last[:, before:].transpose(1, 2).unflatten(2, (rows, columns))
            maps = dict.fromkeys(stages, cast(Tensor, grid))
        if pooled is None:
            pooled = last[:, 0] if before > 0 else last.mean(dim=1)
        return pooled, grid, maps


class HuggingFaceClipEncoder(_Read, ClipBackbone):
    """An encoder of clips: the class token where it has one, else the mean of its tokens.

    Args:
        config: a :class:`DescribedConfig`.
    """

    on_meta: ClassVar[bool] = False

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.net: nn.Module = self.prepare(config)
        self.feature_dim = int(cast(Any, self.net.config).hidden_size)
        self.geometry, self.temporal_geometry = {}, {}

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The pooled feature; there are no maps."""
        clips = x.transpose(1, 2)
        last = self.run(self.net, self.config.name, clips).last_hidden_state
        tokens = cast(Any, self.net.config).model_type != "videomae"
        return last[:, 0] if tokens else last.mean(dim=1), None, {}


def described(folder: Path) -> DescribedConfig:
    """The configuration of a folder's encoder; of a pair of picture and text, of the picture's.

    Raises:
        ConfigError: transformers is not installed, or the folder is none of its kind.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(
            "no such Hugging Face folder",
            file=folder,
            remedy="give a folder on this machine with config.json and model.safetensors",
        )
    lib = library("transformers")
    try:
        config = lib.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ConfigError(
            f"transformers cannot read the folder: {str(error).splitlines()[0][:200]}",
            file=path,
            remedy="give a folder of an architecture that transformers has itself",
        ) from error
    config = getattr(config, "vision_config", None) or config
    told = {
        k: v
        for k, v in config.to_dict().items()
        if k not in ("transformers_version", "_name_or_path")
    }
    kind = "hf-video" if config.model_type in OF_CLIPS else "hf"
    return DescribedConfig(
        name=f"{kind}:{config.model_type}", architecture=json.dumps(told, sort_keys=True)
    )


def load_folder(encoder: Backbone, folder: Path) -> LoadReport:
    """Give an encoder the weights of its folder, read by transformers.

    Raises:
        PackageError: no file of safetensors, or weights that are missing or of another shape.
    """
    if not any(folder.glob("*.safetensors")):
        raise PackageError(
            "the folder has no weights in safetensors; pickled ones are never read",
            file=folder,
            stage="load weights",
            remedy="save it again: model.save_pretrained(FOLDER, safe_serialization=True)",
        )
    net: Any = encoder.inner
    says = library("transformers").logging
    says.set_verbosity_error()  # what is missing or left over is told below, by names
    says.disable_progress_bar()
    try:
        loaded, told = type(net).from_pretrained(
            folder,
            config=net.config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise PackageError(
            f"transformers cannot load the weights: {str(error).splitlines()[0][:200]}",
            file=folder,
            stage="load weights",
            remedy="copy the folder again",
        ) from error
    wanted = net.state_dict()
    problems: list[str] = []
    missing = [name for name in told["missing_keys"] if name in wanted]
    if missing:
        problems.append(f"{len(missing)} missing: {grouped(missing)}")
    if bent := [
        str(entry[0] if isinstance(entry, tuple) else entry) for entry in told["mismatched_keys"]
    ]:
        problems.append(f"{len(bent)} of another shape: {grouped(bent)}")
    if problems:
        raise PackageError(
            f"the weights do not fit '{encoder.config.name}': " + "; ".join(problems),
            file=folder,
            stage="load weights",
            remedy="give the folder as it was published",
        )
    state = loaded.state_dict()
    taken = {name: state[name] for name in wanted}
    check_finite(taken, folder)
    net.load_state_dict(taken)
    left = sorted({*told["unexpected_keys"], *({*state} - {*wanted} - {*told["missing_keys"]})})
    return LoadReport(loaded=len(wanted), prefix="", left_out=by_kind(left))
