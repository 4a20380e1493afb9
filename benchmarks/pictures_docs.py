"""The docs' pictures of the report, from a real run: ``python -m benchmarks.pictures_docs RUN``.

The run's page is made anew, opened in this system's Chromium, and cut into ``docs/images``. What a
caption has to say of each picture (run, figures beside the untrained encoder) is read off the same
page and kept in ``docs/images/report.json``; a test holds the captions to it.
"""

import argparse
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from rhyme.api import report
from rhyme.errors import RhymeError

IMAGES = Path(__file__).parent.parent / "docs" / "images"
FACTS = "report.json"
LIMIT_BYTES = 250_000
WIDE, PHONE = 1000, (390, 844)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

SUMMARY = """nav, .plot ~ *, section:not(#evaluation, #rhymes), #evaluation > :not(h2, .plot),
#rhymes > :not(h2, .tally, .cards), .cards > :not(:nth-child(CARD)) { display: none; }
section { margin-top: 1.6rem; } main { padding: 1.4rem 1.5rem; }"""
"""Head of the page, the plot of all figures, and one rhyme."""


def browser(play: Any) -> Any:
    """This system's Chromium, by RHYME_CHROMIUM or by name."""
    found = os.environ.get("RHYME_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        sys.exit("no Chromium found: install it, or set RHYME_CHROMIUM to its path")
    return play.chromium.launch(executable_path=found, args=list(FLAGS))


def cut(chromium: Any, page: Path, folder: Path) -> dict[str, str]:
    """Cut the pictures of a run's page.

    Args:
        chromium: a running browser.
        page: the page.
        folder: where the pictures go.

    Returns:
        What is to be said of each, by file name.
    """
    tab = opened(chromium, page, WIDE, 800)
    facts = told(tab)
    kinds = [tab.locator(f"#rhymes article.{kind}") for kind in ("home", "astray")]
    ways = [found.first for found in kinds if found.count()]
    save(stacked([shot(way) for way in ways]), folder / "report-cycles.png")
    save(shot(tab.locator("#map .atlas")), folder / "report-map.png")
    place = ways[0].evaluate("card => [...card.parentElement.children].indexOf(card) + 1")
    tab.add_style_tag(content=SUMMARY.replace("CARD", str(place)))
    save(shot(tab.locator("main")), folder / "report.png")
    first = ways[0].get_attribute("class")
    tab.context.close()
    tab = opened(chromium, page, *PHONE, color_scheme="dark")
    screens: list[Image.Image] = []
    for what in ("header", f"#rhymes article.{first}", "#map"):
        tab.locator(what).first.evaluate("e => scrollTo(0, e.getBoundingClientRect().y - 12)")
        screens.append(Image.open(io.BytesIO(tab.screenshot())))
        tab.evaluate("scrollTo(0, 0)")
    save(beside(screens), folder / "report-phone.png")
    tab.context.close()
    return facts


def told(tab: Any) -> dict[str, str]:
    """What the page says of itself, for the captions."""

    def text(what: str) -> str:
        return " ".join(tab.locator(what).first.inner_text().split())

    run, verdict = text(".lede").split(". ", 1)
    run = re.sub(r" in [\d hmins.]+ on", " on", run)  # what it took depends on the day
    rate = tab.locator("#evaluation tbody tr", has=tab.get_by_text("return rate", exact=True))
    names = ("Trained", "Untrained", "Chance")
    cells = [rate.first.locator(f'[data-label="{name}"]').inner_text() for name in names]
    trained, untrained, chance = (cell.split(" n =")[0].strip() for cell in cells)
    drawn = (
        f"In the sample of test videos that the pictures are drawn from: {text('#rhymes .tally')}"
    )
    measured = (
        "`rhyme evaluate`, on all test videos and queries of its own: return rate "
        f"{trained}, untrained {untrained}, chance {chance}"
    )
    maps = [
        text(f"#map .sheets > div:nth-child({k}) .note").split(";")[0].rsplit(" ", 1)
        for k in (1, 2)
    ]
    same = f"{maps[0][0].capitalize()} {maps[0][1]}, untrained {maps[1][1]}"
    return {
        "report.png": f"{run}. {verdict}",
        "report-cycles.png": f"{run}. {drawn} {measured}.",
        "report-map.png": f"{run}. {same}.",
        "report-phone.png": f"{run}.",
    }


def opened(chromium: Any, page: Path, width: int, height: int, **options: Any) -> Any:
    context = chromium.new_context(viewport={"width": width, "height": height}, **options)
    tab = context.new_page()
    tab.goto(page.as_uri())
    return tab


def shot(what: Any) -> Image.Image:
    return Image.open(io.BytesIO(what.screenshot()))


def stacked(pictures: list[Image.Image], gap: int = 14) -> Image.Image:
    """Pictures below each other."""
    width = max(p.width for p in pictures)
    whole = Image.new("RGB", (width, sum(p.height + gap for p in pictures) - gap), "white")
    y = 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height + gap
    return whole


def beside(pictures: list[Image.Image], gap: int = 14) -> Image.Image:
    """Pictures next to each other."""
    turned = [p.transpose(Image.Transpose.TRANSPOSE) for p in pictures]
    return stacked(turned, gap).transpose(Image.Transpose.TRANSPOSE)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG of few colours, as few as keep it below the limit.

    Raises:
        SystemExit: not even 32 do.
    """
    for colours in (256, 128, 64, 32):
        few = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size <= LIMIT_BYTES:
            return
    sys.exit(f"{path}: {path.stat().st_size} bytes, at most {LIMIT_BYTES} are wanted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    if not asked.run.is_dir():
        sys.exit(f"{asked.run}: no such run; `make demo` makes one")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as room, sync_playwright() as play:
        try:
            page = report(asked.run, out=Path(room) / "report.html")
        except RhymeError as error:
            sys.exit(str(error))
        chromium = browser(play)
        facts = cut(chromium, page, asked.out)
        chromium.close()
    (asked.out / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    for name, text in facts.items():
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()
