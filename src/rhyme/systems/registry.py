"""All systems by id: what each is, and how far it is built."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from rhyme.errors import ConfigError, UnknownName, nearest
from rhyme.systems.base import System

State = Literal["works", "partial", "planned"]


@dataclass(frozen=True)
class SystemEntry:
    """A line of ``rhyme systems``.

    Attributes:
        id: name on the command line and of the module.
        title: the published name.
        family: which group of systems it belongs to.
        paper: where it was published.
        state: ``works`` when everything that a system brings is there, ``partial`` when it trains
            but misses some of it, ``planned`` when there is no code yet.
        target: ``module:class``, empty while planned.
    """

    id: str
    title: str
    family: str
    paper: str
    state: State = "planned"
    target: str = ""


def _entries(*rows: SystemEntry) -> dict[str, SystemEntry]:
    return {row.id: row for row in rows}


SYSTEMS: dict[str, SystemEntry] = _entries(
    SystemEntry(
        "cycle_contrast",
        "CycleContrast",
        "frames",
        "ICCV 2021, arXiv 2105.06463",
        "works",
        "rhyme.systems.cycle_contrast:CycleContrast",
    ),
    SystemEntry(
        "dual",
        "DUAL, inter-intra variant dual",
        "clips",
        "BMVC 2021, arXiv 2107.01194",
        "works",
        "rhyme.systems.dual:Dual",
    ),
    SystemEntry(
        "simclr",
        "SimCLR",
        "frames",
        "arXiv 2002.05709",
        "works",
        "rhyme.systems.simclr:Simclr",
    ),
    SystemEntry(
        "moco",
        "MoCo v1/v2",
        "frames",
        "arXiv 1911.05722, 2003.04297",
        "works",
        "rhyme.systems.moco:Moco",
    ),
    SystemEntry(
        "densecl",
        "DenseCL",
        "frames",
        "arXiv 2011.09157",
        "works",
        "rhyme.systems.densecl:DenseCL",
    ),
    SystemEntry(
        "vfs",
        "VFS, video frame-level similarity",
        "frames",
        "arXiv 2103.17263",
        "works",
        "rhyme.systems.vfs:VFS",
    ),
    SystemEntry(
        "cstp",
        "CSTP, spatio-temporal overlap rate",
        "clips",
        "arXiv 2112.08913",
        "works",
        "rhyme.systems.cstp:Cstp",
    ),
    SystemEntry(
        "lsfd",
        "LSFD, long-short view features",
        "clips",
        "arXiv 2109.11593",
        "works",
        "rhyme.systems.lsfd:LSFD",
    ),
    SystemEntry("nerv", "NeRV, neural representations", "clips", "arXiv 2110.13903"),
    SystemEntry(
        "semantic_match", "Multi-level semantic matching", "correspondence", "arXiv 2109.10967"
    ),
    SystemEntry("contrast_corr", "ContrastCorr", "correspondence", "AAAI 2021"),
    SystemEntry("ocr", "OCR, object-contextual features", "correspondence", "ECCV 2020"),
    SystemEntry(
        "feature_transfer", "Transfer by feature regression", "correspondence", "arXiv 1805.04141"
    ),
    SystemEntry("crisscross", "CrissCross", "sound and text", "arXiv 2111.05329"),
    SystemEntry("xdc", "XDC, cross-modal deep clustering", "sound and text", "arXiv 1911.12667"),
    SystemEntry("global_local", "Global and local audio-visual", "sound and text", "NeurIPS 2021"),
    SystemEntry("crossclr", "CrossCLR", "sound and text", "arXiv 2109.14910"),
    SystemEntry("cbt", "CBT, contrastive bidirectional", "sound and text", "arXiv 1906.05743"),
    SystemEntry("mvgrl", "MVGRL, multi-view graphs", "beyond vision", "arXiv 2006.05582"),
    SystemEntry("ce_gzsl", "CE-GZSL, zero-shot embedding", "beyond vision", "CVPR 2021"),
    SystemEntry("rcrl", "RCRL, return-based contrast", "beyond vision", "arXiv 2102.10960"),
    SystemEntry("crd", "CRD, representation distillation", "beyond vision", "arXiv 1910.10699"),
)


def entry(system: str) -> SystemEntry:
    """The entry of a system id.

    Raises:
        UnknownName: no such system; the message names the nearest.
    """
    if system not in SYSTEMS:
        raise UnknownName(
            f"unknown system '{system}'", stage="systems", remedy=nearest(system, SYSTEMS)
        )
    return SYSTEMS[system]


def system_class(system: str) -> type[System]:
    """The class of a system, imported when asked for.

    Raises:
        UnknownName: no such system.
        ConfigError: the system is planned and has no code yet.
    """
    found = entry(system)
    if not found.target:
        built = [e.id for e in SYSTEMS.values() if e.target]
        raise ConfigError(
            f"system '{system}' is planned and cannot be trained yet",
            remedy=f"choose one of: {', '.join(built)}",
        )
    module, name = found.target.split(":")
    return getattr(importlib.import_module(module), name)


def config_class(system: str) -> type[Any]:
    """The configuration class of a system."""
    return system_class(system).Config
