"""Using an encoder: vectors of files, stores of collections, search, export."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.api.checks import (
    NAMED,
    PNG,
    check_writable,
    describe_missing,
    find_missing,
    output_file,
)
from rhyme.api.data import ReadOptions, quarantined, read_source
from rhyme.api.data_notes import data_notes, is_catalog
from rhyme.api.encoder import OffTheShelf, encoder_of, say_weights
from rhyme.api.package import export_package
from rhyme.api.prepare import prepared_note
from rhyme.api.progress import progress_bar
from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, save_package
from rhyme.errors import ConfigError, DataError, RhymeError
from rhyme.notices import tell
from rhyme.store import Hit, contact_sheet, open_store, parse_query, write_store
from rhyme.tasks.extract import encode
from rhyme.training import resolve_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Embedded moments.

    Attributes:
        vectors: ``float32 [n, d]`` of length 1.
        times: ``float64 [n]`` seconds in the file.
        paths: file of each moment.
        failed: why, by the path of each file that could not be read, wholly or in part.
    """

    vectors: NDArray[np.float32]
    times: NDArray[np.float64]
    paths: list[str]
    failed: Mapping[str, str] = field(default_factory=dict[str, str])


class Encoder:
    """A trained encoder.

    Args:
        package: what it was loaded from.
        device: where it runs.
    """

    def __init__(self, package: EncoderPackage, device: str = "cpu") -> None:
        self.package = package
        self.device = device

    def embed(
        self,
        data: str | Path | Catalog,
        *,
        every: float = 1.0,
        options: ReadOptions | None = None,
    ) -> Moments:
        """Vectors of moments of a file or a collection.

        Args:
            data: a file, a folder, or a catalog.
            every: seconds from one moment to the next.
            options: how a folder is read.

        Raises:
            CatalogError: the folder of a catalog has gone.
            DataError: no item gives a frame, with the files and the reasons; or all files of a
                catalog are gone.
        """
        import torch

        from rhyme.loading import inference_batches

        catalog = read_items(data, options)
        gone_since(data, catalog)
        vectors: list[NDArray[np.float32]] = []
        times: list[NDArray[np.float64]] = []
        rows: list[int] = []
        failed: dict[int, str] = {}
        module = self.package.module.eval()
        with torch.inference_mode():
            for pixels, index, seconds in inference_batches(
                catalog, self.package.plan, every=every, failed=failed
            ):
                found = encode(module, pixels.to(self.device))
                unit = torch.nn.functional.normalize(found.float(), dim=1)
                vectors.append(unit.cpu().numpy())
                times.append(np.asarray(seconds, dtype=np.float64))
                rows += [int(i) for i in index]
        if not vectors:
            raise no_frames(catalog, failed)
        return Moments(
            vectors=np.concatenate(vectors),
            times=np.concatenate(times),
            paths=[catalog.item(row).path for row in rows],
            failed={catalog.item(row).path: failed[row] for row in sorted(failed, reverse=True)},
        )


def gone_since(data: str | Path | Catalog, catalog: Catalog) -> dict[str, list[int]]:
    """Files of a catalog that are gone since its scan; of a folder that was just read, none.

    Args:
        data: what the user gave.
        catalog: what was read of it.

    Raises:
        CatalogError: the whole folder has gone.
        DataError: all files have.
    """
    return find_missing(catalog) if isinstance(data, Catalog) or is_catalog(data) else {}


def no_frames(catalog: Catalog, failed: Mapping[int, str]) -> DataError:
    """The error of items of which none gives a frame.

    Args:
        catalog: the items.
        failed: why, by row; items without a reason hold no picture.
    """
    reasons = {
        catalog.item(row).path: failed.get(row, f"no pictures ({catalog.item(row).kind})")
        for row in range(min(len(catalog), NAMED))
    }
    listed = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
    more = len(catalog) - len(reasons)
    return DataError(
        f"none of the items gives a frame: {listed}" + (f"; and {more} more" if more else ""),
        file=catalog.root,
        stage="embed",
        remedy="give files with pictures that can be decoded; rhyme scan says what is there",
    )


def load(run: str | Path | OffTheShelf, *, device: str = "auto") -> Encoder:
    """The encoder of a run, of an encoder package, or one off the shelf.

    Args:
        run: run folder, package, or encoder off the shelf.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    return Encoder(encoder_of(run, device), str(resolve_device(device)))


def read_items(data: str | Path | Catalog, options: ReadOptions | None = None) -> Catalog:
    """A collection without asking for a split."""
    catalog = read_source(data, options)
    return catalog.with_splits(["train"] * len(catalog))


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A store that was written.

    Attributes:
        path: its folder.
        moments: rows in it.
        items: items in it.
        dim: length of a vector.
        embedded: items of these data that were embedded, also those of an interrupted job.
        kept: items of these data that stood in it already.
        replaced: items that were taken out because their file changed.
        quarantined: files that the scan left out.
        failed: why, by path, files were left out that could not be read, wholly or in part.
    """

    path: Path
    moments: int
    items: int
    dim: int
    embedded: int
    kept: int
    replaced: int
    quarantined: int
    failed: Mapping[str, str]


