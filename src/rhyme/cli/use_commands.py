"""Commands that use a trained encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common, Data, ReadOnly, Run, Shelf, changed
from rhyme.errors import ConfigError, printable
from rhyme.store import readable_time

_NAMED = 5  # files that an answer names


@dataclass(kw_only=True)
class Embed(Common):
    """Embed a collection: one row a moment, with item, time, vector and the encoder's hash.

    Example: rhyme embed runs/mine --data my_videos --store my_videos.store

    Example: rhyme embed runs/mine --data my_files --store my_files.store --kinds image,video

    Example: rhyme embed --encoder torchvision:r3d_18 --weights r3d.pth --data my_videos --store s
    """

    run: Run = None
    """Run folder, or an encoder package; none where --encoder is given."""

    shelf: Shelf = field(default_factory=api.OffTheShelf)

    data: Data
    """A folder of files, or a catalog that `rhyme scan` wrote."""

    store: Path
    """Folder of the store; an existing one of the same encoder is added to."""

    every: float = 1.0
    """Seconds from one moment to the next."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    workers: int = 0
    """Processes that decode."""

    reading: ReadOnly = field(default_factory=api.ReadOptions)

    def __call__(self) -> Answer:
        done = api.embed(
            api.run_or_shelf(self.run, self.shelf),
            self.data,
            self.store,
            every=self.every,
            device=self.device,
            workers=self.workers,
            options=self.reading,
        )
        lines = [
            f"{done.path}: {done.moments} moments of {_items(done.items)}, "
            f"{done.dim} numbers each{_before(done)}",
            *_left_out(done),
            f"search it: rhyme search {quote(str(done.path))} --query FILE@12.5",
        ]
        return Answer(
            document=done, show=lines, exit_code=3 if done.quarantined or done.failed else 0
        )


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _before(done: api.Embedded) -> str:
    """What this call did, where the store held something before."""
    if done.embedded == done.items:
        return ""
    replaced = f"; {_items(done.replaced)} of changed files replaced" if done.replaced else ""
    return f" ({_items(done.embedded)} embedded, {done.kept} kept{replaced})"


def _quarantined(count: int) -> list[str]:
    return [f"{count} left out as damaged; rhyme scan names them"] if count else []


def _left_out(done: api.Embedded) -> list[str]:
    """Files that were left out: how many a scan names, and by name those that it does not."""
    lines = _quarantined(done.quarantined)
    if done.failed:
        files = "1 file" if len(done.failed) == 1 else f"{len(done.failed)} files"
        lines.append(f"{files} could not be read, wholly or in part:")
        named = list(done.failed.items())[:_NAMED]
        lines += [f"  {printable(path)}: {printable(reason)}" for path, reason in named]
        if len(done.failed) > _NAMED:
            lines.append(f"  and {len(done.failed) - _NAMED} more; --json names all")
    return lines


