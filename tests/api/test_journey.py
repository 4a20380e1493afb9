"""The whole way of a user: train, judge, embed, search, report, compare, export, stop and go on."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rhyme as toolkit
from rhyme import api
from rhyme.catalog import Catalog
from rhyme.evaluation import group_hashes
from rhyme.export import load_torch_export
from rhyme.recipes import load_recipe
from rhyme.run import read_jsonl
from rhyme.store import open_store
from rhyme.systems import system_class
from support.tiny_runs import OVERRIDES, SYSTEMS, Outcome, catalog, rhyme, train, trained, world

UNTRAINED_SEEDS = 3


@dataclass(frozen=True)
class Journey:
    """A run with everything that can be made of it."""

    system: str
    run: Path
    store: Path
    program: Path
    query: Path
    evaluated: Outcome
    embedded: Outcome
    found: Outcome
    reported: Outcome
    exported: Outcome


@pytest.fixture(scope="module", params=SYSTEMS)
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    place = tmp_path_factory.mktemp(request.param)
    run, store, program = place / "run", place / "store", place / "encoder.pt2"
    shutil.copytree(trained(request.param), run)
    query = next((world() / "videos" / "test").glob("*.mp4"))
    return Journey(
        system=request.param,
        run=run,
        store=store,
        program=program,
        query=query,
        evaluated=rhyme("evaluate", run, "--json"),
        embedded=rhyme(
            "embed", run, "--data", catalog(), "--store", store, "--every", "0.5", "--json"
        ),
        found=rhyme(
            "search", store, "--query", f"{query}@0.25", "-k", "5", "--exclude-same-group", "--json"
        ),
        reported=rhyme("report", run, "--json"),
        exported=rhyme("export", run, "--format", "torch", "--out", program, "--json"),
    )


@pytest.fixture
def named_as_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rhyme", "evaluate", "runs/mine"])


def test_every_command_ends_well_and_answers_one_document(journey: Journey) -> None:
    for outcome in (
        journey.evaluated, journey.embedded, journey.found, journey.reported, journey.exported,
    ):  # fmt: skip
        assert outcome.code == 0, outcome.err
        assert isinstance(outcome.document, dict)


def test_the_run_folder_can_be_read_without_rhyme(journey: Journey) -> None:
    recipe = load_recipe(journey.run / "config.yaml")
    assert recipe.system == journey.system
    assert recipe.train.steps == OVERRIDES[journey.system]["train.steps"] == 6
    metrics = read_jsonl(journey.run / "metrics.jsonl")
    losses = [row["loss"] for row in metrics if "loss" in row]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    probed = {row["step"]: row["probes"]["cycle"] for row in metrics if "probes" in row}
    assert set(probed) == {3, 6}
    assert all(0 <= found["return_rate"] <= 1 for found in probed.values())
    events = {row["event"]: row for row in read_jsonl(journey.run / "events.jsonl")}
    assert {"data", "started", "finished"} <= events.keys()
    assert events["data"]["train_items"] == 24
    assert events["data"]["splits"] == {"train": 24, "val": 8, "test": 12}
    assert (journey.run / "encoder" / "weights.safetensors").stat().st_size > 0


def test_the_package_says_which_groups_it_saw(journey: Journey) -> None:
    items = Catalog.open(catalog())
    known = set(toolkit.load(journey.run).package.extra["train_groups"])
    assert known == set(group_hashes(items.select(split="train").group_names))
    assert known.isdisjoint(group_hashes(items.select(split="test").group_names))


def test_figures_stand_beside_untrained_encoders_and_are_kept(journey: Journey) -> None:
    rows = journey.evaluated.document["results"]
    kept = [
        {k: v for k, v in row.items() if k in rows[0]}
        for row in read_jsonl(journey.run / "results.jsonl")
    ]
    assert len(kept) == len(rows)
    assert all(row in kept for row in rows), "kept encoder by encoder, told figure by figure"
    knn = [r for r in rows if (r["protocol"], r["metric"]) == ("knn", "top1")]
    assert sorted(r["encoder"] for r in knn) == ["trained"] + ["untrained"] * UNTRAINED_SEEDS
    assert {r["system"] for r in knn} == {journey.system}
    assert all(0 <= r["value"] <= 1 and 0 < r["chance"] < 1 and r["items"] == 12 for r in knn)
    assert {r["protocol"] for r in rows} == {"knn", "linear", "retrieval", "cycle"}


def test_groups_that_were_trained_on_are_refused(journey: Journey, tmp_path: Path) -> None:
    items = Catalog.open(catalog())
    swap = {"train": "test", "test": "train", "val": "val"}
    swapped = tmp_path / "swapped.arrow"
    items.with_splits([swap[str(split)] for split in items.splits]).save(swapped)
    before = (journey.run / "results.jsonl").read_bytes()
    refused = rhyme("evaluate", journey.run, "--data", swapped)
    assert refused.code == 1
    assert "the encoder was trained on all 24 test groups" in refused.err
    assert items.select(split="train").group_names[0] in refused.err
    assert (journey.run / "results.jsonl").read_bytes() == before


def test_the_store_holds_every_moment_once(journey: Journey) -> None:
    said = journey.embedded.document
    assert (said["items"], said["moments"], said["quarantined"]) == (44, 44 * 4, 0)
    store = open_store(journey.store)
    np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, atol=1e-5)
    assert store.info.package == toolkit.load(journey.run).package.hash
    again = rhyme(
        "embed", journey.run, "--data", catalog(), "--store", journey.store, "--every", "0.5",
        "--json",
    )  # fmt: skip
    assert again.code == 0
    assert again.document["moments"] == 44 * 4


def test_one_file_has_the_vectors_that_the_store_has(journey: Journey) -> None:
    alone = toolkit.load(journey.run).embed(journey.query, every=0.5)
    assert alone.paths == [journey.query.name] * 4
    store = open_store(journey.store)
    paths = [Path(p).name for p in store.table.column("path").to_pylist()]
    rows = [i for i, name in enumerate(paths) if name == journey.query.name]
    times = np.array(store.table.column("time").to_pylist())[rows]
    np.testing.assert_allclose(np.sort(times), np.sort(alone.times))
    np.testing.assert_allclose(
        store.vectors[rows][np.argsort(times)], alone.vectors[np.argsort(alone.times)], atol=1e-5
    )


def test_search_ranks_other_videos_and_draws_a_sheet(journey: Journey) -> None:
    hits = journey.found.document["hits"]
    assert [h["rank"] for h in hits] == [1, 2, 3, 4, 5]
    assert sorted((h["score"] for h in hits), reverse=True) == [h["score"] for h in hits]
    assert all(Path(h["path"]).name != journey.query.name for h in hits)
    sheet = Path(journey.found.document["sheet"])
    assert sheet == journey.store / "sheet.png"
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_a_stored_moment_finds_itself_first(journey: Journey, tmp_path: Path) -> None:
    sheet = tmp_path / "mine.png"
    found = api.search(journey.store, f"{journey.query}@0.25", k=1, sheet=sheet)
    assert Path(found.hits[0].path).name == journey.query.name
    assert found.hits[0].time == pytest.approx(0.25)
    assert found.hits[0].score == pytest.approx(1, abs=1e-4)
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_the_report_is_one_file_that_needs_no_network(journey: Journey) -> None:
    path = Path(journey.reported.document["report"])
    assert path == journey.run / "report.html"
    page = path.read_text()
    assert "untrained" in page.lower()
    assert not re.search(r"https?://", page)
    assert not re.search(r"<(script|iframe|object|embed)\b", page)
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert sources
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert page.count("data:image/") > 5


def test_the_exported_program_gives_the_same_features(journey: Journey) -> None:
    package = toolkit.load(journey.run).package
    program = load_torch_export(journey.program)
    assert program.source == package.hash
    size = package.plan.size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled, cells = program.module(pixels)
        features = package.module(pixels)
    torch.testing.assert_close(pooled, features.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cells, features.map, rtol=1e-5, atol=1e-5)


def test_a_package_alone_serves_as_well_as_its_run(journey: Journey, tmp_path: Path) -> None:
    package = tmp_path / "encoder"
    shutil.copytree(journey.run / "encoder", package)
    assert toolkit.load(package).package.hash == toolkit.load(journey.run).package.hash
    alone = rhyme("evaluate", package)
    assert alone.code == 1
    assert "--data" in alone.err
    with_data = rhyme("evaluate", package, "--data", catalog(), "--protocol", "retrieval", "--json")
    assert with_data.code == 0, with_data.err
    assert {r["protocol"] for r in with_data.document["results"]} == {"retrieval"}
    assert not (package / "results.jsonl").exists()


def test_runs_are_compared_and_listed(tmp_path: Path) -> None:
    for system in SYSTEMS:
        shutil.copytree(trained(system), tmp_path / system)
        done = rhyme("evaluate", tmp_path / system, "--protocol", "knn", "--json")
        assert done.code == 0, done.err
    compared = rhyme("compare", *(tmp_path / s for s in SYSTEMS), "--json")
    assert compared.code == 0, compared.err
    for system in SYSTEMS:
        arms = {line["arm"] for line in compared.document["lines"]}
        assert {system, f"{system} untrained"} <= arms
    listed = rhyme("runs", tmp_path, "--json")
    assert listed.code == 0
    lines = {Path(line["path"]).name: line for line in listed.document}
    assert set(lines) == set(SYSTEMS)
    for system, line in lines.items():
        assert line["state"] == "finished"
        assert line["system"] == system
        assert (line["step"], line["steps"]) == (6, 6)
        row = next(
            r
            for r in read_jsonl(tmp_path / system / "results.jsonl")
            if (r["metric"], r["encoder"]) == ("top1", "trained")
        )
        assert line["knn"] == pytest.approx(row["value"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_from_its_folder_says_what_was_made(system: str, tmp_path: Path) -> None:
    """The plain folder gives the run that its catalog gives."""
    run = tmp_path / "run"
    done = train(system, run, "--label-column", "appearance", "--json", data=world())
    assert done.code == 0, done.err
    said = done.document
    assert (said["system"], said["steps"], said["quarantined"]) == (system, 6, 0)
    assert math.isfinite(said["loss"])
    assert "44 items" in done.err
    assert hash_of(run) == hash_of(trained(system))


def hash_of(run: Path) -> str:
    """The identity of a run's encoder."""
    return toolkit.load(run).package.hash


