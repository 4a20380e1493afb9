"""Commands that make or read collections."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common, Data, ReadOnly, changed
from rhyme.errors import ConfigError


@dataclass(kw_only=True)
class World(Common):
    """Make a world of short videos with sound, and the truth about every frame.

    Example: rhyme world --out runs/world --videos 200 --size 64 --seed 0

    Example: rhyme world --out runs/scenes --size 96 --creatures 3 5
    """

    out: Path
    """New folder of the world."""

    videos: int = 200
    """Number of videos over all splits."""

    seed: int = 0
    """Seed of everything that is drawn."""

    size: int = 64
    """Side of the frames in pixels, 24 to 256."""

    frames: int = 16
    """Frames of a video."""

    fps: float = 8.0
    """Frames a second."""

    gop: int = 8
    """Frames from one key frame of the file to the next."""

    palette_keep: float = 0.5
    """Probability (PK) that a keyframe keeps its video's colours."""

    scene_keep: float = 0.2
    """Probability (VB) that a keyframe keeps its video's background."""

    untrimmed: int = 0
    """Number of longer videos of 4 to 6 phases, with a label a frame, beside the others."""

    creatures: tuple[int, int] = (1, 1)
    """Least and most creatures in a video, up to 9; labels and sound are the first one's."""

    sound: bool = True
    """Write a sound track."""

    truth: Literal["full", "labels"] = "full"
    """full: masks, boxes and key points of every frame; labels: only labels.csv."""

    workers: int = 2
    """Processes that write."""

    def __call__(self) -> Answer:
        made = api.world(
            self.out,
            videos=self.videos,
            seed=self.seed,
            size=self.size,
            frames=self.frames,
            fps=self.fps,
            gop=self.gop,
            palette_keep=self.palette_keep,
            scene_keep=self.scene_keep,
            untrimmed=self.untrimmed,
            creatures=self.creatures,
            sound=self.sound,
            truth=self.truth,
            workers=self.workers,
        )
        splits = ", ".join(f"{n} {name}" for name, n in made["splits"].items())
        lines = [
            f"{made['out']}: {made['videos']} videos ({splits}), {made['seconds']:.0f} s",
            f"train on it: rhyme train cycle_contrast --data {quote(str(made['out']))} "
            "--out runs/mine",
        ]
        return Answer(document=made, show=lines)


@dataclass(kw_only=True)
class Scan(Common):
    """Look through a folder, leave bad files out with reason and remedy, and write a catalog.

    Exit code 3 when files were left out.

    Example: rhyme scan my_videos --out mine.catalog.arrow --label-column action

    Example: rhyme scan UCF-101 --labels ucf101:ucfTrainTestlist --split-number 1
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of videos, frame folders or images; images may lie in zip and tar files."""

    out: Path | None = None
    """Where the catalog goes; by default beside the folder as DIR.catalog.arrow."""

    labels: str = "auto"
    """Where labels come from: auto (labels.csv, .cls in archives, or class sub-folders), none,
    folder (class sub-folders), a CSV file, or official lists as ucf101:LISTS, hmdb51:LISTS,
    kinetics:LISTS or something:LISTS."""

    label_column: str | None = None
    """Column of the CSV that holds the label to judge by."""

    group_column: str | None = None
    """Column whose equal values mean: same source."""

    split_column: str | None = None
    """Column with train, val and test, or with folds."""

    split_number: int | None = None
    """Number of the split of official lists, from 1."""

    segment: float | None = None
    """Seconds of an item of a long file; 10, or whole files with official lists."""

    kinds: str | None = None
    """What is taken: video, frames, image, audio; by default films, else pictures, else sound."""

    include: str | None = None
    """Patterns of paths, separated by commas, such as '*.input.jpg': only what fits is taken."""

    path_column: str | None = None
    """Column of the CSV that names the file; found by itself where it is called file or path."""

    spacing: float | None = None
    """Seconds from one picture of a frame folder to the next."""

    depth: Literal["header", "packets", "frames"] = "packets"
    """header: fast; packets: exact times, cut files found; frames: decodes everything and finds
    corrupt frames."""

    workers: int = 2
    """Processes that read."""

    def __call__(self) -> Answer:
        found = api.scan(
            self.folder,
            out=self.out,
            labels=self.labels,
            label_column=self.label_column,
            group_column=self.group_column,
            split_column=self.split_column,
            split_number=self.split_number,
            path_column=self.path_column,
            spacing=self.spacing,
            segment=self.segment,
            kinds=self.kinds,
            include=self.include,
            depth=self.depth,
            workers=self.workers,
        )
        shown: list[Any] = [table(["fact", "value"], [[k, v] for k, v in found.facts.items()])]
        if found.quarantine:
            rows = [[q["path"], q["reason"], q["remedy"]] for q in found.quarantine[:20]]
            shown.append(table(["left out", "reason", "remedy"], rows))
            if len(found.quarantine) > 20:
                shown.append(f"... and {len(found.quarantine) - 20} more, all in {found.path}")
        if found.facts["animations"]:
            shown.append(
                f"{found.facts['animations']} animated pictures (WebP, PNG): only the first frame "
                "of each is used; as GIF or MP4 they are films"
            )
        shown += [*found.notes, f"catalog: {found.path}"]
        return Answer(document=found, show=shown, exit_code=3 if found.quarantine else 0)


