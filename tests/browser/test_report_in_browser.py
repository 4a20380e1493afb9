from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.pictures_docs import LIMIT_BYTES, PHONE, WIDE, cut
from rhyme.report import (
    ClassShare,
    EmbeddingMaps,
    FeatureMap,
    Frame,
    ReportData,
    Rhyme,
    RunFacts,
    Strip,
    write_report,
    write_runs_report,
)

LONG = "a_very_long_name_without_any_place_to_break_" * 4
WIDTHS = (360, PHONE[0], 480, 641, 768, 821, 1024, 1280)


def frame(seed: int, height: int = 48, width: int = 64, **facts: Any) -> Frame:
    rng = np.random.default_rng(seed)
    low, high = rng.integers(0, 255, (2, 3))
    ramp = np.linspace(0, 1, width)[None, :, None]
    pixels = np.broadcast_to(low + (high - low) * ramp, (height, width, 3)).astype(np.uint8)
    return Frame(pixels=pixels, file=f"clips/{seed}.mp4", time=1.0, group=seed, **facts)


def rhyme(seed: int, returned: bool) -> Rhyme:
    return Rhyme(
        query=frame(seed, label="disc"),
        neighbours=[(frame(seed + k, label="ring"), 0.5 / 2**k) for k in range(1, 7)],
        returns=[(frame(seed + 20 + k, height=96), 0.9 - 0.1 * k) for k in range(3)],
        returned=returned,
        entropy=2.5,
        support=300,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = [
        {
            "protocol": p,
            "metric": m,
            "value": v - 0.2 * k,
            "encoder": e,
            "seed": s,
            "items": 90,
            "chance": 0.1,
        }
        for p, m, v in (
            ("knn", "top1", 0.6),
            ("retrieval", LONG, 0.5),
            ("cycle", "return_rate", 0.7),
        )
        for k, e in enumerate(("trained", "untrained", "imagenet", LONG))
        for s in range(2)
    ]
    metrics = [
        {
            "step": 10 * k,
            "loss": 4 * math.exp(-k / 50) + 0.1 * math.sin(k),
            "parts": {"intra": 1.0 + math.exp(-k / 60), LONG: 0.5},
            "diagnostics": {"entropy": 3.0 + math.cos(k / 9)},
            "lr": 0.03,
        }
        for k in range(200)
    ]
    cloud = np.random.default_rng(0).normal(size=(120, 2))
    data = ReportData(
        system="cycle_contrast",
        system_title="CycleContrast",
        facts=RunFacts(data=LONG, items=90, groups=30, command=LONG, package_hash="ab" * 32),
        config=f"system: cycle_contrast\ndata: {LONG}\n",
        metrics=metrics,
        results=results,
        rhymes=[rhyme(40 * k, returned=k % 3 != 1) for k in range(8)],
        worst=[Strip(query=frame(990), hits=[frame(991, score=0.9, same_class=False)])],
        classes=[ClassShare(name=LONG, queries=9, trained=0.1, untrained=0.2, chance=0.1)],
        classes_k=5,
        maps=EmbeddingMaps(
            maps=[
                FeatureMap(name=name, points=cloud, kept=0.9, faithful=0.9, same_class=0.5)
                for name in ("Trained", "Untrained")
            ],
            labels=[LONG if k % 5 == 0 else f"class {k % 9}" for k in range(len(cloud))],
            videos=60,
            components=50,
            perplexity=30,
            seed=0,
        ),
        strips=[
            Strip(
                query=frame(900 + k, label=LONG),
                hits=[frame(910 + j, score=0.9, same_class=j % 2 == 0) for j in range(8)],
            )
            for k in range(2)
        ],
        notes=[LONG],
        events=[{"time": 0, "event": "started", "command": LONG}],
    )
    folder = tmp_path_factory.mktemp("report")
    write_report(dataclasses.replace(data, metrics=(), results=()), folder / "empty.html")
    runs = [
        dataclasses.replace(
            data,
            system_title=title,
            facts=dataclasses.replace(data.facts, seed=seed),
            config=f"train:\n  seed: {seed}\nmodel:\n  kind: {title}\n",
            results=[
                {**row, "value": row["value"] + 0.03 * seed * len(title) / 100, "pair": seed}
                for row in results
                if row["seed"] == seed
            ],
        )
        for title in ("CycleContrast", LONG)
        for seed in range(2)
    ]
    write_runs_report(runs, folder / "runs.html")
    return write_report(data, folder / "report.html")


def opened(chromium: Any, path: Path, width: int, scheme: str = "light", **options: Any) -> Any:
    """A page on the file; ``heard`` gathers what the browser complains of or asks for."""
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, **options
    )
    tab = context.new_page()
    tab.set_default_timeout(120_000)  # a busy machine draws slowly
    tab.heard = []
    tab.on("console", lambda message: tab.heard.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: tab.heard.append(f"error: {error}"))
    tab.on("request", lambda request: tab.heard.append(f"request: {request.url[:80]}"))
    tab.goto(path.as_uri())
    return tab