@pytest.mark.parametrize(
    ("system", "asked"), [("cycle_contrast", signal.SIGTERM), ("moco", signal.SIGINT)]
)
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_bits(
    system: str, asked: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = system_class(system)
    steps = iter(range(1, 100))
    after_step = kind.after_step

    def stop_at_third(self: object, applied: bool) -> None:
        after_step(self, applied)  # type: ignore[arg-type]
        if next(steps) == 3:
            os.kill(os.getpid(), asked)

    run = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(kind, "after_step", stop_at_third)
        stopped = train(system, run, "--json")
    assert stopped.code == 75
    assert stopped.document["exit_code"] == 75
    assert "--resume" in stopped.err
    assert not (run / "encoder").exists()
    assert [line.state for line in api.runs(tmp_path)] == ["stopped"]
    unfinished = rhyme("evaluate", run)
    assert unfinished.code == 1
    assert "no encoder yet" in unfinished.err
    resumed = rhyme("train", "--resume", run, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["steps"] == 6
    assert hash_of(run) == hash_of(trained(system))
    losses = [r["loss"] for r in read_jsonl(run / "metrics.jsonl") if "loss" in r]
    straight = [r["loss"] for r in read_jsonl(trained(system) / "metrics.jsonl") if "loss" in r]
    assert losses == straight


def test_a_run_goes_on_from_any_of_its_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / "cycle_contrast"
    shutil.copytree(trained("cycle_contrast"), run)
    shutil.rmtree(run / "encoder")
    kept = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000004", "step-00000006"]
    for name in kept[1:]:
        shutil.rmtree(run / "checkpoints" / name)
    done = api.resume(run, progress=False)
    assert done.steps == 6
    assert hash_of(run) == hash_of(trained("cycle_contrast"))


def test_a_finished_run_is_exported_anew(tmp_path: Path) -> None:
    run = tmp_path / "moco"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "encoder")
    done = rhyme("train", "--resume", run, "--json")
    assert done.code == 0, done.err
    assert hash_of(run) == hash_of(trained("moco"))


def test_another_seed_gives_another_encoder(tmp_path: Path) -> None:
    done = train("moco", tmp_path / "moco", "--seed", "1", "--json")
    assert done.code == 0, done.err
    assert hash_of(tmp_path / "moco") != hash_of(trained("moco"))


@pytest.mark.usefixtures("named_as_program")
def test_figures_say_which_command_made_them(tmp_path: Path) -> None:
    done = api.evaluate(trained("moco"), protocols=("retrieval",), record=False)
    assert {row.command for row in done.results} == {"rhyme evaluate runs/mine"}
    assert not (trained("moco") / "results.jsonl").exists()


@pytest.mark.parametrize("command", ["command line", "python"])
def test_a_recipe_says_how_long_items_are_unless_the_user_does(
    command: str, tmp_path: Path
) -> None:
    """The world's videos last 2 s: an item of 1 s makes two of each."""
    run = tmp_path / "run"
    if command == "python":
        changes = {**OVERRIDES["moco"], "data.segment": 1.0, "train.steps": 1}
        api.train("moco_world_demo", world(), out=run, overrides=changes, progress=False)
    else:
        done = train("moco", run, "--data.segment", "1.0", "--train.steps", "1", data=world())
        assert done.code == 0, done.err
    items = Catalog.open(run / "catalog.arrow")
    assert len(items) == 2 * 44
    assert len(set(items.group_names)) == 44


def test_a_world_answers_one_document(tmp_path: Path) -> None:
    place = tmp_path / "world"
    made = rhyme(
        "world", "--out", place, "--videos", "5", "--size", "32", "--frames", "6", "--truth",
        "labels", "--workers", "0", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.document["videos"] == 5
    assert sum(made.document["splits"].values()) == 5
    assert len(list(place.rglob("*.mp4"))) == 5
    first = {p.name: p.read_bytes() for p in place.rglob("*.mp4")}
    again = tmp_path / "again"
    api.world(again, videos=5, size=32, frames=6, truth="labels")
    assert {p.name: p.read_bytes() for p in again.rglob("*.mp4")} == first


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_worker_processes_change_no_bit(system: str, tmp_path: Path) -> None:
    done = train(system, tmp_path / "run", "--train.workers", "2")
    assert done.code == 0, done.err
    assert hash_of(tmp_path / "run") == hash_of(trained(system))
