"""What a report draws beside its figures: failures, maps, and what it says where it cannot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rhyme import api
from rhyme.api.feature_maps import feature_maps
from rhyme.api.worst import failures
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, DataError
from rhyme.tasks import FeatureTable
from support.tiny_runs import refused, rhyme, train, trained, videos


def table(features: np.ndarray) -> FeatureTable:
    n, f, _ = features.shape
    return FeatureTable(
        features=features.astype(np.float32),
        times=np.tile(np.arange(f, dtype=np.float64), (n, 1)),
        index=np.arange(n),
        ids=np.arange(n, dtype=np.uint64),
        group=np.arange(n) // 2,
    )


def test_failures_are_those_of_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(60, 6)).astype(np.float32)
    groups, codes = np.arange(60) // 4, rng.integers(-1, 3, 60)
    found = failures(
        {"trained": frames, "untrained": frames[:, :2]}, groups, codes, ["a", "b", "c"], k=4
    )
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    shares: dict[str, list[float]] = {}
    chances: dict[str, list[float]] = {}
    wrong: dict[str, Counter[str]] = {name: Counter() for name in "abc"}
    missed: dict[int, float] = {}
    for i in range(60):
        if codes[i] < 0:
            continue
        others = [j for j in range(60) if groups[j] != groups[i]]
        near = sorted(others, key=lambda j: -float(unit[i] @ unit[j]))[:4]
        name = "abc"[codes[i]]
        shares.setdefault(name, []).append(np.mean([codes[j] == codes[i] for j in near]))
        chances.setdefault(name, []).append(np.mean([codes[j] == codes[i] for j in others]))
        wrong[name].update("abc"[codes[j]] for j in near if codes[j] not in (-1, codes[i]))
        if all(codes[j] not in (-1, codes[i]) for j in near):
            missed[i] = float(np.mean([unit[i] @ unit[j] for j in near]))
    for line in found.classes:
        assert line.trained == pytest.approx(np.mean(shares[line.name]))
        assert line.chance == pytest.approx(np.mean(chances[line.name]))
        assert line.queries == len(shares[line.name])
        assert wrong[line.name][line.instead] == max(wrong[line.name].values())
        assert line.untrained != line.trained
    assert [c.trained for c in found.classes] == sorted(c.trained for c in found.classes)
    asked: list[int] = []
    for i in sorted(missed, key=lambda i: -missed[i]):
        if groups[i] not in groups[asked]:
            asked.append(i)
    assert asked
    assert found.queries == asked


def test_maps_keep_apart_what_is_apart_and_are_repeatable() -> None:
    rng = np.random.default_rng(1)
    centres = np.repeat(np.eye(20)[:2] * 9, 12, axis=0)
    features = centres[:, None] + rng.normal(size=(24, 3, 20)) * 0.1
    labels = ["a"] * 12 + ["b"] * 12
    tables = {"Trained": table(features), "Untrained": table(rng.normal(size=features.shape))}
    one, two = (feature_maps(tables, labels, seed=4, points=60) for _ in range(2))
    trained_map, fresh = one.maps
    assert len(one.labels) == 48  # of three frames an item two fit
    assert one.videos == 24
    assert np.array_equal(trained_map.points, two.maps[0].points)
    assert trained_map.same_class == 1.0
    assert fresh.same_class is not None
    assert fresh.same_class < 0.8
    a, b = trained_map.points[:24], trained_map.points[24:]
    assert np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)) > a.std() + b.std()
    few = feature_maps({"Trained": tables["Trained"]}, [""] * 24, points=13)
    assert (few.videos, len(few.labels)) == (13, 13)
    assert few.maps[0].same_class is None


def test_maps_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="12 frames"):
        feature_maps({"Trained": table(np.eye(4)[:, None])}, [""] * 4)
    with pytest.raises(DataError, match="alike"):
        feature_maps({"Trained": table(np.ones((20, 2, 5)))}, [""] * 20)


def test_a_page_shows_cycles_failures_and_both_maps(tmp_path: Path) -> None:
    text = api.report(trained("moco"), out=tmp_path / "page.html").read_text()
    assert text.count('class="cycle"') >= 4
    assert text.count('class="scatter"') == 2
    for section in ("rhymes", "worst", "map", "retrieval"):
        assert f'<section id="{section}">' in text
        assert f'href="#{section}"' in text
    bare = api.report(trained("moco"), out=tmp_path / "bare.html", points=0).read_text()
    assert '<section id="map">' not in bare
    with pytest.raises(ConfigError, match="below 0"):
        api.report(trained("moco"), out=tmp_path / "no.html", points=-1)


def test_a_run_that_held_nothing_out_says_so_and_takes_other_videos(tmp_path: Path) -> None:
    done = train("moco", tmp_path / "run", "--split", "all")
    assert done.code == 0, done.err
    page = api.report(tmp_path / "run").read_text()
    assert page.count("The run held no videos out: all of its data was trained on") == 4
    assert "Give videos that it never saw: rhyme report RUN --data VIDEOS" in page
    assert "rhyme report" not in page.split("To make it:")[1].split("</p>")[0]
    # Copies have other names, hence other groups: to the encoder they are other videos.
    other = tmp_path / "other"
    for k, path in enumerate(videos(other, 9)):
        path.rename(other / f"other{k}.mp4")
    out = tmp_path / "page.html"
    shown = rhyme("report", tmp_path / "run", "--data", other, "--out", out, "--json")
    assert shown.code == 0, shown.err
    text = out.read_text()
    assert "the pictures are of other, given for the report" in text
    assert text.count('class="cycle"') >= 2
    assert "Which classes and searches fail is not known" in text
    refused(rhyme("report", tmp_path / "run", "--data", tmp_path / "none"), None, "none")


def test_the_command_takes_labels_of_the_videos_given_and_a_device(tmp_path: Path) -> None:
    run, other = trained("moco"), tmp_path / "other"
    for k, path in enumerate(videos(other, 10)):
        place = other / ("run", "sit")[k % 2] / f"other{k}.mp4"
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    out = tmp_path / "page.html"
    asked = ("report", run, "--out", out, "--device", "cpu", "--points", 0)
    shown = rhyme(*asked, "--data", other, "--labels", "none")
    assert shown.code == 0, shown.err
    way = "rhyme report RUN with --labels folder"
    assert way in " ".join(out.read_text().split())
    shown = rhyme(*asked, "--data", other, "--labels", "folder")
    assert shown.code == 0, shown.err
    text = out.read_text()
    assert way not in " ".join(text.split())
    assert all(name in text.split('<section id="worst">')[1] for name in ("run", "sit"))
    refused(rhyme(*asked[:4], "--device", "gpu"), None, "gpu")


def held_out(catalog: Catalog) -> list[str]:
    return catalog.select(split="test").table.column("path").to_pylist()


def test_labels_of_the_runs_own_videos_are_those_it_has_or_is_given(tmp_path: Path) -> None:
    run, out = trained("moco"), tmp_path / "page.html"
    asked = ("report", run, "--out", out, "--points", 0)

    def worst(*more: object) -> str:
        shown = rhyme(*asked, *more)
        assert shown.code == 0, shown.err
        return out.read_text().split('<section id="worst">')[1].split("</section>")[0]

    columns = Catalog.open(run / "catalog.arrow")
    assert columns.label_column == "appearance"
    motions = set(columns.labels("motion")[1])
    assert not any(f">{name}<" in worst() for name in motions)
    assert any(f">{name}<" in worst("--label-column", "motion") for name in motions)
    refused(rhyme(*asked, "--label-column", "action"), None, "action")
    table = tmp_path / "kinds.csv"
    lines = [f"{path},{('round', 'edgy')[k % 2]}" for k, path in enumerate(held_out(columns))]
    table.write_text("path,kind\n" + "\n".join(lines) + "\n")
    assert ">edgy<" in worst("--labels", table)
    refused(rhyme(*asked, "--group-column", "kind"), 2, "--group-column", "add --data DIR")
    refused(rhyme("report", run, run, "--labels", "folder"), 2, "one run at a time")