def embed(
    run: str | Path | OffTheShelf,
    data: str | Path | Catalog,
    store: str | Path,
    *,
    every: float = 1.0,
    device: str = "auto",
    workers: int = 0,
    options: ReadOptions | None = None,
) -> Embedded:
    """Embed a collection into a store, one row a moment.

    Args:
        run: run folder, encoder package, or encoder off the shelf.
        data: a folder or catalog.
        store: folder of the store; one of the same encoder is added to.
        every: seconds from one moment to the next.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: decoding processes.
        options: how a folder is read.

    Raises:
        CatalogError: the folder of a catalog has gone.
        DataError: all files of a catalog are gone.
        StoreError: the store belongs to another encoder, or no item gives a frame.
    """
    package = encoder_of(run, device)
    say_weights(package)
    catalog = read_items(data, options)
    if gone := gone_since(data, catalog):
        tell(f"{describe_missing(gone)}; embedded without")
    for note in (prepared_note(catalog), *data_notes(data, catalog)):
        if note:
            tell(note)
    with progress_bar("embed", "items") as progress, in_a_folder(package) as place:
        written = write_store(
            Path(store),
            place,
            catalog,
            every=every,
            device=str(resolve_device(device)),
            workers=workers,
            progress=progress,
        )
    return Embedded(
        path=Path(store),
        moments=written.moments,
        items=written.items,
        dim=written.dim,
        embedded=written.embedded + written.resumed,
        kept=written.kept,
        replaced=written.replaced,
        quarantined=len(quarantined(catalog)),
        failed=written.failed,
    )


@contextmanager
def in_a_folder(package: EncoderPackage) -> Generator[Path]:
    """The package's folder; of an encoder off the shelf, which has none, one for the while."""
    if package.directory.is_dir() and "weights" not in package.extra:
        yield package.directory
        return
    with tempfile.TemporaryDirectory(prefix="rhyme-encoder-") as folder:
        yield save_shelf(package, Path(folder) / "encoder")


def save_shelf(package: EncoderPackage, folder: Path) -> Path:
    """Write an encoder off the shelf as a package, which every verb takes in place of a run."""
    save_package(folder, package.module, package.plan, card=package.card, extra=package.extra)
    return folder


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        query: file and seconds.
        hits: moments, best first.
        sheet: contact sheet; None where none was asked for, or none could be written.
        notes: why there is no sheet that was asked for.
    """

    query: str
    hits: list[Hit]
    sheet: Path | None
    notes: tuple[str, ...] = ()


def search(
    store: str | Path,
    query: str,
    *,
    k: int = 10,
    exclude_same_group: bool = False,
    sheet: str | Path | Literal[False] | None = None,
    device: str = "auto",
) -> Found:
    """Find the moments of a store that are most like a given one.

    Args:
        store: folder that :func:`embed` wrote.
        query: ``FILE@SECONDS``; without ``@`` the middle of the file.
        k: number of moments.
        exclude_same_group: leave out moments of the query's own file and group.
        sheet: PNG of the contact sheet; False draws none. By default ``sheet.png`` in the store,
            and none, with a note, where that cannot be written.
        device: where the query is encoded.

    Raises:
        StoreError: the store is missing or damaged.
        MediaError: the query's file cannot be read.
        ConfigError: the sheet is to be no PNG, or cannot be written to the place that is named.
    """
    if isinstance(sheet, str | Path):
        check_writable(
            _sheet_file(sheet), "--sheet", replaced=True, otherwise=", or draw none: --sheet none"
        )
    opened = open_store(Path(store), device=str(resolve_device(device)))
    path, time = parse_query(query)
    hits = opened.search((path, time), k=k, exclude_same_group=exclude_same_group)
    if sheet is False:
        return Found(query=query, hits=hits, sheet=None)
    try:
        target = _sheet_file(sheet or Path(store) / "sheet.png")
        contact_sheet(hits, target, query=(path, time), store=opened)
    except (RhymeError, OSError) as error:  # what was found is told all the same
        why = error.cause if isinstance(error, RhymeError) else error.strerror or error
        return Found(query=query, hits=hits, sheet=None, notes=(f"no contact sheet: {why}",))
    return Found(query=query, hits=hits, sheet=target)


def _sheet_file(path: str | Path) -> Path:
    target = output_file(path, "picture", PNG)
    if target.suffix.lower() != ".png":
        raise ConfigError(
            "a contact sheet is a .png file",
            file=target,
            stage="contact sheet",
            remedy="e.g. --sheet found.png, or --sheet none",
        )
    return target


def export(
    run: str | Path | OffTheShelf,
    out: str | Path | None = None,
    *,
    kind: Literal["torch", "hub", "package"] = "torch",
) -> Path:
    """Write the encoder for other programs.

    Args:
        run: run folder, encoder package, or encoder off the shelf; for ``package`` a run folder
            or an encoder off the shelf.
        out: file (``torch``) or folder (``hub``, ``package``).
        kind: ``torch``, a ``torch.export`` program; ``hub``, a folder for a model hub;
            ``package``, an encoder package of the run's newest checkpoint, see
            :func:`export_package`.
    """
    from rhyme.export import to_hub_folder, to_torch_export

    if kind == "package" and not isinstance(run, OffTheShelf):
        return export_package(run, out).path
    if out is None:
        raise ConfigError(
            f"an export of kind '{kind}' needs a place",
            stage="export",
            remedy="write --out encoder.pt2 (torch) or --out folder (hub)",
        )
    package = encoder_of(run)
    say_weights(package)
    if kind == "package":
        return save_shelf(package, Path(out))
    if kind == "hub":
        return Path(to_hub_folder(package, out))
    return Path(to_torch_export(package, out))
