"""Protocols that train: few labels, fine-tuning, linear on crops, and the transfer grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from rhyme.catalog import Catalog, scan
from rhyme.encoders import InferencePlan, load_package
from rhyme.errors import ConfigError, EvaluationError, UnknownName
from rhyme.evaluation import Evaluation, Result, evaluate, judged, load_protocol, pixels
from rhyme.evaluation.pixels import Pixels
from rhyme.evaluation.protocol import parse_settings
from rhyme.evaluation.subsets import balanced_subset, listed_subset
from rhyme.evaluation.transfer import L2_GRID
from rhyme.tasks import Classifier, Tuning

QUICK = {
    "semi_supervised": {"fractions": [0.2, 1.0], "epochs": [1, 1], "batch_size": 16},
    "finetune": {"epochs": 1, "lr": [0.05, 0.5]},
    "linear_sgd": {"epochs": 1, "batch_size": 16},
    "transfer": {"l2": [0.01, 1.0]},
}


@pytest.fixture(scope="module")
def done(world) -> Evaluation:
    catalog, encoder = world
    return evaluate(
        encoder, catalog, protocols=tuple(QUICK), settings=QUICK, untrained_seeds=(0,), seed=0
    )


def test_every_protocol_stands_beside_the_untrained_encoder(done: Evaluation) -> None:
    assert not done.skipped
    figures = {(r.protocol, r.metric) for r in done.results}
    assert figures == {
        ("semi_supervised", "top1_20pct"),
        ("semi_supervised", "top1_100pct"),
        ("finetune", "top1"),
        ("linear_sgd", "top1"),
        ("transfer", "top1"),
    }
    for figure in figures:
        rows = [r for r in done.results if (r.protocol, r.metric) == figure]
        assert [r.encoder for r in rows] == ["trained", "untrained"]
        assert all(0 <= r.value <= 1 and r.chance is not None for r in rows)
        assert len({r.items for r in rows}) == 1


def test_figures_do_not_depend_on_whether_the_frames_fit_into_memory(world, monkeypatch) -> None:
    catalog, encoder = world
    settings = {"finetune": {"epochs": 2}}
    found = []
    for room in (2 << 30, 0):
        monkeypatch.setattr(pixels, "_CACHE_BYTES", room)
        done = evaluate(
            encoder, catalog, protocols=["finetune"], settings=settings, untrained_seeds=(0, 1),
            frames_per_item=2,
        )  # fmt: skip
        assert {row.details["in_memory"] for row in done.results} == {room > 0}
        found.append([row.value for row in done.results])
    assert found[0] == found[1]


def test_the_subset_is_written_down_and_the_same_for_all(done: Evaluation) -> None:
    rows = [r for r in done.results if r.metric == "top1_20pct"]
    labels = [r.details["labels"] for r in rows]
    assert labels[0] == labels[1]
    assert len(labels[0]["ids"]) == labels[0]["items"] == rows[0].details["fitted_items"]
    whole = next(r for r in done.results if r.metric == "top1_100pct").details["labels"]
    assert set(labels[0]["ids"]) < set(whole["ids"])


def test_a_choice_is_made_on_validation_items(done: Evaluation) -> None:
    row = next(r for r in done.results if r.protocol == "finetune")
    scores = row.details["validation"]
    assert set(scores) == {"lr 0.05, weight decay 0", "lr 0.5, weight decay 0"}
    assert scores[f"lr {row.details['lr']:g}, weight decay 0"] == max(scores.values())
    fixed = next(r for r in done.results if r.protocol == "linear_sgd")
    assert "validation" not in fixed.details


def test_the_chosen_setting_may_be_trained_once_more_on_all(world, monkeypatch) -> None:
    catalog, encoder = world
    fitted: list[tuple[float, int]] = []
    fit = Pixels.fit

    def counted(self: Pixels, rows: np.ndarray, tuning: Tuning) -> Classifier:
        fitted.append((tuning.lr, len(rows)))
        return fit(self, rows, tuning)

    monkeypatch.setattr(Pixels, "fit", counted)

    def row(**changes: object) -> Result:
        fitted.clear()
        done = evaluate(
            encoder, catalog, protocols=("finetune",), untrained_seeds=(),
            settings={"finetune": {"epochs": 1, **changes}},
        )  # fmt: skip
        return done.results[0]

    plain = row(lr=[0.05, 0.5])
    train = plain.details["fitted_items"]
    assert fitted == [(0.05, train), (0.5, train)]
    both = row(lr=[0.05, 0.5], refit="train+val")
    assert both.details["validation"] == plain.details["validation"], "chosen by them as before"
    every = both.details["fitted_items"]
    assert every > train
    assert fitted == [(0.05, train), (0.5, train), (both.details["lr"], every)]
    assert row(lr=[0.05], refit="train+val").details["fitted_items"] == every
    assert fitted == [(0.05, every)], "with one setting nothing is tried before"


def test_a_setting_that_diverges_is_told_and_never_chosen(world) -> None:
    catalog, encoder = world
    grids = {
        "finetune": {"epochs": 2, "lr": [1e30, 1e-9, 1e31]},
        "linear_sgd": {"preset": "moco", "epochs": 2, "milestones": [1], "batch_size": 8,
                       "lr_batch": 8, "lr": [1e38, 1e-9, 30.0]},
    }  # fmt: skip
    done = evaluate(encoder, catalog, protocols=tuple(grids), settings=grids, untrained_seeds=(0,))
    assert not done.skipped
    for row in done.results:
        lost = {"finetune": {1e30, 1e31}, "linear_sgd": {1e38}}[row.protocol]
        names = {f"lr {lr:g}, weight decay 0" for lr in lost}
        assert set(row.details["diverged"]) == names
        assert row.details["lr"] not in lost
        assert not names & set(row.details["validation"])
        for name in names:
            note = f"{row.protocol} top1: the training diverged at {name}, which was not chosen"
            assert note in done.notes, "of both encoders, so that it names neither"


def test_where_every_setting_diverges_there_is_no_figure(world) -> None:
    catalog, encoder = world
    done = evaluate(
        encoder, catalog, protocols=("finetune",),
        settings={"finetune": {"epochs": 1, "lr": [1e30]}}, untrained_seeds=(),
    )  # fmt: skip
    assert done.results == ()
    assert "lower its lr" in done.skipped["finetune"]
    assert "encoder is broken" not in done.skipped["finetune"]


def test_a_subset_is_balanced_fixed_and_nested() -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 2**62, 1000).astype(np.uint64)
    codes = np.arange(1000) % 10
    small, written = balanced_subset(ids, codes, 0.05, seed=3)
    assert np.bincount(codes[small]).tolist() == [5] * 10
    assert (written["items"], written["a_class"], written["seed"]) == (50, 5, 3)
    large, more = balanced_subset(ids, codes, 0.2, seed=3)
    assert set(small) < set(large)
    assert written["sha256"] != more["sha256"]
    order = random.permutation(1000)
    again, same = balanced_subset(ids[order], codes[order], 0.05, seed=3)
    assert set(ids[order][again]) == set(ids[small])
    assert same["sha256"] == written["sha256"]
    other, _ = balanced_subset(ids, codes, 0.05, seed=4)
    assert set(other) != set(small)
    assert "ids" not in balanced_subset(np.arange(4000).astype(np.uint64), np.arange(4000) % 2,
                                        0.5, 0)[1]  # fmt: skip


def test_a_rare_class_gives_all_it_has() -> None:
    codes = np.array([0] * 90 + [1] * 3 + [2] * 7)
    places, written = balanced_subset(np.arange(100).astype(np.uint64), codes, 0.15, seed=0)
    assert np.bincount(codes[places]).tolist() == [5, 3, 5]
    assert written["a_class"] == 5
    one, _ = balanced_subset(np.arange(100).astype(np.uint64), codes, 0.001, seed=0)
    assert np.bincount(codes[one]).tolist() == [1, 1, 1], "never less than one of each"
    with pytest.raises(EvaluationError):
        balanced_subset(np.arange(100).astype(np.uint64), codes, 0.0, seed=0)


def listed(tmp_path: Path, *lines: str) -> str:
    """A list of labelled items."""
    file = tmp_path / "5percent.txt"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def few_labels(world, *files: str) -> Evaluation:
    catalog, encoder = world
    settings = {"lists": list(files), "epochs": [1] * len(files), "batch_size": 8}
    return evaluate(
        encoder, catalog, protocols=("semi_supervised",), untrained_seeds=(0,), seed=0,
        settings={"semi_supervised": settings},
    )  # fmt: skip


def test_labelled_items_may_be_listed_in_a_file(world, tmp_path) -> None:
    catalog, _ = world
    splits = np.array(catalog.splits)
    train, val = (np.flatnonzero(splits == name) for name in ("train", "val"))
    rows = [*train[:12].tolist(), *val[:2].tolist()]
    paths = [catalog.item(row).path for row in rows]
    whole = listed(tmp_path, *(Path(path).name for path in paths[:7]), "", *paths[7:])
    done = few_labels(world, whole)
    assert not done.skipped
    out = set(done.results[0].details["classes_left_out"])
    codes, names = catalog.labels()
    measured = [row for row in rows if names[codes[row]] not in out]
    assert 5 < len(measured) < len(rows), "a class that is not measured gives no labels"
    for row in done.results:
        labels = row.details["labels"]
        assert row.metric == "top1_5percent"
        assert row.details["fitted_items"] == labels["items"] == len(measured)
        assert labels["left_out"] == len(rows) - len(measured)
        assert labels["list"] == "5percent.txt"
        assert labels["ids"] == sorted(catalog.facts(measured).id.tolist())


def test_lists_that_do_not_fit_are_refused_with_the_names(world, tmp_path) -> None:
    catalog, _ = world
    by_split = {
        split: [catalog.item(i).path for i in range(len(catalog)) if catalog.item(i).split == split]
        for split in ("train", "test")
    }
    first = by_split["train"][0]
    for lines, what in (
        ((first, "gone.mp4"), "what is not there in 1 of its lines, first 'gone.mp4'"),
        ((first, by_split["test"][0]), "a test item in 1 of its lines"),
        ((first, Path(first).name), "a file twice in 2 of its lines"),
        (("",), "is empty"),
    ):
        told = few_labels(world, listed(tmp_path, *lines)).skipped["semi_supervised"]
        assert what in told
        assert told.startswith("5percent.txt")
    with pytest.raises(ConfigError, match="no such list of labelled items"):
        few_labels(world, str(tmp_path / "no.txt"))
    with pytest.raises(ConfigError, match="lists and epochs go together") as caught:
        load_protocol("semi_supervised").settings(lists=("1percent.txt",))
    assert "--semi_supervised.lists [1percent.txt]" in str(caught.value)
    with pytest.raises(ConfigError, match="two lists have one name"):
        load_protocol("semi_supervised").settings(lists=("a/1percent.txt", "b/1percent.txt"))


def test_a_name_that_several_items_have_wants_its_folder(tmp_path) -> None:
    for name in ("train/a/one.png", "train/b/one.png", "train/b/two.png", "test/a/cat.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(name), 90, 0)).save(path)
    catalog = scan(tmp_path / "set", out=tmp_path / "set.catalog")
    splits = np.array([Path(catalog.item(i).path).parts[0] for i in range(len(catalog))])
    pixels = Pixels(
        encoder=torch.nn.Identity(), plan=InferencePlan(size=32, resize=32), catalog=catalog,
        rows={
            "train": np.flatnonzero(splits == "train"), "val": np.arange(0),
            "test": np.flatnonzero(splits == "test"),
        },
        codes=np.zeros(len(catalog), np.int64), classes=2,
    )  # fmt: skip
    rows, written = listed_subset(pixels, listed(tmp_path, "b/one.png", "two.png"))
    assert [catalog.item(row).path for row in rows] == ["train/b/one.png", "train/b/two.png"]
    assert written["items"] == 2
    with pytest.raises(EvaluationError, match="several files in 1 of its lines") as caught:
        listed_subset(pixels, listed(tmp_path, "one.png"))
    assert "train/cat/0001.jpg" in str(caught.value)
    with pytest.raises(EvaluationError, match="what is not there"):
        listed_subset(pixels, listed(tmp_path, "bb/one.png"))


def test_a_name_stands_for_all_segments_of_its_film(rows_catalog, tmp_path) -> None:
    catalog = rows_catalog(["a", "a", "b", "c"], label=["x", "x", "y", "x"])
    table = catalog.table
    paths = pa.array(["film.mp4", "film.mp4", "other.mp4", "test.mp4"])
    catalog = Catalog(table.set_column(table.column_names.index("path"), "path", paths))
    pixels = Pixels(
        encoder=torch.nn.Identity(), plan=InferencePlan(size=32, resize=32), catalog=catalog,
        rows={"train": np.arange(3), "val": np.arange(0), "test": np.array([3])},
        codes=np.array([0, 0, 1, 0]), classes=2,
    )  # fmt: skip
    rows, written = listed_subset(pixels, listed(tmp_path, "film.mp4"))
    assert rows.tolist() == [0, 1]
    assert (written["items"], written["left_out"]) == (2, 0)
    with pytest.raises(EvaluationError, match="a file twice in 2 of its lines"):
        listed_subset(pixels, listed(tmp_path, "film.mp4", "film.mp4", "other.mp4"))


def test_the_grid_of_the_transfer_protocol() -> None:
    assert len(L2_GRID) == 45
    assert (L2_GRID[0], L2_GRID[-1]) == (1e-6, 1e5)
    steps = np.diff(np.log10(L2_GRID))
    assert np.allclose(steps, 11 / 44, atol=1e-5)
    settings = load_protocol("transfer").settings()
    assert (settings.l2, settings.refit) == (L2_GRID, "train+val")


def test_published_settings() -> None:
    few = load_protocol("semi_supervised").settings()
    assert (few.fractions, few.epochs, few.lr) == ((0.01, 0.1), (60, 30), 0.05)
    linear = load_protocol("linear_sgd").settings()
    assert (linear.epochs, linear.lr, linear.weight_decay) == (90, (0.1,), (0.0,))
    assert few.names == ["1pct", "10pct"]
    with pytest.raises(ConfigError, match="go together"):
        load_protocol("semi_supervised").settings(fractions=(0.5,))


def test_what_trains_on_pictures_wants_no_features(world, monkeypatch) -> None:
    def extracted(*_args, **_options):
        raise AssertionError("features were made that nobody reads")

    monkeypatch.setattr(judged, "extract_many", extracted)
    catalog, encoder = world
    done = evaluate(
        encoder, catalog, protocols=("finetune",), settings={"finetune": {"epochs": 1}},
        untrained_seeds=(0,),
    )  # fmt: skip
    assert {r.metric for r in done.results} == {"top1"}
    assert done.features == {}


def test_a_split_without_a_label_is_named(world) -> None:
    catalog, encoder = world
    package = load_package(encoder)
    some, none = np.arange(3), np.arange(0)
    for split in ("train", "test"):
        rows = {"train": some, "val": none, "test": some, split: none}
        with pytest.raises(EvaluationError, match=f"no labelled item in the split '{split}'"):
            Pixels(
                encoder=package.module, plan=package.plan, catalog=catalog, rows=rows,
                codes=np.zeros(len(catalog), dtype=np.int64), classes=2,
            )  # fmt: skip


def test_presets_are_the_published_settings_and_can_be_changed() -> None:
    finetune, linear = load_protocol("finetune"), load_protocol("linear_sgd")
    dual = parse_settings(finetune, {"preset": "dual", "epochs": 3, "milestones": [1]})
    assert (dual.lr, dual.lr_batch, dual.weight_decay) == ((0.05,), 16, (1e-3,))
    assert (dual.epochs, dual.milestones, dual.preset) == (3, (1,), "dual")
    assert (dual.frames, dual.stride, dual.clips, dual.aggregate) == (
        16,
        2,
        "linspace10",
        "softmax",
    )
    k400 = parse_settings(finetune, {"preset": "dual-k400"})
    assert (k400.epochs, k400.milestones) == (150, (50, 100))
    cstp = parse_settings(finetune, {"preset": "cstp"})
    assert (cstp.unit, cstp.norm, cstp.schedule, cstp.patience) == (True, True, "plateau", 10)
    assert (cstp.clips, cstp.aggregate, cstp.stride) == ("tiled+last", "logits", 4)
    coclr = parse_settings(linear, {"preset": "coclr"})
    assert (coclr.lr, coclr.weight_decay, coclr.milestones) == ((0.1,), (1e-3,), (60, 80))
    assert coclr.norm
    assert {s.refit for s in (dual, k400, cstp, coclr)} == {"train+val"}
    assert finetune.settings().refit == linear.settings().refit == "train"
    transfer = parse_settings(finetune, {"preset": "simclr-transfer"})
    tried = transfer.tunings(frozen=False)
    assert len(tried) == 56
    assert {(t.steps, t.batch_size, t.lr_batch, t.nesterov) for t in tried} == {
        (20_000, 256, 256, True)
    }
    rates, decays = sorted({t.lr for t in tried}), transfer.weight_decay
    assert np.allclose(rates, np.logspace(-4, -1, 7))
    assert np.allclose(decays, [0.0, *np.logspace(-6, -3, 7)])
    for rate in rates:
        found = [t.weight_decay * rate for t in tried if t.lr == rate]
        assert np.allclose(found, decays), "a decay is divided by its rate"
    small = parse_settings(finetune, {"preset": "small"})
    assert (small.scale, small.flip, small.lr, small.epochs) == ((0.6, 1.0), 0.5, (0.05, 0.2), 30)
    moco = parse_settings(linear, {"preset": "moco"})
    (tried,) = moco.tunings(frozen=True)
    assert (tried.lr, tried.lr_batch, tried.batch_size, tried.weight_decay) == (30, 256, 256, 0)
    assert (tried.schedule, tried.epochs, tried.milestones) == ("step", 100, (60, 80))
    assert (tried.nesterov, tried.norm, tried.unit) == (False, False, False)
    assert (tried.scale, tried.flip, tried.jitter) == ((0.08, 1.0), 0.5, 0)
    assert parse_settings(finetune, {}) == finetune.settings()
    for protocol in (finetune, linear):
        for name in protocol.presets:
            for tuning in parse_settings(protocol, {"preset": name}).tunings(frozen=False):
                assert tuning.epochs >= 30
    with pytest.raises(UnknownName, match="no preset 'duel'") as caught:
        parse_settings(finetune, {"preset": "duel"})
    assert "dual" in caught.value.remedy


def test_small_frames_are_told_of_their_preset(world) -> None:
    catalog, encoder = world

    def notes(**changes: object) -> list[str]:
        done = evaluate(
            encoder, catalog, protocols=("finetune",), untrained_seeds=(),
            settings={"finetune": {"epochs": 1, **changes}},
        )  # fmt: skip
        assert not done.skipped
        return [note for note in done.notes if "--finetune.preset small" in note]

    (told,) = notes()
    assert told.startswith("finetune top1: frames of 24 px, cropped to 8 % and more: ")
    assert notes(preset="small", lr=[0.05]) == []
    assert notes(scale=[0.6, 1.0]) == [], "who chose crops needs no advice"
