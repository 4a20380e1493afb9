from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rhyme.errors import DataError
from rhyme.report import Frame, ReportData, Rhyme, Strip, render, write_report

HOSTILE = "<script>alert('x')</script>\n\x1b[31m\udcff\u202e\"'&{{ 7*7 }}"


def test_page_is_balanced_and_self_contained(full: ReportData, page: Callable[[str], Any]) -> None:
    text = render(full)
    read = page(text)
    assert text.startswith("<!DOCTYPE html>")
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attrs in read.tags:
        assert tag not in {"script", "iframe", "object", "embed", "form", "base", "use"}
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "srcset", "action", "xlink:href", "data", "poster"):
            target = attrs.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
            if target is not None and target.startswith("#"):
                assert target[1:] in ids
    assert re.search(r"https?://", text) is None
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [a for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:; style-src")


def test_order_of_sections_and_headings(full: ReportData, page: Callable[[str], Any]) -> None:
    read = page(render(full))
    sections = [a["id"] for a in read.all("section")]
    assert sections == [
        "evaluation",
        "rhymes",
        "retrieval",
        "curves",
        "making",
        "limits",
        "events",
    ]
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_first_lines_give_training_and_headline(
    full: ReportData, page: Callable[[str], Any]
) -> None:
    read = page(render(full))
    assert (
        "CycleContrast encoder trained on world (120 items of 30 groups), 400 steps in "
        "1 min 15 s on cpu, seed 7. k-NN, top-1 accuracy: 0.600, against 0.320 ± 0.020 for the "
        "same encoder untrained, a gain of 0.280 ± 0.020." in read.text
    )
    assert "n = 3" in read.text
    headers = [(a.get("scope"), a.get("role")) for a in read.all("th")]
    assert all(scope in {"col", "row"} and role for scope, role in headers)


def test_figures_say_which_checkpoint_they_are_of_and_what_is_left_out(
    full: ReportData, make_result: Callable[..., dict[str, Any]], page: Callable[[str], Any]
) -> None:
    def at(step: int, value: float, **facts: Any) -> dict[str, Any]:
        return make_result(value, details={"step": step}, checkpoint=f"{step:08d}", **facts)

    def told(*rows: dict[str, Any]) -> str:
        return page(render(dataclasses.replace(full, results=rows))).text

    assert "The trained figures are of step 400." in told(at(400, 0.6))
    again = told(at(300, 0.5), at(400, 0.6))
    assert "0.600" in again
    assert "The trained figures are of step 400." in again
    assert "measured again later is left out: step 300 (k-NN, top-1 accuracy)." in again
    both = told(at(300, 0.5), at(400, 0.7, protocol="linear"))
    assert "are of several encoders of the run" in both
    assert "0.500 step 300" in both
    assert "0.700 step 400" in both
    assert "left out:" not in both
    assert "left out:" not in told(at(400, 0.5), at(400, 0.6))
    older = told(make_result(0.6, checkpoint="0a1b2c3d4e5f"))
    assert "The trained figures are of encoder 0a1b2c3d." in older


def test_pictures_have_text_and_size(full: ReportData, page: Callable[[str], Any]) -> None:
    images = page(render(full)).all("img")
    assert len(images) == 3 * (1 + 5 + 2) + 2 * (1 + 4)
    for image in images:
        assert (image["src"] or "").startswith("data:image/webp;base64,")
        assert image["alt"]
        assert int(image["width"] or 0) == 64
    assert images[0]["alt"] == "Query frame, disc, from clips/v000.mp4 at 0.5 s"


def test_rhymes_show_outcomes_weights_and_tally(
    full: ReportData, page: Callable[[str], Any]
) -> None:
    read = page(render(full))
    assert len(read.of_class("home")) == 2
    assert len(read.of_class("astray")) == 1
    assert "2 of the 3 shown came home; of all 100 queries 70 did (70.0%)." in read.text
    assert "✗ went astray" in read.text
    bars = [a["style"] for a in read.all("i")]
    assert bars[:3] == ["width:100.0%", "width:50.0%", "width:25.0%"]
    assert "entropy 2.00 nats ≈ 7.4 of 512 frames" in read.text


def test_failures_stay_visible_among_many_successes(
    make_rhyme: Callable[..., Rhyme], page: Callable[[str], Any]
) -> None:
    many = [make_rhyme(10 * k, returned=k < 30, size=8) for k in range(34)]
    read = page(render(ReportData(system="moco", rhymes=many)))
    assert len(read.of_class("astray")) == 4
    assert len(read.of_class("home")) == 8
    # They stand between the successes, the first of them before the fold.
    order = [a["class"] for a in read.all("article")]
    assert "astray" in order[:6]
    assert "8 of the 12 shown came home; of all 34 queries 30 did (88.2%)." in read.text


def test_strips_mark_classes_only_when_known(
    full: ReportData, make_frame: Callable[..., Frame], page: Callable[[str], Any]
) -> None:
    read = page(render(dataclasses.replace(full, rhymes=[])))
    assert len(read.of_class("yes")) == 4
    assert len(read.of_class("no")) == 4
    assert "4 of the 8 frames found share the query's class." in read.text
    bare = Strip(query=make_frame(1), hits=[make_frame(2, score=0.5)])
    read = page(render(ReportData(system="moco", strips=[bare])))
    assert not read.of_class("yes")
    assert "share the query's class" not in read.text


def test_foreign_text_is_escaped_everywhere(
    full: ReportData, make_frame: Callable[..., Frame], page: Callable[[str], Any]
) -> None:
    bad = make_frame(1, label=HOSTILE, file=HOSTILE, group=HOSTILE, score=0.5, same_class=True)
    data = dataclasses.replace(
        full,
        system=HOSTILE,
        system_title=HOSTILE,
        title=HOSTILE,
        run=HOSTILE,
        facts=dataclasses.replace(
            full.facts, data=HOSTILE, command=HOSTILE, versions={HOSTILE: HOSTILE}
        ),
        config=HOSTILE,
        metrics=[
            {"step": s, "loss": 1.0, "diagnostics": {HOSTILE: s}, "probes": {HOSTILE: s}}
            for s in range(3)
        ],
        results=[
            {
                "protocol": HOSTILE,
                "metric": HOSTILE,
                "value": 0.5,
                "encoder": encoder,
                "settings": {HOSTILE: HOSTILE},
            }
            for encoder in ("trained", "untrained", HOSTILE)
        ],
        rhymes=[Rhyme(query=bad, neighbours=[(bad, 1.0)], returns=[(bad, 1.0)], returned=True)],
        strips=[Strip(query=bad, hits=[bad])],
        notes=[HOSTILE],
        events=[{"time": HOSTILE, "event": HOSTILE, HOSTILE: HOSTILE}],
    )
    text = render(data)
    text.encode("utf-8")  # no lone surrogate is left
    read = page(text)
    assert not read.all("script")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b" in read.text
    assert "\\udcff" in read.text
    assert "{{ 7*7 }}" in read.text
    assert "<script>" in read.text  # as words, not as an element
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)


