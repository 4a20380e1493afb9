"""Official lists of data sets: which video is of which class, source and split.

A form and a place, written ``form:PATH``, stand where a CSV file of labels may stand:

- ``ucf101:FOLDER``: ``classInd.txt``, ``trainlist01.txt``, ``testlist01.txt`` (to 03);
- ``hmdb51:FOLDER``: ``<class>_test_split1.txt`` (to 3), each line a file and 0, 1 or 2;
- ``kinetics:PATH``: a CSV file, or a folder of them, with ``youtube_id``, ``time_start``,
  ``time_end``, ``split`` and mostly ``label``;
- ``something:PATH``: a folder of JSON files whose names end in train, validation and test.

Videos are found by class folder and name, else by name, whatever their suffix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

from rhyme.catalog.catalog import Catalog
from rhyme.catalog.discover import VIDEO
from rhyme.catalog.labels import Labels
from rhyme.catalog.list_forms import Entry, hmdb51, kinetics, something, ucf101
from rhyme.errors import CatalogError, ConfigError, UnknownName, nearest

LIST_FORMS: dict[str, tuple[str, Callable[[Path, int], list[Entry]], int]] = {
    "ucf101": ("UCF101", ucf101, 3),
    "hmdb51": ("HMDB51", hmdb51, 3),
    "kinetics": ("Kinetics", kinetics, 1),
    "something": ("Something-Something", something, 1),
}
"""Title, reader and number of splits by form."""


@dataclass(frozen=True, kw_only=True)
class OfficialLists:
    """The lists of a data set, not read yet.

    Args:
        form: a key of :data:`LIST_FORMS`.
        path: the file or folder.
        number: number of the split, from 1.
    """

    form: str
    path: Path
    number: int = 1

    @property
    def title(self) -> str:
        """The data set's name."""
        return LIST_FORMS[self.form][0]

    @property
    def files(self) -> list[Path]:
        """The files that decide, in order."""
        if self.path.is_file():
            return [self.path]
        return sorted(p for p in self.path.glob("*") if p.suffix in (".txt", ".csv", ".json"))

    def entries(self) -> list[Entry]:
        """All videos of the lists, each once; lines that say the same twice count once.

        Raises:
            CatalogError: no such lists, or a damaged line, or a video in two places.
        """
        if not self.path.exists():
            raise CatalogError(
                f"no such lists of {self.title}",
                file=self.path,
                stage="labels",
                remedy=f"give the folder of the official lists: --labels {self.form}:FOLDER",
            )
        found = LIST_FORMS[self.form][1](self.path, self.number)
        first: dict[str, Entry] = {}
        for entry in found:
            before = first.setdefault(entry.name, entry)
            if (before.split, before.label) != (entry.split, entry.label):
                raise CatalogError(
                    f"{entry.where}: the video is named a second time, first in {before.where}",
                    file=self.path,
                    stage="labels",
                    value=entry.name,
                    remedy="take the official lists as they are: no video is trained on and tested",
                )
        return _with_test(list(first.values()))


def official_lists(labels: str | Path, number: int | None) -> OfficialLists | None:
    """The lists that ``form:PATH`` names; None where ``labels`` is something else.

    Args:
        labels: as given by the user.
        number: number of the split; 1 where None.

    Raises:
        UnknownName: it looks like lists, but there is no such form.
        ConfigError: a number that this data set does not have, or one without lists.
    """
    form, sign, place = str(labels).partition(":")
    if not sign or form not in LIST_FORMS:
        looks = sign and len(form) > 1 and "/" not in form and not Path(labels).exists()
        if looks and not form.startswith("."):
            raise UnknownName(
                f"no form of official lists is called '{form}'",
                stage="labels",
                remedy=nearest(form, LIST_FORMS),
            )
        if number is not None:
            raise ConfigError(
                "a split number belongs to official lists",
                value=number,
                stage="labels",
                remedy="e.g. --labels ucf101:FOLDER --split-number 1",
            )
        return None
    title, _, splits = LIST_FORMS[form]
    if number is not None and not 1 <= number <= splits:
        raise ConfigError(
            f"{title} has the splits 1 to {splits}" if splits > 1 else f"{title} has one split",
            value=number,
            stage="labels",
            remedy="leave --split-number out" if splits == 1 else "give --split-number 1, 2 or 3",
        )
    return OfficialLists(form=form, path=Path(place).expanduser(), number=number or 1)