@dataclass(kw_only=True)
class Search(Common):
    """Find the moments of a store that are most like a given one, and draw them on a sheet.

    Example: rhyme search my_videos.store --query my_videos/a.mp4@12.5 -k 10
    """

    store: Annotated[Positional[Path], arg(metavar="STORE")]
    """Folder that `rhyme embed` wrote."""

    query: str
    """FILE@SECONDS; without @ the middle of the file."""

    k: Annotated[int, arg(aliases=["-k"])] = 10
    """Number of moments."""

    exclude_same_group: bool = False
    """Leave out moments of the query's own file and group."""

    sheet: Path | None = None
    """PNG to write the contact sheet to, or none; by default sheet.png in the store."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __call__(self) -> Answer:
        found = api.search(
            self.store,
            self.query,
            k=self.k,
            exclude_same_group=self.exclude_same_group,
            sheet=False if self.sheet == Path("none") else self.sheet,
            device=self.device,
        )
        rows = [[h.rank, h.score, readable_time(h.time), h.path, h.group] for h in found.hits]
        columns = ["rank", "score", "seconds", "file", "group"]
        shown: list[Any] = [table(columns, rows, right=["seconds"]), *found.notes]
        if found.sheet is not None:
            shown.append(f"contact sheet: {found.sheet}")
        failed = found.notes and self.sheet is not None
        return Answer(document=found, show=shown, exit_code=1 if failed else 0)


@dataclass(kw_only=True)
class Report(Common):
    """Write a run's page of evidence, or one that sets several runs side by side: one HTML file.

    Several runs: those that differ in their seed alone and were trained and judged on the same data
    belong together, and all others are held against the first one named. Such a page is made from
    what the runs have logged and measured.

    Example: rhyme report runs/mine

    Example: rhyme report runs/mine --data other_videos --labels folder

    Example: rhyme report runs/base-0 runs/base-1 runs/mine-0 runs/mine-1 --out runs.html

    Example: rhyme report runs/mine-0 runs/mine-1 shelf.jsonl --out paper.html
    """

    run: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")]
    """Run folder, or several, and files of result rows that stand beside them."""

    data: Data | None = None
    """Videos to draw the pictures of one run from; by default those that it held out."""

    out: Path | None = None
    """Where the page goes; by default report.html in the run, of several runs.html."""

    seed: int = 0
    """Seed that picks the queries shown."""

    points: int = 600
    """Most frames in the map of the features; 0 draws none."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    reading: ReadOnly = field(default_factory=api.ReadOptions)

    def __call__(self) -> Answer:
        if not self.run:
            raise ConfigError(
                "give a RUN: no run is named to report on",
                stage="command line",
                remedy="e.g. rhyme report runs/mine, or several to set them side by side: "
                "rhyme report runs/base runs/mine",
            )
        left_out: list[dict[str, Any]] = []
        if len(self.run) == 1 and not self.run[0].is_file():
            path = api.report(
                self.run[0],
                data=self.data,
                out=self.out,
                seed=self.seed,
                points=self.points,
                device=self.device,
                options=self.reading,
                quarantine=left_out,
            )
        else:
            self._refuse_options_of_pictures()
            path = api.report_runs(self.run, out=self.out or Path("runs.html"))
        return Answer(
            document={"report": path, "quarantined": len(left_out)},
            show=[f"report: {path}", *_quarantined(len(left_out))],
            exit_code=3 if left_out else 0,
        )

    def _refuse_options_of_pictures(self) -> None:
        """Several runs are set side by side without pictures: options for them would be idle."""
        named = [name for name in changed(self) if name not in ("--json", "--out")]
        if named:
            raise ConfigError(
                "pictures are drawn for one run at a time",
                stage="report",
                value=", ".join(named),
                remedy="leave these options out, or name one run",
            )


@dataclass(kw_only=True)
class Export(Common):
    """Write the encoder for other programs, or that of a run which is not at its end.

    Example: rhyme export runs/mine --format torch --out encoder.pt2

    Example: rhyme export runs/mine --format package

    Example: rhyme export --encoder torchvision:resnet50 --weights r.pth --format package --out r50
    """

    run: Run = None
    """Run folder, or an encoder package; none where --encoder is given."""

    shelf: Shelf = field(default_factory=api.OffTheShelf)

    out: Path | None = None
    """File or folder to write; a package goes into the run where none is given."""

    format: Literal["torch", "hub", "package"] = "torch"
    """torch: a torch.export program; hub: a folder for a model hub; package: an encoder package
    of the run's newest checkpoint, be it stopped or still training, or of --encoder."""

    def __call__(self) -> Answer:
        source = api.run_or_shelf(self.run, self.shelf)
        if self.format == "package" and isinstance(source, Path):
            done = api.export_package(source, self.out)
            return Answer(document=done, show=[f"written: {done.path}, step {done.step}"])
        path = api.export(source, self.out, kind=self.format)
        return Answer(document={"path": path}, show=[f"written: {path}"])
