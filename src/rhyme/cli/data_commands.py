"""Commands that make or read collections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common


@dataclass(kw_only=True)
class World(Common):
    """Make a world of short videos with sound, and the truth about every frame.

    Example: rhyme world --out runs/world --videos 200 --size 64 --seed 0
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
            sound=self.sound,
            truth=self.truth,
            workers=self.workers,
        )
        splits = ", ".join(f"{n} {name}" for name, n in made["splits"].items())
        lines = [
            f"{made['out']}: {made['videos']} videos ({splits}), {made['seconds']:.0f} s",
            f"train on it: rhyme train cycle_contrast --data {made['out']} --out runs/mine",
        ]
        return Answer(document=made, show=lines)


@dataclass(kw_only=True)
class Scan(Common):
    """Look through a folder, leave bad files out with reason and remedy, and write a catalog.

    Exit code 3 when files were left out.

    Example: rhyme scan my_videos --out mine.catalog.arrow --label-column action
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of videos, frame folders or images."""

    out: Path | None = None
    """Where the catalog goes; by default beside the folder as DIR.catalog.arrow."""

    labels: str = "auto"
    """Where labels come from: auto, none, folder (class sub-folders), or a CSV file."""

    label_column: str | None = None
    """Column of the CSV that holds the label to judge by."""

    group_column: str | None = None
    """Column whose equal values mean: same source."""

    split_column: str | None = None
    """Column with train, val and test, or with folds."""

    segment: float = 10.0
    """Seconds of an item of a long file."""

    path_column: str | None = None
    """Column of the CSV that names the file; found by itself where it is called file or path."""

    spacing: float | None = None
    """Seconds from one picture of a frame folder to the next."""

    depth: Literal["header", "packets", "frames"] = "packets"
    """header: fast; packets: exact times; frames: decodes everything and finds corrupt frames."""

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
            path_column=self.path_column,
            spacing=self.spacing,
            segment=self.segment,
            depth=self.depth,
            workers=self.workers,
        )
        shown: list[Any] = [table(["fact", "value"], [[k, v] for k, v in found.facts.items()])]
        if found.quarantine:
            rows = [[q["path"], q["reason"], q["remedy"]] for q in found.quarantine[:20]]
            shown.append(table(["left out", "reason", "remedy"], rows))
            if len(found.quarantine) > 20:
                shown.append(f"... and {len(found.quarantine) - 20} more, all in {found.path}")
        shown.append(f"catalog: {found.path}")
        return Answer(document=found, show=shown, exit_code=3 if found.quarantine else 0)
