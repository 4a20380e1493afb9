"""torch.compile within the step: measured, kept only where it pays, given up where it fails."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.encoders import Backbone, build_backbone, in_parts, norm
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import TrainConfig
from rhyme.training.compiling import MEASURED, Compiler
from rhyme.training.stepper import Stepper
from support.tiny_systems import at, build_tiny, make_batch

DECIDED = 2 * MEASURED + 3  # one step of each way warms up; the next one after the last decides
real_compile = torch.compile


class Clock:
    """A clock that goes by passes of backbones, 1 second each; compiled ones take ``compiled``."""

    def __init__(self, monkeypatch, compiled: float = 0.5) -> None:
        self.now, self.compiled, self.built = 0.0, compiled, 0
        monkeypatch.setattr(torch, "compile", self.compile)
        monkeypatch.setattr(Compiler, "_clock", lambda compiler: self.now)

    def compile(self, eager, **options):
        self.built += 1

        def run(*inputs, **keywords):
            self.now += self.compiled - 1
            return eager(*inputs, **keywords)

        return run

    def watch(self, system) -> None:
        for module in system.modules():
            if isinstance(module, Backbone):
                module.register_forward_pre_hook(self.tick)

    def tick(self, *call) -> None:
        self.now += 1


class Play:
    """Steps of a tiny MoCo."""

    def __init__(self, mode: str, folder: Path, clock: Clock | None = None, **options) -> None:
        config = TrainConfig(steps=40, batch_size=6, compile=mode, **options)
        folder.mkdir(parents=True)
        self.run = RunFolder.create(folder / "run", config)
        self.system = build_tiny("moco", dtype=torch.float32)
        self.said: list[str] = []
        self.stepper = Stepper(self.system, config, self.run, self.said.append)
        if clock is not None:
            clock.watch(self.system)

    def steps(self, count: int, start: int = 0) -> dict[str, torch.Tensor]:
        (phase,) = self.stepper.phases()
        for step in range(start, start + count):
            batch = make_batch(seed=step, dtype=torch.float32)
            self.stepper.step(batch, phase, at(step), {"all": 0.1})
        return {name: value.clone() for name, value in self.system.state_dict().items()}

    @property
    def choice(self) -> str | None:
        return self.stepper.compiler.choice

    @property
    def events(self) -> list[dict]:
        return [e for e in read_jsonl(self.run.events) if e["event"] == "compile"]


@pytest.mark.parametrize(
    ("seconds", "choice", "speed"), [(0.5, "compiled", 2.0), (1.04, "compiled", 0.962),
                                     (1.1, "eager", 0.909)]
)  # fmt: skip
def test_auto_measures_and_takes_the_faster_way(monkeypatch, tmp_path, seconds, choice, speed):
    clock = Clock(monkeypatch, seconds)
    play = Play("auto", tmp_path / "a", clock)
    play.steps(DECIDED - 1)
    assert play.choice is None
    play.steps(1, DECIDED - 1)
    assert play.choice == choice
    (event,) = play.events
    assert (event["choice"], event["speed"]) == (choice, speed)
    assert f"{speed} of the eager speed" in play.said[-1]
    assert clock.built == 2, "the online backbone and the copy, once each"
    before = clock.now
    play.steps(1, DECIDED)
    assert clock.now - before == pytest.approx(2 * (seconds if choice == "compiled" else 1))


def test_all_measured_steps_are_training_steps(monkeypatch, tmp_path):
    Clock(monkeypatch)
    eager = Play("off", tmp_path / "off").steps(DECIDED + 1)
    auto = Play("auto", tmp_path / "auto").steps(DECIDED + 1)
    assert eager.keys() == auto.keys(), "names in the state stay"
    assert all(torch.equal(auto[name], value) for name, value in eager.items())


def test_outside_of_a_step_everything_is_eager(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    play = Play("on", tmp_path / "on", clock)
    play.steps(2)
    before = clock.now
    play.system.encoders.online(torch.randn(2, 3, 12, 12))
    assert clock.now - before == 1
    assert play.choice == "compiled"
    assert clock.built == 2


@pytest.mark.parametrize("late", [False, True])
def test_a_graph_that_fails_falls_back_and_says_so(monkeypatch, tmp_path, late):
    def compile(eager, **options):  # noqa: A001
        def run(*inputs, **keywords):
            if late:  # a part of the graph has run and moved the statistics
                eager(*inputs, **keywords)
            raise RuntimeError("no C++ compiler\nand more")

        return run

    eager = Play("off", tmp_path / "off").steps(4)
    monkeypatch.setattr(torch, "compile", compile)
    for mode in ("on", "auto"):
        play = Play(mode, tmp_path / mode)
        found = play.steps(4)
        assert all(torch.equal(found[name], value) for name, value in eager.items())
        assert play.choice == "eager"
        assert play.events[0]["reason"] == "RuntimeError: no C++ compiler"
        assert "off (RuntimeError: no C++ compiler)" in play.said[-1]


def test_a_resumed_run_goes_on_in_the_way_chosen(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    first = Play("auto", tmp_path / "a", clock)
    first.steps(6)
    saved = first.stepper.state_dict()
    assert saved["compile"]["choice"] is None
    again = Play("auto", tmp_path / "b", clock)
    again.stepper.load_state_dict(saved)
    again.steps(DECIDED, 6)
    assert again.choice == "compiled"
    third = Play("auto", tmp_path / "c", clock)
    third.stepper.load_state_dict(again.stepper.state_dict())
    before = clock.now
    third.steps(1, 30)
    assert clock.now - before == pytest.approx(1.0), "no eager step, and none is measured"


@pytest.mark.parametrize(("name", "groups"), [("small", 1), ("small", 4), ("resnet18", 4)])
def test_backbones_are_one_graph(name, groups, monkeypatch):
    torch._dynamo.reset()
    # exact: two values a channel and group, as the last maps have here, magnify what is rounded
    backbone = build_backbone(name, norm_groups=groups, seed=0).train().double()
    graph = real_compile(backbone.forward, backend="eager", fullgraph=True, dynamic=False)
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    before = {n: v.clone() for n, v in backbone.state_dict().items()}
    plain = backbone(x).pooled
    after = {n: v.clone() for n, v in backbone.state_dict().items()}
    backbone.load_state_dict(before)
    monkeypatch.setattr(norm, "by_turns", None)  # a graph has groups spelt out
    torch.testing.assert_close(graph(x).pooled, plain)
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, after[key])
    if groups == 4 and name == "small":
        parts = in_parts(backbone, 2, lambda i: graph(x.chunk(2)[i]).pooled)
        torch.testing.assert_close(torch.cat(parts), plain)


@pytest.mark.slow
def test_inductor_trains_like_eager(tmp_path, monkeypatch):
    """With a C++ compiler it compiles, without one it falls back: equal up to rounding."""
    torch._dynamo.reset()
    eager = Play("off", tmp_path / "off").steps(2)
    found = Play("on", tmp_path / "on").steps(2)
    for name, value in eager.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def fails_on_the_last_rank(folder: str) -> tuple[str | None, list[str]]:
    last = distributed.rank() == distributed.world_size() - 1

    def compile(eager, **options):  # noqa: A001
        def run(*inputs, **keywords):
            if last:
                raise RuntimeError("only here")
            return eager(*inputs, **keywords)

        return run

    torch.compile = compile  # type: ignore[assignment]
    try:
        play = Play("on", Path(folder) / str(distributed.rank()))
        play.steps(3)
    finally:
        torch.compile = real_compile
    return play.choice, play.said


def test_ranks_agree_to_fall_back():
    with tempfile.TemporaryDirectory() as folder:
        (one, said), (two, _) = run_on_ranks(fails_on_the_last_rank, 2, folder)
    assert (one, two) == ("eager", "eager")
    assert "on another rank" in said[-1]
