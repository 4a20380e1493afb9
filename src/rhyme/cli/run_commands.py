"""Commands that train and judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common, Data, HowToRead, Launching, Run, Shelf
from rhyme.errors import ConfigError, EvaluationError
from rhyme.group import follower, in_a_group


@dataclass(kw_only=True)
class Demo(Common):
    """Make a world, train CycleContrast on it, judge, embed, search, and write a report.

    Example: rhyme demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """New folder of the run, its store and its report; the world goes beside it, into OUT-world."""

    seed: int = 0
    """Seed of world and run."""

    def __call__(self) -> Answer:
        done = api.demo(self.out, seed=self.seed)
        rows = [[s.name, s.seconds, s.budget, "" if s.within else "over"] for s in done.stages]
        shown: list[Any] = [
            table(["stage", "seconds", "budget", ""], rows),
            f"video k-NN accuracy: trained {done.trained:.3f}, untrained {done.untrained:.3f}, "
            f"gain {done.gain:+.3f} (the demo asks for {done.gate:+.2f})",
            f"report: {done.report}",
        ]
        return Answer(document=done, show=shown, exit_code=0 if done.passed else 1)


@dataclass(kw_only=True)
class Train(Common):
    """Train an encoder on a folder of videos, or go on with a run that was stopped.

    Any option of the recipe can be changed by its dotted name: see `rhyme recipes NAME`.

    Example: rhyme train cycle_contrast --data my_videos --out runs/mine --train.steps 300

    Example: rhyme train moco --data clips --out r --model.backbone.name resnet18 --init r18.pth

    Example: rhyme train --resume runs/mine

    Example: rhyme train moco --data my_videos --out runs/mine --launch local --ranks 2

    Example: rhyme train moco --data my_videos --out runs/mine --launch slurm --slurm.ranks 8
    """

    recipe: Annotated[Positional[str | None], arg(metavar="SYSTEM|RECIPE|FILE.yaml")] = None
    """System (its small recipe), recipe, or a recipe file."""

    data: Data | None = None
    """A folder of files, or a catalog that `rhyme scan` wrote."""

    out: Path | None = None
    """New run folder."""

    seed: int | None = None
    """Seed of weights, order, draws and split; that of the recipe, as a rule 0, by default."""

    init: Path | None = None
    """Weights that the backbone starts from: a .pth or .safetensors file, whose names may stand
    under module., backbone., encoder_q. and the like, an encoder package, or a run folder; of
    another backbone than the recipe's, name it with --model.backbone.name."""

    device: str | None = None
    """auto, cpu, cuda or cuda:N; that of the recipe, as a rule auto, by default."""

    resume: Path | None = None
    """Run folder to go on with; of the recipe's options those that touch no number may change, such
    as --train.workers."""

    launching: Launching = field(default_factory=api.LaunchOptions)

    slurm: api.SlurmOptions = field(default_factory=api.SlurmOptions)

    reading: HowToRead = field(default_factory=api.DataOptions)

    takes_overrides: ClassVar[bool] = True
    runs_on_ranks: ClassVar[bool] = True
    nested: ClassVar[tuple[str, ...]] = ("slurm",)

    def __call__(self, overrides: Mapping[str, Any]) -> Answer | None:
        self._check(overrides)
        queued = self.launching.resolved() == "slurm"
        if self.resume is not None:
            if queued:
                run = api.reopen(self.resume, ranks=self.slurm.world, overrides=overrides)
                return _answer(api.submit(run.path, self.slurm, device=self.device))
            done = api.resume(
                self.resume,
                device=self.device,
                overrides=overrides,
                launch=self.launching,
            )
            return _answer(done)
        assert self.recipe is not None
        assert self.data is not None
        assert self.out is not None
        told: dict[str, Any] = {
            "out": self.out,
            "seed": self.seed,
            "device": self.device,
            "overrides": overrides,
            "options": self.reading,
            "init": self.init,
        }
        if queued:
            run = api.new_run(
                self.recipe, self.data, ranks=self.slurm.world, elsewhere=True, **told
            )
            return _answer(api.submit(run.path, self.slurm, device=self.device))
        return _answer(api.train(self.recipe, self.data, launch=self.launching, **told))

    def _check(self, overrides: Mapping[str, Any]) -> None:
        """Refuse options that contradict each other."""
        if self.launching.launch != "slurm" and self.slurm != api.SlurmOptions():
            raise ConfigError(
                "options of SLURM without a job for SLURM", remedy="add --launch slurm"
            )
        if self.resume is None:
            if self.recipe is None or self.data is None or self.out is None:
                raise ConfigError(
                    "training needs a system, --data and --out",
                    remedy="e.g. rhyme train cycle_contrast --data my_videos --out runs/mine",
                )
            return
        given = [self.recipe, self.data, self.out, self.init, self.seed]
        given += ["options of the data"] if self.reading != api.DataOptions() else []
        given = [value for value in given if value is not None]
        if given:
            raise ConfigError(
                "a resumed run keeps its recipe, its data and its folder",
                value=given[0],
                remedy=f"write only: rhyme train --resume {self.resume}",
            )