@pytest.mark.parametrize("name", ["report.html", "empty.html", "runs.html"])
def test_nothing_is_fetched_and_nothing_complained_of(
    chromium: Any, report: Path, name: str
) -> None:
    path = report.with_name(name)
    tab = opened(chromium, path, 1280)
    own = f"request: {path.as_uri()}"[:89]
    foreign = [h for h in tab.heard if h != own and not h.startswith("request: data:")]
    assert foreign == []
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert tab.evaluate(loaded)
    tab.context.close()


CUT = """(() => {
  const shown = [...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, .hidden'));
  const beyond = e => {
    const box = e.getBoundingClientRect(), svg = e.closest('svg');
    const clipped = svg && getComputedStyle(svg).overflow !== 'visible';
    const room = clipped ? svg.getBoundingClientRect() : {left: 0, right: innerWidth};
    return box.left < room.left - 1 || box.right > room.right + 1;
  };
  return shown.filter(e => (!e.closest('svg') || e.tagName === 'text') && beyond(e))
    .map(e => e.textContent.slice(0, 60));
})()"""
"""Elements beyond the page, and words beyond their drawing; a table may scroll on its own."""


@pytest.mark.parametrize("name", ["report.html", "runs.html"])
def test_no_width_needs_sideways_scrolling(chromium: Any, report: Path, name: str) -> None:
    tab = opened(chromium, report.with_name(name), 1280)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, width
        assert tab.evaluate(CUT) == [], width
    tab.context.close()


def test_page_reads_without_scripts(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report, 360, java_script_enabled=False)
    assert tab.get_by_role("heading", level=1).is_visible()
    assert tab.get_by_text("came home").first.is_visible()
    config = tab.locator("pre")
    assert not config.is_visible()
    tab.get_by_text("Configuration (config.yaml)").click()
    assert config.is_visible()
    tab.context.close()


def test_table_keeps_its_meaning_on_a_phone(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report, 360)
    assert tab.get_by_role("columnheader").count() >= 5
    assert tab.locator("#evaluation").get_by_role("rowheader").count() == 3
    label = "getComputedStyle(document.querySelector('td'), '::before').content"
    assert tab.evaluate(label) == '"Trained"'
    tab.context.close()


FIGURES = [("knn", "top1"), ("knn", "frame_top1"), *(("cycle", f"rate_{k}") for k in range(9))]


