"""What a package keeps of the items it was trained on, and which groups of a collection those are.

Group names alone do not do: the same files with other labels are other groups. So the files' paths
are kept too, relative to the collection's root, which may lie elsewhere by then. Only hashes of
both are kept.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, cast

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage
from rhyme.evaluation.splits import group_hashes

__all__ = ["TrainedOn", "train_facts"]

_BYTES = 6
"""Of a path's hash: of a million paths one that was never there is found once in 280 million."""


def train_facts(items: Catalog) -> dict[str, Any]:
    """What a package keeps of the items that its encoder was trained on.

    Without a column of groups every file is a group of its own name; such paths are not kept a
    second time. Others cost eight letters each: a million files, 8 MB.

    Args:
        items: the items that are trained on.

    Returns:
        ``train_groups``, the hashes of :func:`~rhyme.evaluation.group_hashes`; ``train_paths``,
        the first 6 bytes of the SHA-256 of each other path, sorted, as base64.
    """
    groups = set(items.distinct_groups)
    others = sorted(_hash(path)[:_BYTES] for path in set(_paths(items)) - groups)
    return {
        "train_groups": group_hashes(groups),
        "train_paths": base64.b64encode(b"".join(others)).decode(),
    }


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a package says of the items that its encoder was trained on.

    Attributes:
        groups: hashes of groups' names.
        paths: hashes of the paths of files that are no group of their own; packages made before
            these were kept have none.
    """

    groups: frozenset[str]
    paths: frozenset[bytes]

    @classmethod
    def of(cls, package: EncoderPackage) -> TrainedOn | None:
        """What the package says; None where it says nothing.

        Args:
            package: the encoder.
        """
        told = package.extra.get("train_groups", package.card.get("train_groups"))
        if not isinstance(told, list | tuple):
            return None
        joined = base64.b64decode(str(package.extra.get("train_paths", "")))
        parts = (joined[at : at + _BYTES] for at in range(0, len(joined), _BYTES))
        return cls(groups=frozenset(cast("list[str]", told)), paths=frozenset(parts))

    def __bool__(self) -> bool:
        return bool(self.groups or self.paths)

    def groups_in(self, catalog: Catalog) -> dict[str, str | None]:
        """The groups of a collection that were trained on: by their name, or by one of their files.

        Args:
            catalog: the collection.

        Returns:
            By the group's name the path of a file that was trained on; None where the name tells.
        """
        found: dict[str, str | None] = {}
        names = catalog.group_names
        for path, group in dict(zip(_paths(catalog), names, strict=True)).items():
            digest = _hash(path)
            if digest.hex()[:16] in self.groups or digest[:_BYTES] in self.paths:
                found.setdefault(group, path)
        for name in catalog.distinct_groups:
            if _hash(name).hex()[:16] in self.groups:
                found[name] = None
        return found


def _paths(catalog: Catalog) -> list[str]:
    return cast("list[str]", catalog.table.column("path").to_pylist())


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