def _answer(done: api.Trained | api.Submitted) -> Answer | None:
    """What the leader says; None on every other rank."""
    if follower():
        return None
    if isinstance(done, api.Submitted):
        lines = [
            f"job {done.job} trains {done.path} on {done.ranks} ranks",
            f"logs: {done.logs}",
            "it is saved and queued again when its time is up",
        ]
        return Answer(document=done, show=lines)
    lines = [
        f"{done.path}: {done.system}, {done.steps} steps in {done.seconds:.0f} s, "
        f"loss {done.loss:.4g}",
        f"encoder: {done.encoder}",
        f"judge it: rhyme evaluate {quote(str(done.path))}{_on_what(done)}",
    ]
    if done.quarantined:
        lines.append(f"{done.quarantined} files were left out: see {done.path}/events.jsonl")
    if done.damaged:
        lines.append(
            f"damaged files: {done.damaged}; others took their place, see {done.path}/events.jsonl"
        )
    if done.left_out:
        listed = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items())
        lines.append(f"items left out: {listed}; see {done.path}/events.jsonl")
    # Torchrun takes every code but 0 for a rank that has failed.
    left_out = (done.quarantined or done.damaged) and not in_a_group()
    return Answer(document=done, show=lines, exit_code=3 if left_out else 0)


def _on_what(done: api.Trained) -> str:
    """The rest of the command that judges a run: the data, where it held nothing out itself."""
    return "" if done.held_out else " --data FOLDER  # videos that it never saw: none are held out"