def test_a_phone_shows_the_leading_figures_and_all_at_a_touch(
    chromium: Any, tmp_path: Path
) -> None:
    rows = [
        {"protocol": p, "metric": m, "value": 0.5 - 0.1 * (e == "untrained"), "encoder": e}
        for p, m in FIGURES
        for e in ("trained", "untrained")
    ]
    one, two = (ReportData(system=s, results=rows, run=s) for s in ("moco", "dual"))
    pages = {
        "evaluation": write_report(one, tmp_path / "one.html"),
        "figures": write_runs_report([one, two], tmp_path / "two.html"),
    }
    for section, path in pages.items():
        tab = opened(chromium, path, PHONE[0], java_script_enabled=False)
        lines = tab.locator(f"#{section} tbody tr")
        dots = tab.locator(f"#{section} .plot .dots-name")

        def seen(what: Any) -> int:
            return sum(line.is_visible() for line in what.all())

        assert seen(lines) == 2
        if section == "evaluation":
            assert seen(dots) == 2
        tab.emulate_media(media="print")
        assert seen(lines) == len(FIGURES)
        assert not tab.locator("label.fold").is_visible()
        tab.emulate_media(media="screen")
        tab.get_by_label("Show all 11 figures").check()
        assert seen(lines) == len(FIGURES)
        assert seen(dots) in (0, len(FIGURES))
        tab.set_viewport_size({"width": 1000, "height": 800})
        tab.locator("#all-figures").evaluate("box => box.checked = false")
        assert seen(lines) == len(FIGURES)
        assert not tab.locator("label.fold").is_visible()
        tab.context.close()


@pytest.mark.parametrize("name", ["report.html", "runs.html"])
def test_dark_and_light_follow_the_reader(
    chromium: Any, report: Path, name: str, tmp_path: Path
) -> None:
    for scheme in ("light", "dark"):
        tab = opened(chromium, report.with_name(name), 1280, scheme)
        for width in (1280, PHONE[0]):
            tab.set_viewport_size({"width": width, "height": 800})
            shot = tmp_path / f"{scheme}-{width}.png"
            tab.screenshot(path=shot)
            ground, ink = ground_and_ink(shot)
            if scheme == "light":
                assert ground > 240 > 80 > ink, width
            else:
                assert ground < 40 < 200 < ink, width
            assert inked_to_the_edge(shot) == [], width
        line = tab.evaluate("getComputedStyle(document.querySelector('.line.c1')).stroke")
        assert line == {"light": "rgb(12, 107, 134)", "dark": "rgb(98, 191, 214)"}[scheme]
        tab.context.close()


def inked_to_the_edge(shot: Path) -> list[str]:
    """Sides of a screenshot at which something stands on the outermost four columns."""
    with Image.open(shot) as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    sides = {"left": grey[:, :4], "right": grey[:, -4:]}
    return [side for side, pixels in sides.items() if np.ptp(pixels) > 2]


def ground_and_ink(shot: Path) -> tuple[int, int]:
    """Grey level of a screenshot's background, and of what stands out most from it."""
    with Image.open(shot) as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    ground = int(np.median(grey))
    return ground, int(grey.flat[np.abs(grey - ground).argmax()])


def test_print_is_light_and_shows_what_is_folded(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report, 700, "dark")
    folded = tab.locator("pre")
    assert not folded.is_visible()
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert folded.is_visible()
    pages = tab.pdf(format="A4")
    assert pages.startswith(b"%PDF")
    tab.context.close()


CROSSED = """[...document.querySelectorAll('svg.cycle')].flatMap(drawing => {
  const words = [...drawing.querySelectorAll('text:not(.in)')].map(t => [t, t.getBBox()]);
  return [...drawing.querySelectorAll('.out, .to, .rail')].flatMap(way => {
    const length = way.getTotalLength(), found = [];
    for (let k = 0; k <= 60; k++) {
      const p = way.getPointAtLength(length * k / 60);
      for (const [t, b] of words)
        if (p.x > b.x && p.x < b.x + b.width && p.y > b.y && p.y < b.y + b.height)
          found.push(t.textContent);
    }
    return found;
  });
})"""
"""Words of a cycle's drawing that a line runs through, as this browser's font has them."""


