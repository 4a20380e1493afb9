"""Opening a store and searching it exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from rhyme.encoders import EncoderPackage, load_package
from rhyme.errors import ConfigError, FileMissing, PackageError, StoreError, UnknownName, nearest
from rhyme.kernels import top_k
from rhyme.media import R2V2_SPACING, FrameReader
from rhyme.store.generation import read_table, read_vectors
from rhyme.store.layout import ENCODER, WORK, StoreInfo, read_info
from rhyme.store.query import centre_of, embed_moment, moment_of, open_query, parse_query
from rhyme.tasks import normalise

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Hit", "Store", "open_store"]

Vector = NDArray[np.floating]
_SAME = 1e-3  # seconds by which a time may differ from a stored one and still mean it
_PLAIN = ("path", "time", "group", "start", "stop", "kind", "spacing", "row")
Query = str | tuple[str | Path, float | None] | Vector | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A moment that was found.

    Attributes:
        rank: 1 for the best.
        score: cosine to the query, in [-1, 1].
        path: file of the moment.
        time: seconds in the file.
        group: source it belongs to.
        labels: label by column, of its item.
        start: start of its item, seconds.
        stop: end of its item, seconds.
        kind: kind of media.
        files: the pictures of a frame folder, else empty.
        spacing: seconds between them.
        row: row of the store.
    """

    rank: int
    score: float
    path: str
    time: float
    group: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    start: float = 0.0
    stop: float = 0.0
    kind: str = "video"
    files: tuple[str, ...] = ()
    spacing: float = 0.04
    row: int = -1


