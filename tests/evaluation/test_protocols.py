"""Each protocol on hand-made features: what it reports, and beside what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rhyme.errors import DataError, EvaluationError, UnknownName
from rhyme.evaluation import PROTOCOLS, load_protocol
from rhyme.evaluation.protocol import parse_settings
from rhyme.tasks import FeatureTable, cycle_return, knn_classify, linear_probe, retrieval


def run(name, split, **settings):
    protocol = load_protocol(name)
    metrics = protocol.run(split, parse_settings(protocol, settings))
    return {metric.name: metric for metric in metrics}


def test_knn_follows_the_gate(split):
    found = run("knn", split)
    stats = split.train.statistics()
    bank, y = split.train.video(stats), split.labels["train"]
    video = knn_classify(bank, y, split.test.video(stats), 10)
    frame = knn_classify(bank, y, split.test.frames(stats), 10)
    truth = split.labels["test"]
    assert found["top1"].value == pytest.approx((video == truth).mean())
    assert found["frame_top1"].value == pytest.approx((frame == np.repeat(truth, 4)).mean())
    assert (found["top1"].items, found["frame_top1"].items) == (18, 72)
    assert found["top1"].value > 0.9 > found["top1"].chance == pytest.approx(1 / 3)
    assert set(found["top1"].details["per_class"]) == {"a", "b", "c"}
    assert set(run("knn", split, levels=["video"])) == {"top1"}


def test_knn_takes_out_the_scale_of_features(split):
    # one loud feature without meaning drowns the others unless the bank's deviation is taken out
    def loud(table, seed):
        features = table.features.copy()
        features[..., 0] = 300 * np.random.default_rng(seed).normal(size=features.shape[:2])
        return replace(table, features=features)

    noisy = replace(
        split, **{n: loud(getattr(split, n), i) for i, n in enumerate(("train", "val", "test"))}
    )
    with_it, without = run("knn", noisy), run("knn", noisy, standardise=False)
    assert with_it["frame_top1"].value > without["frame_top1"].value + 0.2


def test_unlabelled_items_take_no_part(split):
    codes = split.labels["train"].copy()
    codes[codes == 2] = -1
    test = split.labels["test"].copy()
    test[test == 2] = -1
    partly = replace(split, labels={**split.labels, "train": codes, "test": test})
    found = run("knn", partly)
    assert found["top1"].items == 12
    assert found["top1"].details["bank"] == 20
    with pytest.raises(EvaluationError, match="no labelled item"):
        run("knn", replace(split, labels={**split.labels, "test": np.full(18, -1)}))


def test_linear_chooses_on_validation_and_says_what(split):
    found = run("linear", split, l2=[0.001, 0.1, 10.0])["top1"]
    direct = linear_probe(
        split.train.mean(),
        split.labels["train"],
        split.val.mean(),
        split.labels["val"],
        split.test.mean(),
        split.labels["test"],
        l2=(0.001, 0.1, 10.0),
    )
    assert found.value == pytest.approx(direct.accuracy)
    assert found.details["l2"] == direct.l2
    assert found.details["fitted_on"] == "train"
    assert set(found.details["validation"]) == {"0.001", "0.1", "10"}
    frames = run("linear", split, levels=["frame"])["frame_top1"]
    assert frames.items == 72


def test_retrieval_of_class_and_of_group(split):
    found = run("retrieval", split)
    stats = split.train.statistics()
    direct = retrieval(
        split.test.video(stats),
        split.train.video(stats),
        split.labels["test"],
        split.labels["train"],
        split.test.group,
        split.train.group,
    )
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"].value == pytest.approx(direct.recall[k])
        assert found[f"recall_at_{k}"].chance == pytest.approx(direct.chance_recall[k])
    assert found["map"].value == pytest.approx(direct.mean_average_precision)
    assert found["map"].value > found["map"].chance + 0.2
    assert found["recall_at_1"].details["gallery"] == 30
    assert found["group_recall_at_1"].value > found["group_recall_at_1"].chance
    within = run("retrieval", split, gallery="test", group=False)
    assert within["recall_at_1"].details["gallery"] == 18
    assert "group_recall_at_1" not in within
    frames = run("retrieval", split, levels=["frame"], group=False)
    assert frames["frame_recall_at_1"].items == 72


def test_retrieval_of_centred_features(split):
    """The published form, and those that do not depend on the other queries."""
    found = run("retrieval", split, preset="dual", ks=[1, 5], gallery="train")
    assert set(found) == {
        f"{name}{end}"
        for name in ("recall_at_1", "recall_at_5", "map")
        for end in ("_own_mean", "_train_mean", "_plain")
    }
    x, y = split.train.mean(), split.test.mean()
    sides = {
        "_own_mean": (y - y.mean(0), x - x.mean(0)),
        "_train_mean": (y - x.mean(0), x - x.mean(0)),
        "_plain": (y, x),
    }
    for end, (queries, gallery) in sides.items():
        direct = retrieval(
            queries, gallery, split.labels["test"], split.labels["train"],
            split.test.group, split.train.group, ks=(1, 5),
        )  # fmt: skip
        for k in (1, 5):
            assert found[f"recall_at_{k}{end}"].value == direct.recall[k]
            assert found[f"recall_at_{k}{end}"].chance == direct.chance_recall[k]
    preset = parse_settings(load_protocol("retrieval"), {"preset": "dual"})
    assert preset.ks == (1, 5, 10, 20, 50)


def set_aside(split, rows):
    """The same items with other ones of them set aside for validation."""
    table = split.train.join(split.val)
    table = replace(table, index=np.arange(len(table)))
    codes = np.concatenate([split.labels["train"], split.labels["val"]])
    kept = np.setdiff1d(np.arange(len(table)), rows)
    labels = {"train": codes[kept], "val": codes[rows], "test": split.labels["test"]}
    return replace(split, train=table.select(kept), val=table.select(rows), labels=labels)


def test_what_was_set_aside_for_validation_answers_where_nothing_is_chosen(split):
    """The preset's gallery is the published training list, whichever part of it was set aside."""
    whole = set_aside(split, np.arange(0))
    first, second = (
        run("retrieval", set_aside(split, rows), preset="dual", ks=[1, 5])
        for rows in (np.arange(9), np.arange(3, 44, 4))
    )
    for name, metric in run("retrieval", whole, preset="dual", ks=[1, 5]).items():
        assert metric.details["gallery"] == first[name].details["gallery"] == 45
        assert metric.value == first[name].value == second[name].value
        assert metric.chance == first[name].chance
    less = run("retrieval", set_aside(split, np.arange(9)), preset="dual", gallery="train")
    assert less["recall_at_1_plain"].details["gallery"] == 36
    preset = parse_settings(load_protocol("retrieval"), {"preset": "dual"})
    assert preset.gallery == "train+val"
    assert parse_settings(load_protocol("retrieval"), {}).gallery == "train", "rows of before"
    loud = run("retrieval", whole, gallery="train+val", group=False)
    assert loud["recall_at_1"].value == run("retrieval", whole, group=False)["recall_at_1"].value