def test_empty_run_says_what_is_missing_and_how_to_make_it(page: Callable[[str], Any]) -> None:
    data = ReportData(system="moco", run="runs/b c")
    read = page(render(data))
    assert "It has not been evaluated yet." in read.text
    train = "rhyme train --resume 'runs/b c'"
    for command in (
        f"{train} && rhyme evaluate 'runs/b c'",
        f"{train} && rhyme report 'runs/b c'",
        f"To make it: {train} ",
    ):
        assert command in read.text
    assert not read.all("img")
    # With an encoder there is nothing to train first.
    done = page(render(dataclasses.replace(data, events=[{"event": "finished"}])))
    assert "To make it: rhyme evaluate 'runs/b c'" in done.text


def test_collection_has_no_gaps(make_frame: Callable[..., Frame], page: Callable[..., Any]) -> None:
    strip = Strip(query=make_frame(1), hits=[make_frame(2, score=0.5)])
    data = ReportData(system="moco", kind="collection", strips=[strip])
    read = page(render(data))
    assert [a["id"] for a in read.all("section")] == ["retrieval", "making", "limits"]
    assert "not been evaluated" not in read.text


def test_frame_without_pixels_keeps_its_place(page: Callable[[str], Any]) -> None:
    strip = Strip(query=Frame(file="a.mp4", time=1.0), hits=[Frame(file="b.mp4", score=0.1)])
    read = page(render(ReportData(system="moco", strips=[strip])))
    assert [a["role"] for a in read.of_class("blank")] == ["img", "img"]
    assert "from a.mp4 at 1.0 s" in (read.of_class("blank")[0]["aria-label"] or "")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (3, 4, 4), (0, 4, 3)])
def test_frame_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    import numpy as np

    with pytest.raises(DataError, match="uint8"):
        Frame(pixels=np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DataError, match="uint8"):
        Frame(pixels=np.zeros((4, 4, 3), dtype=np.float32))  # pyright: ignore[reportArgumentType]


def test_many_large_frames_stay_below_ten_megabytes(make_rhyme: Callable[..., Rhyme]) -> None:
    many = [make_rhyme(100 * k, returned=True, size=512) for k in range(12)]
    text = render(ReportData(system="moco", rhymes=many))
    assert text.count("data:image/webp") == 12 * 8
    assert len(text.encode()) < 10_000_000


def test_pictures_shrink_before_the_page_grows_too_large(
    make_rhyme: Callable[..., Rhyme], monkeypatch: pytest.MonkeyPatch, page: Callable[[str], Any]
) -> None:
    data = ReportData(system="moco", rhymes=[make_rhyme(0, returned=True, size=300)])
    large = render(data)
    monkeypatch.setattr("rhyme.report.page.LIMIT_BYTES", len(large.encode()) - 1)
    small = render(data)
    assert len(small) < len(large)
    assert page(small).all("img")[0]["width"] == "208"
    monkeypatch.setattr("rhyme.report.page.LIMIT_BYTES", 1)
    bare = page(render(data))
    assert not bare.all("img")
    assert "Pictures were left out" in bare.text


def test_same_data_gives_the_same_page(full: ReportData) -> None:
    assert render(full) == render(full)


def test_write_report_replaces_the_old_page(full: ReportData, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    assert write_report(full, out) == out
    assert write_report(dataclasses.replace(full, title="Second"), out) == out
    assert "<h1>Second</h1>" in out.read_text(encoding="utf-8")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_colours_are_legible_in_both_schemes() -> None:
    from importlib.resources import files

    css = files("rhyme.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 3  # light, dark, print
    for block in blocks:
        colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
        for ground in ("bg", "surface", "sunken"):
            for ink in ("ink", "muted", "accent", "good", "bad"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            for line in ("c1", "c2", "c3", "c4", "c5"):
                assert _contrast(colours[line], colours[ground]) >= 3.0, (line, ground)


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
