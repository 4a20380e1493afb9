"""Training on all labels with several settings, of which the validation items choose one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from rhyme.encoders import EncoderPackage
from rhyme.errors import ConfigError
from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.pixels import Pixels, Testing, tuned
from rhyme.evaluation.protocol import Metric
from rhyme.tasks import Aggregate, Tuning
from rhyme.tasks.finetune import Crop, Schedule
from rhyme.views import ShortVideo


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings of a protocol that tries several learning rates and decays.

    Those that :class:`~rhyme.tasks.Tuning` has too mean what they mean there.

    Attributes:
        preset: name of the published settings that the others start from.
        epochs: passes over the labelled training items.
        steps: steps of the whole training instead of epochs; 0 for ``epochs`` passes.
        batch_size: items of a batch.
        lr: learning rates for a batch of ``lr_batch`` to choose from, on the validation items.
        lr_batch: the batch that they are meant for.
        weight_decay: L2 terms to choose from.
        refit: rows of the final training, ``"train"`` or ``"train+val"``. With one rate and one
            decay it is the only one; of several the chosen one is trained once more on both.
        decay_by_lr: divide each of them by its learning rate.
        nesterov: Nesterov's momentum.
        schedule: ``"cosine"``, ``"step"`` or ``"plateau"``.
        milestones: epochs of the steps.
        patience: epochs without gain before a step, for ``"plateau"``.
        frames: frames of a clip; 0 takes the encoder's plan.
        stride: native frames between them; 0 takes the encoder's plan.
        crop: ``"box"`` or ``"window"``.
        scale: bounds of a crop's share of the frame's area.
        flip: probability of a horizontal flip.
        jitter: probability of colour jitter.
        strength: of the jitter.
        unit: scale features to length 1.
        norm: batch norm before the linear layer.
        clips: rule for the clips of a test video (``rhyme.views.CLIP_RULES``); None takes what the
            evaluation takes.
        short: what becomes of videos shorter than a clip; None takes the rule's own.
        aggregate: what is averaged over the clips: ``"softmax"`` or ``"logits"``.
    """

    preset: str = "image"
    epochs: int
    steps: int = 0
    batch_size: int
    lr: tuple[float, ...]
    lr_batch: int = 256
    weight_decay: tuple[float, ...] = (0.0,)
    refit: Literal["train", "train+val"] = "train"
    decay_by_lr: bool = False
    nesterov: bool = True
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    patience: int = 10
    frames: int = 0
    stride: int = 0
    crop: Crop = "box"
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: float = 0.0
    strength: float = 1.0
    unit: bool = False
    norm: bool = False
    clips: str | None = None
    short: ShortVideo | None = None
    aggregate: Aggregate = "softmax"

    def __post_init__(self) -> None:
        check_above_zero(self, "lr")
        check_least(self, weight_decay=0)
        _ = self.tunings(frozen=True)  # what does not go together is refused there
        _ = self.testing

    @property
    def testing(self) -> Testing:
        """The clips of a test video."""
        return Testing(clips=self.clips, short=self.short)

    def tunings(self, *, frozen: bool) -> list[Tuning]:
        """Every setting that is tried."""
        own = {f.name for f in fields(self)} - {"lr", "weight_decay"}
        shared: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(Tuning) if f.name in own
        }
        base = Tuning(**shared, frozen=frozen)
        return [
            replace(base, lr=lr, weight_decay=decay / lr if self.decay_by_lr else decay)
            for lr in self.lr
            for decay in self.weight_decay
        ]


def grid_check(package: EncoderPackage, settings: Grid, options: str) -> None:
    """Whether clips and crops of the settings go with an encoder's plan.

    Args:
        package: the encoder.
        settings: what is tried.
        options: what stands before the names of the user's options.

    Raises:
        ConfigError: they do not, naming the protocol.
    """
    try:
        for tuning in settings.tunings(frozen=True):
            tuning.views(package.plan)
            settings.testing.sampling(tuning.plan(package.plan))
    except ConfigError as error:
        error.stage = f"settings {options}*"
        raise


def top1_of_grid(pixels: Pixels, grid: Grid, *, frozen: bool) -> list[Metric]:
    """``top1`` of the test items, with the setting that is best on the validation items.

    Args:
        pixels: labelled items and the encoder.
        grid: what to try.
        frozen: train the classifier alone.
    """
    tunings = grid.tunings(frozen=frozen)
    found = tuned(
        pixels,
        pixels.rows["train"],
        tunings,
        testing=grid.testing,
        also=pixels.rows["val"] if grid.refit == "train+val" else None,
    )
    return [
        Metric(
            name="top1",
            value=found.accuracy,
            items=found.items,
            chance=found.chance,
            details=found.details,
            notes=found.notes,
        )
    ]