def test_cycles_and_maps_can_be_read_at_every_width(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report, 1280)
    for width in (360, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        box = tab.locator("svg.cycle").first.bounding_box()
        scale = box["width"] / 340
        assert 0.8 < scale < 1.3, width  # its text is 10 units high
        card = tab.locator("#rhymes article").first.bounding_box()
        assert box["x"] >= card["x"]
        assert box["x"] + box["width"] <= card["x"] + card["width"]
        sheets = [sheet.bounding_box() for sheet in tab.locator("svg.scatter").all()]
        assert all(sheet["width"] > 250 for sheet in sheets)
        assert tab.evaluate(CROSSED) == [], width
        # Beside each other where there is room, else below each other.
        assert (sheets[0]["y"] == sheets[1]["y"]) == (width > 1000)
    tab.context.close()


def test_outcomes_differ_without_colour(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report, 1280)
    style = "getComputedStyle(document.querySelector('{}')).strokeDasharray"
    ways = [tab.evaluate(style.format(f".to.{kind}")) for kind in ("right", "wrong")]
    assert ways[0] != ways[1]
    assert "none" not in ways
    assert tab.get_by_role("img", name="came home").count() >= 1
    assert tab.get_by_role("img", name="went astray").count() >= 1
    tab.context.close()


def test_drawings_stand_out_in_both_schemes_and_in_print(
    chromium: Any, report: Path, tmp_path: Path
) -> None:
    for scheme in ("light", "dark", "print"):
        tab = opened(chromium, report, 1280, "dark" if scheme == "print" else scheme)
        if scheme == "print":
            tab.emulate_media(media="print", color_scheme="dark")
        for drawing in ("svg.cycle", "svg.scatter"):
            shot = tmp_path / f"{scheme}-{drawing[4:]}.png"
            tab.locator(drawing).first.screenshot(path=shot)
            ground, ink = ground_and_ink(shot)
            assert (ground < 60) == (scheme == "dark")
            assert abs(ground - ink) > 80
        tab.context.close()


def test_the_docs_pictures_are_cut_from_a_page(chromium: Any, report: Path, tmp_path: Path) -> None:
    told = cut(chromium, report, tmp_path)
    sizes: dict[str, tuple[int, int]] = {}
    for name in told:
        assert (tmp_path / name).stat().st_size <= LIMIT_BYTES
        with Image.open(tmp_path / name) as picture:
            sizes[name] = picture.size
    assert {p.name for p in tmp_path.iterdir()} == {*told}
    assert sizes["report.png"][0] == WIDE
    assert sizes["report-phone.png"][0] > 3 * PHONE[0]
    assert ground_and_ink(tmp_path / "report-phone.png")[0] < 40
    # The summary holds one rhyme, not the whole page; the other picture one of each outcome.
    assert sizes["report.png"][1] < 2500
    assert sizes["report-cycles.png"][1] > 700
    rate = "`rhyme evaluate`, on all test videos and queries of its own: return rate 0.700 ± 0.000"
    assert rate in told["report-cycles.png"]
    assert "pictures are drawn from: 5 of the 8 shown came home" in told["report-cycles.png"]
    assert "same class: 0.500, untrained 0.500." in told["report-map.png"]
    assert "k-NN, top-1 accuracy: 0.600 ± 0.000, against 0.400 ± 0.000" in told["report.png"]


def test_runs_side_by_side_keep_their_names_on_a_phone(chromium: Any, report: Path) -> None:
    tab = opened(chromium, report.with_name("runs.html"), 360, java_script_enabled=False)
    assert tab.get_by_role("heading", level=1).is_visible()
    cells = tab.locator("#figures td")
    assert cells.first.get_attribute("data-label") == "CycleContrast"
    assert tab.locator("circle.pair").count() == 3 * 2
    more = tab.locator("#curves summary")
    hidden = tab.locator("#curves details svg.chart").first
    assert not hidden.is_visible()
    more.click()
    assert hidden.is_visible()
    tab.context.close()