@dataclass(kw_only=True)
class Evaluate(Common):
    """Judge a run's encoder beside the untrained one, on groups that it never saw.

    Settings of a protocol are dotted: --finetune.epochs 10 --linear_sgd.lr "[0.03, 0.1, 0.3]".

    Example: rhyme evaluate runs/mine --protocol knn,linear,semi_supervised

    Example: rhyme evaluate runs/mine --labels labels.csv --label-column action

    Example: rhyme evaluate runs/mine --protocol finetune --finetune.preset dual

    Example: rhyme evaluate --encoder torchvision:resnet50 --weights resnet50.pth --data my_videos
    """

    takes_overrides: ClassVar[bool] = True
    nested: ClassVar[tuple[str, ...]] = ("reading",)
    listed: ClassVar[tuple[str, ...]] = ("--protocol", "--heads", "--untrained-seeds")

    run: Run = None
    """Run folder, or an encoder package; none where --encoder is given."""

    data: Data | None = None
    """A folder or catalog; by default the data of the run with its split."""

    shelf: Shelf = field(default_factory=api.OffTheShelf)

    results: Path | None = None
    """File to append the rows to besides, for rhyme compare."""

    protocol: str = "knn,linear,retrieval,cycle"
    """Protocols, separated by commas: knn, linear, linear_stored, transfer, retrieval and cycle
    work on features; cells, correspondence and propagation on places of frames, segments on clips;
    linear_sgd, finetune, semi_supervised and segmentation train and take longer."""

    heads: str = ""
    """Heads of the encoder behind which to measure protocols on features too, or named parts of its
    feature, separated by commas, e.g. z of SimCLR, or stationary,non_stationary of LSFD."""

    frames: int = 4
    """Frames of each item (clips, for an encoder of clips), equally spaced."""

    clips: str | None = None
    """Instead of --frames, clips by a published rule: linspace10 (any number),
    linspace10-stride1, half-overlap or tiled+last; an item is the mean of its clips. For protocols
    on features, and linear_sgd, finetune and semi_supervised."""

    short: Literal["clamp", "repeat-first", "loop"] | None = None
    """What becomes of videos shorter than a clip; by default what the rule's own code does."""

    seen: Literal["error", "drop", "allow"] = "error"
    """Test groups that the encoder was trained on: refuse to judge, leave them out, or judge all
    the same, where other files only bear the same names."""

    seed: int = 0
    """Seed of all that is drawn: splits, queries, cells, crops, orders, a classifier's weights."""

    untrained_seeds: str = "0,1,2"
    """Seeds of the fresh weights of the untrained encoders, separated by commas; none for none."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    workers: int = 0
    """Processes that decode."""

    reading: HowToRead = field(default_factory=api.DataOptions)

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Answer:
        settings: dict[str, dict[str, Any]] = {}
        for option, value in (overrides or {}).items():
            protocol, _, name = option.partition(".")
            settings.setdefault(protocol, {})[name] = value
        done = api.evaluate(
            api.run_or_shelf(self.run, self.shelf),
            self.data,
            protocols=tuple(p.strip() for p in self.protocol.split(",") if p.strip()),
            settings=settings,
            heads=tuple(h.strip() for h in self.heads.split(",") if h.strip()),
            frames_per_item=self.frames,
            clips=self.clips,
            short=self.short,
            untrained_seeds=_seeds(self.untrained_seeds),
            seen=self.seen,
            seed=self.seed,
            device=self.device,
            workers=self.workers,
            options=self.reading,
            results=self.results,
        )
        if not done.results:
            raise EvaluationError(
                "nothing was measured: "
                + "; ".join(f"{name}: {reason}" for name, reason in done.skipped.items()),
                stage="evaluate",
                remedy="choose a protocol that encoder and data can serve (--protocol), or give "
                "the labels that are missing (--labels FILE.csv)",
            )
        shown: list[Any] = [*done.notes, table(done.columns, done.rows)]
        code = 1 if done.unsaved else 3 if done.quarantined else 0
        return Answer(document=done, show=shown, exit_code=code)


def _seeds(text: str) -> tuple[int, ...]:
    """Seeds from a list with commas; ``none`` gives none.

    Raises:
        ConfigError: with what is no seed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if [word.lower() for word in words] == ["none"]:
        return ()
    wrong = next((word for word in words if not (word.isascii() and word.isdecimal())), None)
    if wrong is not None or not words:
        raise ConfigError(
            "the untrained encoders' seeds must be whole numbers from 0",
            stage="command line",
            value=text if wrong is None else wrong,
            remedy="e.g. --untrained-seeds 0,1,2, or --untrained-seeds none",
        )
    return tuple(int(word) for word in words)


@dataclass(kw_only=True)
class Compare(Common):
    """Figures of several runs side by side, with spreads over seeds and paired differences.

    Runs that differ in nothing but their seed are one arm; arms of one system are called by the
    options, or the data trained on, in which they differ.

    Example: rhyme compare runs/moco-0 runs/moco-1 runs/cycle-0 runs/cycle-1 --baseline moco
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Run folders that were evaluated, or files of result rows."""

    baseline: str | None = None
    """Arm that all others are compared with, as the table calls it; each arm's own untrained
    encoder by default."""

    def __call__(self) -> Answer:
        done = api.compare(self.runs, baseline=self.baseline)
        return Answer(document=done, show=[table(done.columns, done.rows), *done.notes])