def listed_labels(lists: OfficialLists, paths: Sequence[str]) -> tuple[Labels, dict[str, object]]:
    """Labels of a collection from official lists, and what was found.

    Args:
        lists: the lists.
        paths: relative paths of everything found, usable or not.

    Returns:
        The labels by the collection's paths; ``lost`` names the listed videos that are not there.
        The facts go into the catalog: form, split number, videos listed and missing.

    Raises:
        CatalogError: no listed video is there, one is there twice, or the lists are damaged.
    """
    entries = lists.entries()
    exact: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    for path in paths:
        stem = _stem(path)
        exact.setdefault("/".join(stem.parts[-2:]), []).append(path)
        named.setdefault(stem.name, []).append(path)
    # a name that the lists use in several classes is found by class folder alone
    twice = {n for n, c in Counter(PurePosixPath(e.name).name for e in entries).items() if c > 1}
    out = Labels(names=["label"], main="label", source=lists.path)
    for entry in entries:
        name = PurePosixPath(entry.name).name
        found = exact.get(entry.name) or ([] if name in twice else named.get(name, []))
        for other in entry.others:
            found = found or named.get(other, [])
        if len(found) > 1:
            raise CatalogError(
                f"{entry.where}: two files are there for one video",
                file=lists.path,
                stage="labels",
                value=found[:4],
                remedy="keep one of them in the folder",
            )
        if not found:
            out.lost[entry.name] = f"in {entry.where}"
            continue
        path = found[0]
        out.values[path] = {"label": entry.label}
        if entry.split is not None:
            out.splits[path] = entry.split
        if entry.group is not None:
            out.groups[path] = entry.group
    if not out.values:
        raise CatalogError(
            f"none of the {len(entries)} videos that the lists of {lists.title} name is there",
            file=lists.path,
            stage="labels",
            value=[e.name for e in entries[:3]],
            remedy="check that folder and lists belong together; names must be kept",
        )
    facts = {
        "form": lists.form,
        "title": lists.title,
        "split_number": lists.number,
        "splits": LIST_FORMS[lists.form][2],
        "listed": len(entries),
        "missing": len(out.lost),
    }
    return out, {"lists": facts}


def relabelled(catalog: Catalog, lists: OfficialLists) -> Catalog:
    """A catalog with classes, sources and splits of official lists; it is not written.

    So that one scan, or one folder of prepared shards, serves all splits of a data set.

    Args:
        catalog: any; labels of its own stay beside.
        lists: the lists.

    Raises:
        CatalogError: as :func:`listed_labels`.
    """
    paths = cast("list[str]", catalog.table.column("path").to_pylist())
    labels, facts = listed_labels(lists, list(dict.fromkeys(paths)))
    told = [labels.values.get(p, {}).get("label") for p in paths]
    groups = [labels.groups.get(p, p) for p in paths]
    done = catalog.with_column("label:label", told).with_column("group", groups)
    done = done.with_splits([labels.splits.get(p) for p in paths])
    return done.with_meta(label_column="label", **facts)


def _with_test(entries: list[Entry]) -> list[Entry]:
    """Where the test part brings no labels, the validation part is what figures are read on."""
    labelled = any(e.split == "test" and e.label is not None for e in entries)
    if labelled:
        return entries
    moved = {"val": "test", "test": None, "train": "train", None: None}
    return [replace(e, split=moved[e.split]) for e in entries]


def _stem(path: str) -> PurePosixPath:
    whole = PurePosixPath(path)
    return whole.with_suffix("") if whole.suffix.lower() in VIDEO else whole
