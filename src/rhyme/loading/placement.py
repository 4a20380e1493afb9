"""Where the views of a batch are made: beside the decoding, or at once on the training device.

Both work from the same draws. On a CPU run the workers do it, always, unless told otherwise. On a
GPU run ``"auto"`` tries one and the other in turns, and keeps what gives more batches a second; a
batch goes over, and gets its views, while the step on the one before it is still running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch

from rhyme import distributed
from rhyme.errors import ConfigError
from rhyme.loading.batch import Batch
from rhyme.views import ClipPixels, Draws, ViewPlan

__all__ = ["Augment", "Finisher", "Placement", "Raw", "Where", "finish"]

Augment = Literal["auto", "cpu", "device"]
Where = Literal["cpu", "device"]

_TURNS: tuple[Where, Where, Where, Where] = ("cpu", "device", "cpu", "device")
_BATCHES = 16  # measured in each turn
_SETTLE = 2  # left out after each change, beside those that were read ahead
_MARGIN = 1.03  # a device that gains less leaves the views to the CPU, whose bits are promised


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Decoded frames and draws of a batch whose views are still to be made.

    Attributes:
        pixels: frames by clip, as bytes.
        draws: what was drawn for the items.
    """

    pixels: Mapping[str, ClipPixels]
    draws: Draws


def finish(batch: Batch, raw: Raw | None, plan: ViewPlan, device: torch.device) -> Batch:
    """The batch with its views, made at once on the device where they are not there yet."""
    if raw is None:
        return batch
    return replace(batch, views=plan.apply(raw.pixels, raw.draws, device))


class Finisher:
    """Finishes batches, on a GPU beside the consumer's own work.

    There a thread launches what makes the views, on the stream of the consumer, so that the order
    of the launches is all the order that is needed. A step that waits for its own launches, as
    those of small encoders do, hides them.

    Args:
        plan: the views.
        device: where training computes.
        beside: use a thread; by default on a GPU.

    Attributes:
        ahead: batches to be given before the first is asked back.
    """

    def __init__(self, plan: ViewPlan, device: torch.device, *, beside: bool | None = None) -> None:
        self._plan, self._device = plan, device
        beside = device.type == "cuda" if beside is None else beside
        self._thread = ThreadPoolExecutor(1, "views") if beside else None
        self.ahead = 2 if beside else 1

    def close(self) -> None:
        """Wait for what is being made, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def start(self, batch: Batch, raw: Raw | None) -> Future[Batch]:
        """Begin with a batch; without a thread it is finished at once."""
        if self._thread is not None:
            return self._thread.submit(self._over, batch, raw)
        done: Future[Batch] = Future()
        done.set_result(finish(batch, raw, self._plan, self._device))
        return done

    def _over(self, batch: Batch, raw: Raw | None) -> Batch:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread begins on the first one
        return finish(batch, raw, self._plan, self._device).to(self._device)


class Placement:
    """Decides for each batch where its views are made.

    Args:
        augment: ``"cpu"``, ``"device"``, or ``"auto"`` to measure.
        device: where training computes.
        tell: told of the choice with the figures behind it.
        clock: seconds.

    Attributes:
        decided: what was chosen by measuring; None so far.
        ahead: batches that may be read ahead at most; the same on all ranks.

    Raises:
        ConfigError: another word.
    """

    def __init__(
        self,
        augment: Augment,
        device: torch.device,
        *,
        tell: Callable[[Mapping[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if augment not in ("auto", "cpu", "device"):
            raise ConfigError(
                "unknown place for the augmentation",
                stage="loading",
                value=augment,
                remedy="choose cpu, device or auto",
            )
        self.augment, self.device = augment, device
        self.decided: Where | None = None
        self.ahead = 0
        self._tell, self._clock = tell, clock
        self._turn = self._seen = 0
        self._last: float | None = None
        self._taken: list[list[tuple[float, float]]] = [[] for _ in _TURNS]

    @property
    def where(self) -> Where:
        """Where the views of a batch that is asked for now are to be made."""
        if self.augment == "device":
            return "device"
        if self.augment == "cpu" or self.device.type == "cpu":
            return "cpu"
        return self.decided or _TURNS[self._turn]

    def reopen(self) -> None:
        """A new pass over the source begins: the time since the last batch means nothing."""
        self._last, self._seen = None, 0

    def handed_out(self, waited: float) -> None:
        """Note that a batch is ready.

        The choice falls at a number of batches that depends on `ahead` alone. How many are really
        read ahead, and so which come from before a change, differs from rank to rank with the
        memory that each has; but they choose together, and a rank alone would wait for ever.

        Args:
            waited: seconds that the consumer waited for it.
        """
        if self.augment != "auto" or self.device.type == "cpu" or self.decided is not None:
            return
        now, last = self._clock(), self._last
        self._last = now
        self._seen += 1
        if last is None or self._seen <= self.ahead + _SETTLE:
            return
        taken = self._taken[self._turn]
        taken.append((now - last, waited))
        if len(taken) == _BATCHES:
            # Below 0 are those that may have been asked for before the change.
            self._turn, self._seen = self._turn + 1, -self.ahead
            if self._turn == len(_TURNS):
                self._decide()

    def _decide(self) -> None:
        figures: dict[str, float] = {}
        for where in ("cpu", "device"):
            turns = [t for t, name in zip(self._taken, _TURNS, strict=True) if name == where]
            # The better of two turns: a checkpoint or a probe may have fallen into the other.
            best = min(turns, key=lambda turn: fmean(seconds for seconds, _ in turn))
            figures[f"{where}_seconds"] = fmean(seconds for seconds, _ in best)
            figures[f"{where}_wait"] = fmean(waited for _, waited in best)
        gains = figures["cpu_seconds"] > _MARGIN * figures["device_seconds"]
        self.decided = distributed.broadcast_object("device" if gains else "cpu")
        if self._tell is not None and distributed.rank() == 0:
            rounded = {name: round(value, 6) for name, value in figures.items()}
            self._tell({"chosen": self.decided, **rounded})
