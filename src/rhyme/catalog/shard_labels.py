"""Labels that lie beside the pictures of an archive, as in WebDataset shards.

The members of one sample share a name up to its first dot: ``0001.jpg`` is the picture and
``0001.cls`` holds its class, an integer or a name. They are read in passing, when the archive is
listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from sys import intern

from rhyme.catalog.labels import Labels, by_split
from rhyme.media import MARK, Member

SUFFIX = ".cls"
"""Suffix of the members that hold a class."""
_MOST = 16
"""Endings of a collection's samples; more of them number pictures."""
REMEDY = "write one class, an integer or a name, as UTF-8 text"


@dataclass(kw_only=True)
class ShardLabels:
    """What the ``.cls`` members of a collection's archives say.

    Args:
        values: class by sample, ``archive!/folder/name``.
        faults: why a member gives none, by its path.
        seen: number of members met.
    """

    values: dict[str, str] = field(default_factory=dict[str, str])
    faults: dict[str, str] = field(default_factory=dict[str, str])
    seen: int = 0

    def add(self, archive: str, member: Member) -> None:
        """Take the class that a member holds, or note why it holds none.

        Args:
            archive: path of the archive, relative to the collection's root.
            member: the member, read in passing.
        """
        self.seen += 1
        path = archive + MARK + member.name
        sample = path[: -len(SUFFIX)]
        text, fault = _class(member.data)
        if fault is None and sample in self.values:
            fault = f"a second label of one picture, the first says {self.values[sample]!r}"
        if fault is None:
            self.values[sample] = intern(text)
        else:
            self.faults[path] = f"DataError: {fault}"

    def labels(self, pictures: Iterable[str]) -> Labels | None:
        """Labels of pictures, and splits where all archives or folders are called after one.

        Args:
            pictures: relative paths.

        Returns:
            Labels in the column ``label``; None where no picture has any.
        """
        paths = list(pictures)
        found = {path: sample for path in paths if (sample := self._sample(path)) is not None}
        if not found:
            return None
        return Labels(
            names=["label"],
            main="label",
            values={path: {"label": self.values[sample]} for path, sample in found.items()},
            splits=by_split(paths)[0],
            beside=len(set(found.values())),
        )

    def _sample(self, path: str) -> str | None:
        """The sample with a class that a picture belongs to: by its whole stem, else to a dot."""
        head, slash, name = path.rpartition("/")
        stems = (name.rpartition(".")[0], name.partition(".")[0])
        return next((s for stem in stems if (s := head + slash + stem) in self.values), None)


def several(pictures: Iterable[str]) -> tuple[dict[str, int], frozenset[str]]:
    """Samples that hold several pictures, as far as names tell.

    A sample counts where it shares an ending with another one, as in ``1.input.jpg``,
    ``1.mask.png``, ``2.input.jpg``, ``2.mask.png``. Names whose endings are a numbering, as in
    ``cat.0.jpg``, ``cat.1.jpg``, ``dog.0.jpg``, have more endings than samples, or many; then there
    are no samples, and every picture stands for itself.

    Args:
        pictures: paths of pictures in archives, sorted.

    Returns:
        The number of pictures of each ending that samples share, such as ``{"input.jpg": 100,
        "mask.png": 100}``; and the samples, ``archive!/folder/name``.
    """
    endings: dict[str, list[str]] = {}
    for sample, together in groupby(map(_parted, pictures), key=lambda pair: pair[0]):
        found = [intern(ending) for _, ending in together]
        if len(found) > 1:
            endings[sample] = found
    count = Counter(ending for found in endings.values() for ending in found)
    samples = frozenset(s for s, found in endings.items() if any(count[e] > 1 for e in found))
    distinct = {ending for sample in samples for ending in endings[sample]}
    if len(distinct) > min(len(samples), _MOST):
        return {}, frozenset()
    return {ending: count[ending] for ending in sorted(distinct) if count[ending] > 1}, samples


def sample_of(picture: str) -> str:
    """The name of the sample that a picture would belong to: its path to the name's first dot."""
    return _parted(picture)[0]


def _parted(path: str) -> tuple[str, str]:
    """A path up to the first dot of its name, and the rest."""
    folder, slash, name = path.rpartition("/")
    sample, _, ending = name.partition(".")
    return folder + slash + sample, ending


def _class(data: bytes | None) -> tuple[str, str | None]:
    """The class that a member holds, and why it holds none."""
    if data is None:
        return "", "the label is longer than any class name"
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "", "the label is not UTF-8 text"
    if not text:
        return "", "the label is empty"
    words = text.replace(",", " ").split()
    if len(text.splitlines()) > 1 or (len(words) > 1 and all(word.isdigit() for word in words)):
        return "", f"two labels or more where one is expected: {text[:40]!r}"
    return text, None if text.isprintable() else "the label holds control characters"