@dataclass(kw_only=True)
class Prepare(Common):
    """Write the frames of a collection at training size, as shards that are read much faster.

    Commands read the folder of shards like the collection: the same items, groups, labels,
    splits, times and draws; only pixels differ, by the PSNR that is printed. Stopped at any moment,
    the same command goes on where it was. Shards hold no sound. Exit code 3 when files were left
    out.

    Example: rhyme prepare my_videos --out my_shards --size 128 --workers 2

    Example: rhyme prepare my_shards --verify
    """

    data: Annotated[Positional[Data], arg(metavar="DIR|CATALOG")]
    """A folder of files, or a catalog; with --verify a folder of shards."""

    out: Path | None = None
    """Folder of the shards: a new one, or one that the same command began."""

    size: int = 128
    """Pixels of the shorter side of a frame; smaller frames stay as they are."""

    format: Literal["jpeg", "webp"] = "jpeg"
    """webp takes fewer bytes and several times longer, to write and to read."""

    quality: int = 90
    """Quality of the pictures, 1 to 100."""

    fps: str = "all"
    """Frames a second that are kept; with all, every time is that of the original."""

    workers: int = 2
    """Processes that decode and encode; with 0 a file that crashes the decoder ends the command."""

    shard_mib: int = 256
    """MiB of a shard."""

    verify: bool = False
    """Compare every byte of a folder of shards with its checksums, and write nothing."""

    reading: ReadOnly = field(default_factory=api.ReadOptions)

    def __call__(self) -> Answer:
        if self.verify:
            if self.out is not None:
                raise ConfigError(
                    "--verify checks the folder that is given, and writes nothing",
                    value=str(self.out),
                    remedy=f"write only: rhyme prepare {quote(str(self.out))} --verify",
                )
            idle = [name for name in changed(self) if name not in ("--json", "--verify")]
            if idle:
                raise ConfigError(
                    "--verify compares checksums, and takes no other option",
                    value=", ".join(idle),
                    remedy=f"write only: rhyme prepare {quote(str(self.data))} --verify",
                )
            found = api.verify(self.data)
            whole = (
                f"{self.data}: {found['shards']} shards, {found['bytes']:,} bytes, all as written"
            )
            return Answer(document=found, show=[whole])
        if self.out is None:
            raise ConfigError(
                "shards need a folder",
                remedy=f"rhyme prepare {quote(str(self.data))} --out my_shards",
            )
        done = api.prepare(
            self.data,
            out=self.out,
            size=self.size,
            format=self.format,
            quality=self.quality,
            fps=_rate(self.fps),
            workers=self.workers,
            shard_mib=self.shard_mib,
            options=self.reading,
        )
        shown: list[Any] = [table(["fact", "value"], done.rows())]
        if done.quarantine:
            rows = [[q["path"], q["reason"], q["remedy"]] for q in done.quarantine[:20]]
            shown.append(table(["left out", "reason", "remedy"], rows))
            if len(done.quarantine) > 20:
                shown.append(f"... and {len(done.quarantine) - 20} more: see {done.path}")
        shown.append(
            f"train on them: rhyme train cycle_contrast --data {quote(str(done.path))} "
            "--out runs/mine"
        )
        document = {**asdict(done), "ratio": done.ratio}
        return Answer(document=document, show=shown, exit_code=3 if done.quarantine else 0)


def _rate(text: str) -> float | None:
    """Frames a second, or None for all."""
    if text == "all":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            "--fps takes a number, or all", value=text, remedy="e.g. --fps 8"
        ) from error