def test_the_probe_on_stored_features_trains_on_all_once_nothing_is_left_to_choose(split):
    whole = set_aside(split, np.arange(0))
    quick = {"epochs": 10, "milestones": [5]}
    found = run("linear_stored", set_aside(split, np.arange(9)), **quick)["top1"]
    assert (found.details["fitted_on"], found.details["fitted_items"]) == ("train+val", 45)
    direct = run("linear_stored", whole, refit="train", **quick)["top1"]
    assert (found.value, found.details["per_class"]) == (direct.value, direct.details["per_class"])
    apart = run("linear_stored", set_aside(split, np.arange(9)), refit="train", **quick)["top1"]
    assert apart.details["fitted_items"] == 36
    chosen = run("linear_stored", set_aside(split, np.arange(9)), lr=[1e-6, 1.0], **quick)["top1"]
    assert len(chosen.details["validation"]) == 2
    assert chosen.details["lr"] == 1.0
    assert chosen.details["fitted_items"] == 45
    assert chosen.value == found.value, "the chosen one is trained once more on all"


def test_linear_on_stored_features(split):
    found = run("linear_stored", split)["top1"]
    assert found.items == 18
    assert found.value > 0.85
    assert found.details["lr"] == 1.0
    assert "validation" not in found.details
    chosen = run("linear_stored", split, lr=[0.1, 1.0], epochs=10, milestones=[5])["top1"]
    assert set(chosen.details["validation"]) == {
        "lr 0.1, weight decay 0.001",
        "lr 1, weight decay 0.001",
    }
    none = {**split.labels, "val": np.full(len(split.val), -1)}
    with pytest.raises(EvaluationError, match="no labelled item"):
        run("linear_stored", replace(split, labels=none), lr=[0.1, 1.0])
    alone = run("linear_stored", replace(split, labels=none))["top1"]
    assert alone.value == run("linear_stored", split, refit="train")["top1"].value


