"""Evaluation end to end on a generated world, and what it refuses or leaves out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rhyme.catalog import Catalog, scan
from rhyme.encoders import InferencePlan, build_backbone, load_package, save_package, untrained
from rhyme.errors import ConfigError, EvaluationError, UnknownName
from rhyme.evaluation import (
    PROTOCOLS,
    Result,
    TrainedOn,
    compare,
    evaluate,
    group_hashes,
    load_protocol,
    make_splits,
    train_facts,
)
from rhyme.evaluation.inputs import split_features, without_seen
from rhyme.evaluation.protocol import parse_settings
from rhyme.evaluation.splits import usable_classes
from rhyme.tasks import extract_features


@pytest.fixture(scope="module")
def done(world):
    catalog, encoder = world
    return evaluate(encoder, catalog, seed=0, untrained_seeds=(0, 1), command="rhyme evaluate")


def test_every_figure_stands_beside_the_untrained_encoder(done):
    figures: dict[tuple[str, str], list[Result]] = {}
    for row in done.results:
        figures.setdefault((row.protocol, row.metric), []).append(row)
    assert {p for p, _ in figures} == {"knn", "linear", "retrieval", "cycle"}
    assert ("cycle", "same_class_mass") in figures
    for rows in figures.values():
        assert [row.encoder for row in rows] == ["trained", "untrained", "untrained"]
        assert [row.seed for row in rows] == [1, 0, 1]
        assert all(row.chance is not None and 0 <= row.value <= 1 for row in rows)
        # the pair of the trained encoder is the untrained one of its seed
        assert rows[0].pair == rows[2].pair != rows[1].pair
        assert len({str(row.settings) for row in rows}) == 1
    assert not done.skipped


def test_rows_say_all_there_is_to_say(done, world):
    catalog, encoder = world
    package = load_package(encoder)
    row = next(r for r in done.results if (r.protocol, r.metric) == ("knn", "top1"))
    assert row.system == "made_up"
    assert row.checkpoint == package.hash
    assert row.command == "rhyme evaluate"
    assert row.data == "data"
    assert row.items == 14 - sum(
        1
        for i in range(len(catalog))
        if catalog.item(i).split == "test"
        and catalog.item(i).labels["appearance"] in row.details["classes_left_out"]
    )
    assert row.settings["k"] == 10
    assert row.settings["label_column"] == "appearance"
    assert row.settings["split"] == "split given with the data"
    assert row.details["split_drawn"] == done.splits.drawn
    assert row.details["plan"]["size"] == 24
    assert any("classes left out" in note for note in done.notes)
    assert any("on trust" in note for note in done.notes)
    assert len(done.rows[0]) == len(done.columns)
    assert compare(done.results).lines


def test_figures_are_those_of_each_encoder(done, world):
    catalog, encoder = world
    package = load_package(encoder)
    splits = make_splits(catalog)
    codes, names = catalog.labels("appearance")
    classes = usable_classes(codes, names, catalog.group_codes, splits)
    for module, kind, seed in (
        (package.module, "trained", 1),
        (untrained(package, 0), "untrained", 0),
    ):
        table = extract_features(module, package.plan, catalog.select(indices=splits.rows))
        data = split_features(table, splits, classes, 0)
        for name in ("knn", "cycle"):
            protocol = load_protocol(name)
            for metric in protocol.run(data, protocol.settings()):
                row = next(
                    r
                    for r in done.results
                    if (r.protocol, r.metric, r.encoder, r.seed) == (name, metric.name, kind, seed)
                )
                assert row.value == pytest.approx(metric.value, abs=1e-9)
        test = data.test
        assert {catalog.item(int(splits.rows[i])).split for i in test.index} == {"test"}


def test_without_labels_only_label_free_protocols_run(world):
    catalog, encoder = world
    bare = catalog.with_meta(label_column=None)
    found = evaluate(encoder, bare, untrained_seeds=())
    assert set(found.skipped) == {"knn", "linear"}
    assert "no labels" in found.skipped["knn"]
    assert "no label column was chosen" in found.skipped["knn"]
    metrics = {row.metric for row in found.results}
    assert "group_recall_at_1" in metrics
    assert "return_rate" in metrics
    assert "same_class_mass" not in metrics
    assert "recall_at_1" not in metrics


def test_labels_of_too_few_groups_are_told_where_nothing_else_is_measured(world) -> None:
    catalog, encoder = world
    found = evaluate(encoder, catalog, protocols=("knn",), label_column="caption")
    assert "no labels to measure by" in found.skipped["knn"]
    assert "fewer than two groups" in found.skipped["knn"]


def card_with(package, names):
    return replace(package, extra={"train_groups": group_hashes(names)})


def test_test_groups_that_were_trained_on(world):
    catalog, encoder = world
    package = load_package(encoder)
    tests = [catalog.item(int(i)).group for i in make_splits(catalog).test]
    clean = evaluate(
        card_with(package, [catalog.item(int(make_splits(catalog).train[0])).group]),
        catalog,
        protocols=["cycle"],
        untrained_seeds=(),
    )
    assert not any("trust" in note for note in clean.notes)
    spoiled = card_with(package, tests[:2])
    with pytest.raises(EvaluationError, match="trained on 2 of the test groups") as caught:
        evaluate(spoiled, catalog)
    assert set(caught.value.value) == set(tests[:2])
    dropped = evaluate(spoiled, catalog, protocols=["cycle"], untrained_seeds=(), seen="drop")
    assert len(dropped.splits.test) == len(tests) - 2
    assert any("left out (2 items)" in note for note in dropped.notes)
    allowed = evaluate(spoiled, catalog, protocols=["cycle"], untrained_seeds=(), seen="allow")
    assert len(allowed.splits.test) == len(tests)
    assert allowed.results[0].settings["seen"] == "allow"
    for seen in ("error", "drop"):
        with pytest.raises(EvaluationError, match=f"on all {len(set(tests))} test groups") as none:
            evaluate(card_with(package, tests), catalog, seen=seen)
        assert "--seen drop" not in str(none.value.remedy), "that would leave nothing"
        assert "--seen allow" in str(none.value.remedy)


def test_videos_that_were_trained_on_are_found_under_other_groups(world, tmp_path):
    catalog, encoder = world
    package = load_package(encoder)
    whole = make_splits(catalog)
    facts = train_facts(catalog.select(indices=whole.train))
    trained = replace(package, extra=facts)
    # other groups, another split, another place: of the test items every second was trained on
    splits = np.array(catalog.splits, dtype=object)
    moved = whole.train[: len(whole.test)]
    splits[moved], splits[whole.test[1::2]] = "test", "train"
    other = catalog.with_column("group", [f"person {i}" for i in range(len(catalog))])
    other = Catalog(other.with_splits(splits.tolist()).table, root=catalog.root)
    kept = other.save(tmp_path / "elsewhere.arrow")
    assert kept.group_names[0] == "person 0"
    found = without_seen_of(trained, kept, "drop")
    assert set(found[0].test.tolist()) == set(whole.test[::2].tolist())
    assert f"{len(moved)} of them by their files, e.g. " in found[1][-1]
    with pytest.raises(EvaluationError, match=f"trained on {len(moved)} of the test groups; ") as e:
        evaluate(trained, kept)
    assert "--seen drop" in str(e.value.remedy)
    allowed, notes = without_seen_of(trained, kept, "allow")
    assert len(allowed.test) > len(found[0].test)
    assert "as asked" in notes[-1]
    # packages of before these hashes still load, and are held against names alone
    before = replace(package, extra={"train_groups": facts["train_groups"]})
    assert "taken on trust" in without_seen_of(before, kept, "error")[1][-1]


def without_seen_of(package, catalog, seen):
    notes = []
    return without_seen(package, catalog, make_splits(catalog), seen, notes), notes


def test_a_package_keeps_the_paths_that_are_no_groups(rows_catalog):
    alone = rows_catalog([f"{i}.mp4" for i in range(1000)])
    assert train_facts(alone)["train_paths"] == ""
    people = rows_catalog([i % 7 for i in range(1000)])
    facts = train_facts(people)
    assert len(facts["train_groups"]) == 7
    assert len(facts["train_paths"]) == 8000, "eight letters a file"
    package = SimpleNamespace(extra=facts, card={})
    assert set(TrainedOn.of(package).groups_in(alone)) == set(alone.group_names)
    one = TrainedOn.of(SimpleNamespace(extra=train_facts(alone.select(indices=[3])), card={}))
    assert one.groups_in(people) == {"3": "3.mp4"}
    assert TrainedOn.of(SimpleNamespace(extra={}, card={})) is None


def test_data_without_any_name_that_was_trained_on_is_taken_on_trust(world):
    catalog, encoder = world
    package = load_package(encoder)
    for extra, trusted in ((train_facts(catalog.select(split="train")), False),
                           ({"train_groups": group_hashes(["other"])}, True),
                           ({"train_groups": []}, False)):  # fmt: skip
        _, notes = without_seen_of(replace(package, extra=extra), catalog, "error")
        assert [("trust" in note) for note in notes] == [True] * trusted


def test_a_protocol_that_cannot_run_is_skipped_with_its_reason(world):
    catalog, encoder = world
    found = evaluate(
        encoder, catalog, protocols=["cycle", "knn"], frames_per_item=1, untrained_seeds=()
    )
    assert "second frame" in found.skipped["cycle"]
    assert {row.protocol for row in found.results} == {"knn"}


def test_typing_errors_are_found_before_any_work(world):
    catalog, encoder = world
    with pytest.raises(UnknownName, match="unknown protocol"):
        evaluate(encoder, catalog, protocols=["knnn"])
    with pytest.raises(UnknownName, match="unknown protocol"):
        evaluate(encoder, catalog, settings={"cycl": {}})
    with pytest.raises(UnknownName, match="unknown option"):
        evaluate(encoder, catalog, settings={"knn": {"kk": 1}})
    with pytest.raises(ConfigError, match="settings of 'knn', which is not measured") as caught:
        evaluate(encoder, catalog, protocols=["cycle"], settings={"cycle": {}, "knn": {"kk": 1}})
    assert "cycle,knn" in (caught.value.remedy or "")
    with pytest.raises(UnknownName, match="no such label column"):
        evaluate(encoder, catalog, label_column="appearence")


@pytest.mark.parametrize(
    ("protocol", "settings", "says"),
    [
        ("knn", {"k": 0}, "k must be at least 1"),
        ("knn", {"levels": []}, "levels needs a value"),
        ("linear", {"l2": [1.0, 0.0]}, "l2 needs values that are above 0"),
        ("retrieval", {"ks": []}, "ks needs values that are at least 1"),
        ("cycle", {"temperature": 0.0}, "temperature must be above 0"),
        ("linear_stored", {"milestones": [8, 4]}, "milestones must be positive and rise"),
        ("finetune", {"schedule": "step"}, "milestones belong to the step schedule"),
        ("finetune", {"lr": []}, "lr needs values that are above 0"),
        ("finetune", {"clips": "linspace"}, "unknown rule for the clips"),
        ("finetune", {"short": "loop"}, "short says what becomes"),
        ("finetune", {"scale": [0.5, 2.0]}, "scale must be two ordered numbers"),
        ("semi_supervised", {"epochs": [0, 1]}, "epochs must be at least 1"),
        ("semi_supervised", {"fractions": [0.1, 1.5]}, "fractions needs values above 0"),
        ("semi_supervised", {"fractions": [0.1, 0.1]}, "two fractions have one name"),
        ("semi_supervised", {"fractions": [0.1, 0.1000000001]}, "two fractions have one name"),
        ("semi_supervised", {"lists": ["gone.txt"], "epochs": [1]}, "no such list"),
        ("semi_supervised", {"subset_seed": -1}, "subset_seed must be at least 0"),
        ("cycle", {"split_seed": -1}, "split_seed must be at least 0"),
        ("segments", {"order_seed": -1}, "order_seed must be at least 0"),
        ("segments", {"head": "z"}, "no head 'z'"),
        ("correspondence", {"smallest": 2.0}, "smallest must lie"),
        ("propagation", {"context": 0}, "context must be at least 1"),
        ("propagation", {"stage": "layer9"}, "no stage 'layer9'"),
        ("segments", {"clips": 1}, "clips must be at least 2"),
        ("segmentation", {"parts": ["x"]}, "names no part 'x'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_measured(
    world, protocol, settings, says
):
    catalog, encoder = world
    kept = []
    with pytest.raises(ConfigError, match=says):
        evaluate(
            encoder,
            catalog,
            protocols=dict.fromkeys(["cycle", protocol]),
            settings={protocol: settings},
            progress=lambda done, total: kept.append(done),
            keep=kept.append,
        )
    assert not kept


def test_every_preset_can_be_read():
    for name in PROTOCOLS:
        protocol = load_protocol(name)
        parse_settings(protocol, {})
        for preset in protocol.presets:
            parse_settings(protocol, {"preset": preset})


def test_a_protocol_that_the_encoder_cannot_serve_is_skipped(world, tmp_path):
    catalog, _ = world
    plan = InferencePlan(size=24, resize=24, frames=4)
    save_package(tmp_path / "clips", build_backbone("small3d", seed=0), plan)
    found = evaluate(
        tmp_path / "clips",
        catalog,
        protocols=["propagation", "knn"],
        frames_per_item=1,
        untrained_seeds=(),
    )
    assert "encoder of frames" in found.skipped["propagation"]
    assert any(note.startswith("propagation was skipped: ") for note in found.notes)
    assert {row.protocol for row in found.results} == {"knn"}


def test_options_without_effect_are_refused(world):
    catalog, encoder = world
    with pytest.raises(ConfigError, match="no rule for clips is named") as caught:
        evaluate(encoder, catalog, protocols=["knn"], short="loop")
    assert "--clips linspace10" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="clips by a rule are for protocols on features"):
        evaluate(encoder, catalog, protocols=["segments", "cells"], clips="linspace10")
    with pytest.raises(ConfigError, match="heads are for protocols on features") as caught:
        evaluate(encoder, catalog, protocols=["finetune"], heads=["nonsense"])
    assert caught.value.value == ("nonsense",)
    with pytest.raises(UnknownName, match="no head 'nonsense'"):
        evaluate(encoder, catalog, protocols=["knn", "finetune"], heads=["nonsense"])


def test_settings_reach_the_protocol_and_the_row(world):
    catalog, encoder = world
    found = evaluate(
        encoder,
        catalog,
        protocols=["knn"],
        settings={"knn": {"k": 1, "levels": ["video"]}},
        label_column="pattern",
        untrained_seeds=(),
    )
    (row,) = found.results
    assert row.settings["k"] == 1
    assert row.settings["label_column"] == "pattern"
    assert np.isfinite(row.value)


def test_protocols_on_features_are_measured_behind_a_head_too(world, tmp_path):
    from rhyme.encoders import EncoderWithHeads, HeadConfig, build_head, save_package

    catalog, encoder = world
    package = load_package(encoder)
    head = build_head(HeadConfig(out=6), package.module.feature_dim)
    both = EncoderWithHeads(package.module, {"z": head})
    save_package(tmp_path / "both", both, package.plan, card={"system": "made_up", "seed": 1})
    done = evaluate(
        tmp_path / "both", catalog, protocols=("knn", "linear"), heads=("z",), untrained_seeds=(0,)
    )
    rows = {(r.protocol, r.metric, r.encoder): r for r in done.results}
    assert {m for _, m, _ in rows} == {"top1", "frame_top1", "top1@z", "frame_top1@z"}
    assert {e for _, m, e in rows if m == "top1@z"} == {"trained", "untrained"}
    plain = evaluate(tmp_path / "both", catalog, protocols=("knn",), untrained_seeds=())
    assert {r.metric for r in plain.results} == {"top1", "frame_top1"}
    none = HeadConfig(layers=0, out=0, last_norm=False, normalise=False)
    bare = build_head(none, package.module.feature_dim)
    assert not [*bare.parameters()]
    save_package(
        tmp_path / "bare", EncoderWithHeads(package.module, {"z": bare}), package.plan, card={}
    )
    done = evaluate(
        tmp_path / "bare", catalog, protocols=("knn",), heads=("z",), untrained_seeds=(0,)
    )
    found = {(row.metric, row.encoder): row.value for row in done.results}
    for name in ("top1", "frame_top1"):
        assert found[f"{name}@z", "trained"] == found[name, "trained"], "it passes features on"
    with pytest.raises(UnknownName, match="no head 'y'") as caught:
        evaluate(tmp_path / "both", catalog, protocols=("knn",), heads=("y",))
    assert "'z'" in str(caught.value.remedy) or "z" in str(caught.value.remedy)


def test_single_pictures_are_seen_once(world, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(15):
            pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"p{k}.png")
    done = evaluate(world[1], scan(tmp_path), protocols=("knn", "retrieval"), untrained_seeds=())
    assert {r.settings["frames_per_item"] for r in done.results} == {1}
    figures = {(r.protocol, r.metric) for r in done.results}
    assert ("retrieval", "recall_at_1") in figures
    assert not any("group" in metric for _, metric in figures), "no other frame of one picture"
