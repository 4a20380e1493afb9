"""Which encoder is meant: that of a run, or of a package's own folder."""

from __future__ import annotations

from pathlib import Path

from rhyme.encoders import EncoderPackage, load_package
from rhyme.errors import PackageError, RunError
from rhyme.run import RunFolder
from rhyme.training import resolve_device


def encoder_of(path: str | Path, device: str = "cpu") -> EncoderPackage:
    """The encoder package of a run folder, or of a package's own folder.

    Raises:
        RunError: there is no such folder, or the run has no encoder yet.
        PackageError: the package is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RunError("no such run or encoder package", file=path, remedy="list runs: rhyme runs")
    if (folder / "config.yaml").is_file():
        run = RunFolder.open(folder)
        if not run.encoder.is_dir():
            raise RunError(
                "the run has no encoder yet",
                file=folder,
                remedy=f"finish it: rhyme train --resume {folder}",
            )
        folder = run.encoder
    try:
        return load_package(folder, resolve_device(device))
    except PackageError as error:
        error.remedy = error.remedy or "give a run folder or an encoder package"
        raise