def test_without_labels_only_the_group_is_retrieved(split):
    found = run("retrieval", replace(split, labels=None), group=False)
    assert set(found) == {f"group_recall_at_{k}" for k in (1, 5, 10)}


@pytest.mark.parametrize("protocol", ["retrieval", "cycle"])
def test_copies_of_a_frame_are_not_its_neighbours(split, protocol):
    """Frames that say nothing of their item; every second item shows one frame four times."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4, 32)).astype(np.float32)
    features[::2] = features[::2, :1]
    times = np.tile(np.arange(4.0), (60, 1))
    times[::2] = 0
    number = np.arange(60)
    test = FeatureTable(
        features=features, times=times, index=number, ids=number.astype(np.uint64), group=number
    )
    found = run(protocol, replace(split, train=test, test=test, labels=None))
    metric = found["group_recall_at_1" if protocol == "retrieval" else "return_rate_query"]
    assert metric.value == pytest.approx(metric.chance, abs=0.05)
    assert metric.chance == pytest.approx(3 / metric.details.get("candidates", 149))
    assert metric.details["left_out"] > 10, "items of one frame ask nothing"


def test_cycle_reports_beside_q_and_uniform_weights(split):
    found = run("cycle", split)
    direct = cycle_return(
        split.test.frames(), np.repeat(split.test.group, 4), np.repeat(split.labels["test"], 4)
    )
    assert found["return_rate"].value == pytest.approx(direct.rate)
    assert found["return_rate_query"].value == pytest.approx(direct.rate_query)
    assert found["return_rate_uniform"].value == pytest.approx(direct.rate_uniform)
    assert found["same_class_mass"].value == pytest.approx(direct.mass)
    assert found["same_class_mass"].chance == pytest.approx(direct.mass_chance)
    assert found["return_rate"].details["support"] == direct.support == 36
    assert found["return_rate"].details["candidates"] == direct.candidates == 35
    assert "same_class_mass" not in run("cycle", replace(split, labels=None))
    other = run("cycle", split, split_seed=5)
    again = run("cycle", replace(split, seed=5))
    assert other["same_class_mass"].value == again["same_class_mass"].value
    assert other["same_class_mass"].value != found["same_class_mass"].value


def test_registry(split):
    for name in PROTOCOLS:
        protocol = load_protocol(name)
        assert protocol.id == name
        assert protocol.title
    with pytest.raises(UnknownName, match="unknown protocol") as caught:
        load_protocol("kn")
    assert "did you mean 'knn'" in caught.value.remedy
    with pytest.raises(UnknownName, match="unknown option"):
        parse_settings(load_protocol("knn"), {"kk": 3})
    with pytest.raises(EvaluationError, match="needs labels"):
        run("knn", replace(split, labels=None))
    one = {name: np.zeros_like(codes) for name, codes in split.labels.items()}
    with pytest.raises(DataError, match="two classes"):
        run("linear", replace(split, labels=one))
