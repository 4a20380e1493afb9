"""Which encoder is meant: that of a run, of a package's own folder, or one off the shelf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhyme.encoders import EncoderPackage, load_package, open_shelf
from rhyme.encoders.weights import told
from rhyme.errors import ConfigError, PackageError, RunError
from rhyme.notices import tell
from rhyme.run import RunFolder
from rhyme.training import resolve_device
from rhyme.training.checkpoint import newest


@dataclass(frozen=True, kw_only=True)
class OffTheShelf:
    """An encoder by name and file of weights, in place of a run.

    Attributes:
        encoder: ``torchvision:resnet50`` (any of its encoders of pictures or clips), ``timm:NAME``,
            ``hf:FOLDER`` of a local Hugging Face folder, or a backbone's id. Nothing is
            downloaded.
        weights: its file of weights, ``.pth`` or ``.safetensors``; without it they are random.
        size: side of the pixels that it sees, where it is not the one that its library recommends.
        resize: shorter side before the centre is cut.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel.
        clip_frames: frames of a clip; of an encoder of frames, whose features' mean is taken, too.
        clip_stride: native frames from one to the next; by default a distance in seconds.
    """

    encoder: str | None = None
    weights: Path | None = None
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    clip_frames: int | None = None
    clip_stride: int | None = None

    def plan(self) -> dict[str, Any]:
        """Fields of the inference plan that are given."""
        names = {"clip_frames": "frames", "clip_stride": "stride"}
        fields = ("size", "resize", "mean", "std", *names)
        given = {names.get(f, f): getattr(self, f) for f in fields}
        return {name: value for name, value in given.items() if value is not None}


def run_or_shelf(run: Path | None, shelf: OffTheShelf) -> Path | OffTheShelf:
    """The one of the two that is given.

    Raises:
        ConfigError: both are, or none is, or options of the one with the other.
    """
    if run is not None and shelf == OffTheShelf():
        if str(run).partition(":")[0] in ("torchvision", "timm", "hf") and not run.exists():
            raise ConfigError(
                "this is no run but the name of an encoder",
                value=str(run),
                remedy=f"write: --encoder {run}",
            )
        return run
    if run is not None or shelf.encoder is None:
        raise ConfigError(
            "give a RUN, or --encoder with its --weights and options",
            stage="command line",
            value={"run": run, "encoder": shelf.encoder},
            remedy="e.g. rhyme evaluate runs/mine, or "
            "rhyme evaluate --encoder torchvision:resnet50 --weights resnet50.pth --data my_videos",
        )
    return shelf


def encoder_of(source: str | Path | OffTheShelf, device: str = "cpu") -> EncoderPackage:
    """The encoder package of a run folder, of a package's own folder, or one off the shelf.

    Raises:
        RunError: there is no such folder, or the run has no encoder yet.
        PackageError: the package is damaged, or weights do not fit.
        ConfigError: an encoder off the shelf cannot be built so.
    """
    if isinstance(source, OffTheShelf):
        if source.encoder is None:
            raise ConfigError("no encoder is named", remedy="e.g. torchvision:resnet50")
        return open_shelf(
            source.encoder, source.weights, plan=source.plan(), device=resolve_device(device)
        )
    path = source
    folder = Path(path)
    if not folder.is_dir():
        raise RunError("no such run or encoder package", file=path, remedy="list runs: rhyme runs")
    if (folder / "config.yaml").is_file():
        run = RunFolder.open(folder)
        if not run.encoder.is_dir():
            ways = f"finish it: rhyme train --resume {folder}"
            if newest(run.checkpoints) is not None:
                ways += f"; or take its newest checkpoint: rhyme export {folder} --format package"
            raise RunError("the run has no encoder yet", file=folder, remedy=ways)
        folder = run.encoder
    try:
        return load_package(folder, resolve_device(device))
    except PackageError as error:
        error.remedy = error.remedy or "give a run folder or an encoder package"
        raise


def weights_note(package: EncoderPackage) -> str | None:
    """What was taken of an off-the-shelf encoder's file of weights and what was not, in a line."""
    facts: dict[str, Any] | None = package.extra.get("weights")
    if not facts:
        return None
    return f"weights: {facts['file']}, SHA-256 {facts['sha256'][:12]}: {told(facts)}"


def say_weights(package: EncoderPackage) -> None:
    """The same on standard error, for verbs whose answer has no notes."""
    note = weights_note(package)
    if note:
        tell(note)
