"""Features behind a head, or a part of them: as one sees them that trained with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from rhyme.encoders import EncoderPackage, Head, HeadConfig, build_head, seeded
from rhyme.errors import EvaluationError, UnknownName, nearest
from rhyme.evaluation.protocol import SplitData
from rhyme.tasks import FeatureTable

__all__ = [
    "behind_head",
    "check_heads",
    "cycle_head",
    "fresh_head",
    "heads_of",
    "part_heads",
    "through_head",
]


def cycle_head(package: EncoderPackage) -> str | None:
    """Name of the head that the package's cycle was trained with, if it has one.

    Raises:
        EvaluationError: the package names a head that it does not hold.
    """
    name = package.extra.get("cycle_head")
    if name is None:
        return None
    if name not in package.heads:
        raise EvaluationError(
            "the package lacks the head that it names", file=package.directory, value=name
        )
    return str(name)


def fresh_head(head: Head, seed: int) -> Head:
    """The same head with weights that were never trained, in evaluation mode."""
    with seeded(seed):
        built = build_head(head.config, head.in_dim, norm_groups=head.norm_groups)
    return built.to(_device(head)).eval()


def _device(head: Head) -> torch.device:
    """Where a head is; one without weights passes its input on and is anywhere."""
    return next((p.device for p in head.parameters()), torch.device("cpu"))


def heads_of(package: EncoderPackage, encoder: str) -> dict[str, Head]:
    """The heads of ``"trained"``, or fresh ones of the same forms for ``"untrained/<seed>"``."""
    _, _, seed = encoder.partition("/")
    return {n: fresh_head(h, int(seed)) if seed else h for n, h in package.heads.items()}


def check_heads(package: EncoderPackage, names: Iterable[str]) -> dict[str, Head]:
    """The heads of a package, and a reading one for each part of its feature, by name.

    Args:
        package: the encoder.
        names: heads that it has to have.

    Raises:
        UnknownName: it has no such head and no such part.
    """
    known = {**part_heads(package), **package.heads}
    for head in names:
        if head not in known:
            raise UnknownName(
                f"the package has no head '{head}'",
                file=package.directory,
                remedy=nearest(head, known) if known else "it has none at all",
            )
    return known


@torch.inference_mode()
def through_head(table: FeatureTable, head: Head) -> FeatureTable:
    """A table of embeddings ``[n, f, out]`` from a table of backbone features ``[n, f, d]``."""
    flat = torch.from_numpy(table.features.reshape(-1, table.dim)).to(_device(head))
    found = head(flat).float().cpu().numpy()
    return replace(table, features=found.reshape(*table.features.shape[:2], -1))


def behind_head(
    package: EncoderPackage, head: str, ready: Mapping[str, SplitData]
) -> dict[str, SplitData]:
    """The same splits behind a head; behind a fresh one for the untrained encoders.

    Args:
        package: the encoder.
        head: name of one of its heads, or of a part of its feature.
        ready: features by encoder.

    Raises:
        UnknownName: it has no such head and no such part.
    """
    known = check_heads(package, [head])
    found: dict[str, SplitData] = {}
    for name, data in ready.items():
        _, _, seed = name.partition("/")
        used = fresh_head(known[head], int(seed)) if seed else known[head]
        train, val, test = (through_head(t, used) for t in (data.train, data.val, data.test))
        found[name] = replace(data, train=train, val=val, test=test)
    return found


def part_heads(package: EncoderPackage) -> dict[str, Head]:
    """For each part that the encoder names, a head that does nothing but read it."""
    names = package.config.parts
    return {
        name: Head(
            HeadConfig(layers=0, out=0, normalise=False, part=(i, len(names))),
            package.module.feature_dim,
        )
        for i, name in enumerate(names)
    }
