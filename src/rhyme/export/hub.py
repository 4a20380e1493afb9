"""Packages to and from a model hub, or any folder."""

from __future__ import annotations

import re
from pathlib import Path

from rhyme.encoders import EncoderPackage, load_package
from rhyme.encoders.card import render_card
from rhyme.encoders.files import CARD, CONFIG, PLAN, WEIGHTS, check_target, write_folder
from rhyme.encoders.package import package_files
from rhyme.errors import ConfigError, PackageError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_METADATA = {
    "library_name": "rhyme",
    "pipeline_tag": "image-feature-extraction",
    "tags": ["self-supervised-learning", "video"],
}


def to_hub_folder(
    package: EncoderPackage,
    directory: str | Path,
    *,
    licence: str | None = None,
    tags: tuple[str, ...] = (),
    overwrite: bool = False,
) -> Path:
    """Write a package as a folder that a model hub takes as it is.

    The files are the package's own, so its hash stays; the card gets the metadata that hubs read.
    Nothing is sent anywhere: upload it with ``hf upload NAME FOLDER``.

    Args:
        package: the package.
        directory: the new folder.
        licence: identifier of the licence of the weights, e.g. ``"apache-2.0"``.
        tags: more tags.
        overwrite: replace a package that stands there already.

    Returns:
        The folder.

    Raises:
        PackageError: the folder exists, or the package's own files have changed on disk.
    """
    target = Path(directory)
    check_target(target, overwrite)
    files = _files(package, target)
    metadata = {**_METADATA, "tags": [*_METADATA["tags"], package.config.name, *tags]}
    if licence is not None:
        metadata["license"] = licence
    heads = {
        name: f"{head.config.layers} layers, {head.in_dim} to {head.out_dim}"
        for name, head in package.heads.items()
    }
    text = render_card(
        package.card,
        package.config,
        package.plan,
        kind=package.kind,
        heads=heads,
        metadata=metadata,
    )
    files[CARD] = text.encode("utf-8", "backslashreplace")
    write_folder(target, files, overwrite=overwrite)
    return target


def _files(package: EncoderPackage, target: Path) -> dict[str, bytes]:
    """A package's own files; those of an encoder off the shelf are made: it lies in no folder."""
    if "weights" in package.extra:
        return package_files(
            package.module, package.plan, kind=package.kind, card=package.card,
            extra=package.extra, where=target,
        )  # fmt: skip
    files = {name: (package.directory / name).read_bytes() for name in (WEIGHTS, CONFIG, PLAN)}
    if load_package(package.directory).hash != package.hash:
        raise PackageError(
            "the package has changed on disk since it was loaded",
            file=package.directory,
            remedy="load it again",
        )
    return files


def from_hub(
    source: str | Path,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    device: str = "cpu",
) -> EncoderPackage:
    """Load a package from a local folder or from a repository of the Hugging Face Hub.

    Only the package's four files are fetched, and every byte is checked as for any package.

    Args:
        source: a folder, or ``"owner/name"``. An existing folder is preferred.
        revision: branch, tag or commit of the repository.
        sha256: the hash that its package has to have: ``EncoderPackage.hash``, which reports call
            ``Encoder SHA-256``. None takes any.
        device: where to put the weights.

    Raises:
        PackageError: it is neither, the download failed, it holds no sound package, or another one
            than is expected.
        ConfigError: the hash is none.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ConfigError(
            "a SHA-256 has 64 hexadecimal digits",
            value=sha256,
            remedy="give the whole hash of the package, as EncoderPackage.hash tells it",
        )
    folder = Path(source) if Path(source).exists() else _fetched(str(source), revision)
    package = load_package(folder, device)
    if sha256 is not None and package.hash != sha256.lower():
        raise PackageError(
            f"another package than is expected: SHA-256 {package.hash}, expected {sha256.lower()}",
            file=folder,
            stage="load package",
            value=str(source),
            remedy="name the commit that holds the package you mean (revision=), or ask its author "
            "for the hash of this one",
        )
    return package


def _fetched(name: str, revision: str | None) -> Path:
    """The folder that a repository's package was put into."""
    if not _REPOSITORY.fullmatch(name):
        raise PackageError(
            "neither a folder nor the name of a repository",
            value=name,
            remedy="give an existing folder, or owner/name",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [WEIGHTS, CONFIG, PLAN, CARD]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise PackageError(
            "the repository could not be fetched",
            value=name,
            stage="download",
            remedy=f"check the name and the connection: {str(error).splitlines()[0][:160]}",
        ) from error
