from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from rhyme.report import Frame, ReportData, Rhyme, RunFacts, Strip

VOID = {"meta", "link", "img", "br", "hr", "input"}
SELF_CLOSING_SVG = {"path", "circle", "line"}


class Page(HTMLParser):
    """Reads a page: checks that elements nest, and keeps what tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == [], f"elements left open: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSING_SVG, f"<{tag}/> is no empty element"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> out of place"

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page() -> Callable[[str], Page]:
    return Page


def frame(seed: int, size: int = 64, **facts: Any) -> Frame:
    """Noise on a ramp: harder to compress than footage."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, size)[:, None, None] * rng.random(3)
    pixels = (ramp + rng.integers(0, 55, (size, size, 3))).astype(np.uint8)
    known: dict[str, Any] = {"file": f"clips/v{seed:03d}.mp4", "time": 0.5, "group": f"g{seed}"}
    return Frame(pixels=pixels, **{**known, **facts})


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    return frame


def rhyme(seed: int, returned: bool, size: int = 64) -> Rhyme:
    home = frame(seed + 1, size, group=f"g{seed}" if returned else "elsewhere")
    return Rhyme(
        query=frame(seed, size, label="disc"),
        neighbours=[(frame(seed + 10 + k, size), 0.4 / 2**k) for k in range(5)],
        returns=[(home, 0.9), (frame(seed + 21, size), 0.8)],
        returned=returned,
        entropy=2.0,
        support=512,
    )


@pytest.fixture
def make_rhyme() -> Callable[..., Rhyme]:
    return rhyme


def metric_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "step": 10 * k,
            "epoch": k // 10,
            "loss": 5.0 / (k + 1),
            "parts": {"intra": 3.0 / (k + 1), "cycle": 2.0 / (k + 1)},
            "diagnostics": {"intra/positive_cosine": 0.8, "cycle/entropy": 4.0},
            "monitors": {"std/m": 0.9, "rank/m": 20.0},
            "lr": 0.03,
            "items_per_s": 400.0,
            "wait_share": 0.02,
        }
        for k in range(count)
    ]


@pytest.fixture
def make_metrics() -> Callable[[int], list[dict[str, Any]]]:
    return metric_rows


def result(value: Any, encoder: str = "trained", seed: int = 0, **facts: Any) -> dict[str, Any]:
    row = {"protocol": "knn", "metric": "top1", "settings": {"k": 20}, "items": 120}
    return {**row, "value": value, "encoder": encoder, "seed": seed, **facts}


@pytest.fixture
def make_result() -> Callable[..., dict[str, Any]]:
    return result


@pytest.fixture
def full() -> ReportData:
    """A report with something in every section."""
    strips = [
        Strip(
            query=frame(50 + k, label="disc"),
            hits=[frame(60 + j, score=0.9 - 0.1 * j, same_class=j % 2 == 0) for j in range(4)],
        )
        for k in range(2)
    ]
    results = [result(0.6)] + [result(0.3 + 0.02 * k, "untrained", k) for k in range(3)]
    return ReportData(
        system="cycle_contrast",
        system_title="CycleContrast",
        run="runs/a",
        facts=RunFacts(
            data="world",
            data_fingerprint="9f2c41",
            items=120,
            groups=30,
            seed=7,
            steps=400,
            seconds=75.2,
            device="cpu",
            versions={"torch": "2.11.0"},
            commit="abc1234",
            command="rhyme train cycle_contrast --data world",
            package_hash="ab" * 32,
        ),
        config="system: cycle_contrast\ntrain:\n  steps: 400\n",
        metrics=metric_rows(40),
        results=results,
        rhymes=[rhyme(100 * k, returned=k != 1) for k in range(3)],
        rhymes_measured=(70, 100),
        strips=strips,
        notes=["3 files were quarantined."],
        events=[{"time": "2026-01-02T03:04:05+0100", "event": "started", "step": 0}],
    )