class Store:
    """An open store; vectors stay on disk until they are searched.

    Args:
        directory: the folder.
        info: what it is.
        vectors: ``float32 [n, d]``, mapped.
        table: what they are.
        device: where the encoder runs.
    """

    def __init__(
        self,
        directory: Path,
        info: StoreInfo,
        vectors: NDArray[np.float32],
        table: pa.Table,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = device
        self.directory = directory
        self.info = info
        self.vectors = vectors
        self.table = table

    def __len__(self) -> int:
        return self.info.count

    @cached_property
    def package(self) -> EncoderPackage:
        """The encoder that made the vectors.

        Raises:
            StoreError: it is missing, damaged, or another one.
        """
        remedy = "embed the collection again, or copy the encoder package back"
        try:
            package = load_package(self.directory / ENCODER)
        except PackageError as error:
            raise StoreError(
                f"the store's encoder cannot be used: {error.cause}",
                file=self.directory / ENCODER,
                stage="search",
                remedy=remedy,
            ) from error
        if package.hash != self.info.package:
            raise StoreError(
                f"the folder holds the encoder {package.hash[:12]}, "
                f"the vectors are of {self.info.package[:12]}",
                file=self.directory / ENCODER,
                stage="search",
                remedy=remedy,
            )
        return package

    @cached_property
    def group_codes(self) -> NDArray[np.int64]:
        """``int64 [n]`` group of each moment; groups of different collections are different."""
        roots: dict[tuple[str, Path], str] = {}
        codes: dict[tuple[str, str], int] = {}
        found = np.empty(len(self), dtype=np.int64)
        columns = (self._column(name) for name in ("collection", "path", "group"))
        for row, (collection, path, group) in enumerate(zip(*columns, strict=True)):
            place = (collection, Path(path).parent)
            if place not in roots:
                roots[place] = _root(*place)
            found[row] = codes.setdefault((roots[place], group), len(codes))
        return found

    def rows_of(self, path: str | Path) -> NDArray[np.int64]:
        """Rows of a file's moments, and of everything in its group.

        Args:
            path: the file; one that is not in the store has none.
        """
        wanted = str(Path(path).resolve())
        mine = np.array([found == wanted for found in self._column("path")], dtype=bool)
        inside = [
            wanted in json.loads(files) if files != "[]" else False
            for files in self._column("files")
        ]
        mine |= np.array(inside, dtype=bool)
        return np.flatnonzero(np.isin(self.group_codes, np.unique(self.group_codes[mine])))

    def embed(
        self, path: str | Path, time: float | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """The vector of any moment of any file, made by the store's own encoder.

        Of a stored moment it is the stored vector again: a clip stays within the item of the store
        in which the moment lies, where there is one.

        Args:
            path: the file, in the store or not.
            time: seconds; None for the middle.

        Returns:
            ``float32 [d]``, normalised, and the time that was meant.

        Raises:
            FileMissing: no such file.
            ConfigError: a time beyond the end of the file.
            MediaError: the file cannot be read.
        """
        file = Path(path)
        reader = open_query(file, *self.frame_folder(file))
        try:
            when = moment_of(reader, time, file)
            centre, span = self._as_stored(reader, file, when)
            return embed_moment(self.package, reader, centre, self.device, span=span), when
        finally:
            reader.close()

    def _as_stored(
        self, reader: FrameReader, path: Path, when: float
    ) -> tuple[float, tuple[float, float] | None]:
        """Where the clip of a moment is centred, and the item in which it stays, if any."""
        wanted = str(path.resolve())
        rows = [row for row, found in enumerate(self._column("path")) if found == wanted]
        if self.package.plan.frames == 1 or not rows:
            return when, None
        start, stop, time = (
            np.asarray(self.table.column(name).take(rows)) for name in ("start", "stop", "time")
        )
        stored = np.flatnonzero(np.abs(time - when) < _SAME)
        within = np.flatnonzero((start <= when) & (when <= stop))
        for at in stored[:1]:
            span = (float(start[at]), float(stop[at]))
            return centre_of(reader, float(time[at]), span, self.info.every), span
        for at in within[-1:]:
            return when, (float(start[at]), float(stop[at]))
        return when, None

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        exclude_same_group: bool = False,
        exclude_group: str | Sequence[str] | None = None,
    ) -> list[Hit]:
        """The moments most like a query, best first; exact.

        Args:
            query: ``FILE@SECONDS``, a pair (file, seconds or None), or a vector ``[d]``.
            k: number of moments; fewer are found where fewer are left.
            exclude_same_group: leave out the moments of the query's file and of its group. A file
                that is not in the store has none.
            exclude_group: names of groups to leave out.

        Returns:
            The moments found.

        Raises:
            ConfigError: ``k`` below 1, or the group of a vector is asked for.
            UnknownName: a group that is not in the store.
            StoreError: a vector of another width, or that is not finite.
            RhymeError: the query file cannot be used.
        """
        if k < 1:
            raise ConfigError("k must be at least 1", stage="search", value=k)
        hidden = np.zeros(len(self), dtype=bool)
        if isinstance(query, str):
            query = parse_query(query)
        if isinstance(query, tuple):
            if exclude_same_group:
                hidden[self.rows_of(query[0])] = True
            vector, _ = self.embed(query[0], query[1])
        else:
            if exclude_same_group:
                raise ConfigError(
                    "a vector has no group",
                    stage="search",
                    remedy="name the groups to leave out: exclude_group=...",
                )
            vector = self._vector(query)
        hidden |= self._named(exclude_group)
        return self._hits(vector, k, hidden)

    def _vector(self, query: Vector | torch.Tensor) -> NDArray[np.float32]:
        given = query.detach().cpu().numpy() if isinstance(query, torch.Tensor) else query
        array = np.asarray(given, dtype=np.float32).reshape(-1)
        if array.shape != (self.info.dim,) or not np.isfinite(array).all():
            raise StoreError(
                f"a query vector has {self.info.dim} finite numbers",
                file=self.directory,
                stage="search",
                value=array.shape,
                remedy="embed the query with the store's encoder: Store.embed",
            )
        return normalise(array)

    def _named(self, groups: str | Sequence[str] | None) -> NDArray[np.bool_]:
        if groups is None:
            return np.zeros(len(self), dtype=bool)
        names = {groups} if isinstance(groups, str) else set(groups)
        column = self._column("group")
        unknown = names - set(column)
        if unknown:
            name = sorted(unknown)[0]
            raise UnknownName(
                f"no group '{name}' in the store",
                file=self.directory,
                stage="search",
                remedy=nearest(name, set(column)),
            )
        return np.array([group in names for group in column], dtype=bool)

    def _hits(self, vector: Vector, k: int, hidden: NDArray[np.bool_]) -> list[Hit]:
        # On the CPU, wherever the encoder runs: one query reads every vector once, and to copy them
        # all to a device takes longer than to compare them here, and may not fit there.
        # A hidden row has the query's group, 0; negative groups match nobody.
        groups = torch.from_numpy(np.where(hidden, 0, -1).astype(np.int64))
        found = top_k(
            torch.from_numpy(np.asarray(vector, np.float32))[None],
            torch.from_numpy(self.vectors),
            min(k, len(self)),
            query_groups=torch.zeros(1, dtype=torch.int64),
            bank_groups=groups,
        )
        rows = [row for row in found.indices[0].tolist() if row >= 0]
        facts = cast("list[dict[str, Any]]", self.table.take(rows).to_pylist()) if rows else []
        return [
            Hit(
                rank=place + 1,
                score=float(score),
                labels=json.loads(fact["labels"]),
                files=tuple(json.loads(fact["files"])),
                **{name: fact[name] for name in _PLAIN},
            )
            for place, (fact, score) in enumerate(
                zip(facts, found.scores[0].tolist(), strict=False)
            )
        ]

    def frame_folder(self, path: str | Path) -> tuple[list[str], float]:
        """The pictures of a frame folder that the store knows by this path, and their spacing.

        Args:
            path: the folder, or ``FOLDER/<id>`` of R2V2's.

        Returns:
            The pictures in order, none where the store knows no such folder, and the seconds
            between them.
        """
        if not Path(path).is_file():
            wanted = str(Path(path).resolve())
            for row, found in enumerate(self._column("path")):
                if found == wanted and self._column("files")[row] != "[]":
                    files = cast("list[str]", json.loads(self._column("files")[row]))
                    return files, float(self.table.column("spacing")[row].as_py())
        return [], R2V2_SPACING

    def _column(self, name: str) -> list[str]:
        cache = cast("dict[str, list[str]]", self.__dict__.setdefault("_columns", {}))
        if name not in cache:
            cache[name] = cast("list[str]", self.table.column(name).to_pylist())
        return cache[name]


def _root(collection: str, folder: Path) -> str:
    """The folder of a collection, of which older stores hold the name that was typed.

    Args:
        collection: as it stands in the store.
        folder: of one of its files; it tells where a relative name belongs.
    """
    given, here = Path(collection), Path(collection).resolve()
    if given.is_absolute() or folder.is_relative_to(here):
        return str(here)
    for above in (folder, *folder.parents):
        if given.parts and above.parts[-len(given.parts) :] == given.parts:
            return str(above)
    return str(here)


def open_store(
    directory: str | Path, *, verify: bool = False, device: str | torch.device = "cpu"
) -> Store:
    """Open a store for searching.

    Args:
        directory: the folder that ``write_store`` made.
        verify: read all vectors and hold them against their checksum.
        device: where the encoder runs.

    Returns:
        The store.

    Raises:
        FileMissing: no such folder.
        StoreError: it is no store, unfinished, or damaged.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileMissing(
            "no such store", file=folder, stage="open store", remedy="make one: rhyme embed RUN"
        )
    info = read_info(folder)
    if info is None:
        unfinished = (folder / WORK).is_dir()
        raise StoreError(
            "the store is not finished" if unfinished else "the folder is no store",
            file=folder,
            stage="open store",
            remedy="run the same rhyme embed again: it goes on where it stopped"
            if unfinished
            else "give the folder that rhyme embed wrote",
        )
    vectors = read_vectors(folder, info, verify=verify)
    return Store(folder, info, vectors, read_table(folder, info), device)
