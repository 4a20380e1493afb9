"""``torch.compile`` of the backbones, only within a step, and only where it pays.

Compiled and eager forward passes are exchanged on the instances, so names in state dicts stay, and
probes, exports and everything else outside of the step stay eager. Under ``auto`` the run measures
for itself: its steps are eager and compiled in turn, and after some of both the faster way is
taken. All of them are ordinary training steps. Building the graphs is not counted.

A graph is built in the first call. Where that fails, for want of a C++ compiler or otherwise, the
call is repeated without it and the run goes on eagerly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any, Literal

import torch

from rhyme import distributed
from rhyme.encoders import Backbone
from rhyme.systems.base import System
from rhyme.training.log import EventLog

CompileMode = Literal["off", "on", "auto"]
MEASURED = 5  # steps of each way that are compared
KEEP = 0.95  # least speed, as a share of the eager one, at which graphs are kept


class Compiler:
    """Decides for each step whether its backbones are compiled.

    Args:
        system: its backbones are meant, momentum copies too.
        mode: ``"off"``, ``"on"`` or ``"auto"``.
        log: takes the event of the decision.
        tell: shows a line to the user.
    """

    def __init__(
        self, system: System, mode: CompileMode, log: EventLog, tell: Callable[[str], None]
    ) -> None:
        self.mode, self.log, self.tell = mode, log, tell
        self.backbones = [m for m in system.modules() if isinstance(m, Backbone)]
        self.choice: Literal["eager", "compiled"] | None = None
        if mode != "auto" or not self.backbones:
            self.choice = "compiled" if mode == "on" and self.backbones else "eager"
        self.failure: str | None = None
        self.seen = 0  # steps begun
        self.times: dict[str, list[float]] = {"eager": [], "compiled": []}
        self._entered: set[str] = set()  # ways gone by this process; the first time is not counted
        self._step: int | None = None
        self._way, self._spent = "eager", 0.0
        self._compiled: list[Callable[..., Any]] = []

    @contextmanager
    def step(self, number: int) -> Generator[None]:
        """Around the passes of an optimiser step that belongs to step ``number`` of the loop."""
        if self.mode == "off":
            yield
            return
        if number != self._step:
            self._close()
            self._step, self._spent = number, 0.0
            # In turn, by their number: a resumed run goes on with the same way.
            self._way = self.choice or ("compiled" if self.seen % 2 else "eager")
            self.seen += 1
        began = self._clock()
        with self._swapped(self._way == "compiled"):
            yield
        self._spent += self._clock() - began

    def _clock(self) -> float:
        if self.choice is None and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def _swapped(self, on: bool) -> Generator[None]:
        """The backbones with compiled forward passes."""
        if not on or self.failure is not None:
            yield
            return
        if not self._compiled:
            self.tell("building the graphs of train.compile, which may take minutes ...")
            self._compiled = [self._guarded(backbone) for backbone in self.backbones]
        for backbone, forward in zip(self.backbones, self._compiled, strict=True):
            vars(backbone)["forward"] = forward
        try:
            yield
        finally:
            for backbone in self.backbones:
                del vars(backbone)["forward"]

    def _guarded(self, backbone: Backbone) -> Callable[..., Any]:
        """The compiled forward pass of a backbone; the eager one once a graph has failed."""
        eager, compiled = backbone.forward, None

        def forward(*inputs: Any, **options: Any) -> Any:
            nonlocal compiled
            if self.failure is None:
                built = "compiled" in self._entered
                before = () if built else [buffer.clone() for buffer in backbone.buffers()]
                try:
                    # Sizes are the same in every step: no graph for sizes that vary.
                    compiled = compiled or torch.compile(eager, dynamic=False)
                    return compiled(*inputs, **options)
                except Exception as error:  # whatever it is, the eager pass decides
                    self.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    for buffer, value in zip(backbone.buffers(), before, strict=False):
                        buffer.copy_(value)
            return eager(*inputs, **options)

        return forward

    def _close(self) -> None:
        """Learn from the step that is done."""
        if self._step is None or self.choice == "eager":
            return
        first = self._way not in self._entered
        self._entered.add(self._way)
        if first and self._way == "compiled" and distributed.agree(self.failure is not None):
            self.failure = self.failure or "on another rank"
            self._decide("eager", reason=self.failure)
        elif self.choice is None and not first:
            self.times[self._way].append(self._spent)
            if min(map(len, self.times.values())) >= MEASURED:
                self._compare()

    def _compare(self) -> None:
        eager, compiled = (median(self.times[way]) for way in ("eager", "compiled"))
        ratio = eager / max(compiled, 1e-9)
        slower = distributed.agree(ratio < KEEP)
        self._decide(
            "eager" if slower else "compiled",
            speed=round(ratio, 3),
            eager_s=round(eager, 5),
            compiled_s=round(compiled, 5),
        )

    def _decide(self, choice: Literal["eager", "compiled"], **facts: Any) -> None:
        self.choice = choice
        why = f"{facts['speed']} of the eager speed" if "speed" in facts else facts["reason"]
        self.tell(f"train.compile={self.mode}: {'on' if choice == 'compiled' else 'off'} ({why})")
        if distributed.rank() == 0:
            self.log.event("compile", choice=choice, step=self._step, **facts)

    def state_dict(self) -> dict[str, Any]:
        """The choice, or what is known for it."""
        if self.mode == "off":
            return {}
        if self.choice is not None:
            return {"choice": self.choice}
        return {
            "choice": None,
            "seen": self.seen,
            "times": {k: list(v) for k, v in self.times.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as before: in the way chosen, or measuring."""
        self.choice = state.get("choice", self.choice)
        self.seen = state.get("seen", self.seen)
        self.times = {k: list(v) for k, v in state.get("times", self.times).items()}
        self._step = None
