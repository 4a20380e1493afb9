"""``rhyme estimate`` against what a run of the same options turns out to be."""

from pathlib import Path

import pytest

from rhyme import api
from rhyme.api.estimate import _length, _pace
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, DataError
from support.tiny_runs import OVERRIDES, catalog, flags, refused, rhyme, trained

SHORT = {"seconds": 0.2}


@pytest.fixture(scope="module")
def found() -> api.Estimate:
    return api.estimate(
        "cycle_contrast", data=catalog(), overrides=OVERRIDES["cycle_contrast"], **SHORT
    )


def files(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_length_and_disk_are_those_of_the_run(found: api.Estimate) -> None:
    run = trained("cycle_contrast")
    (line,) = api.runs(run)
    assert (found.steps, found.batch) == (line.steps, 8)
    tensors = [f.stat().st_size for f in run.glob("checkpoints/*/*.safetensors")]
    assert found.disk["checkpoints"] / (len(tensors) + 1) == pytest.approx(tensors[0], rel=0.1)
    assert found.disk["encoder"] == pytest.approx(files(run / "encoder"), rel=0.2)


def test_figures_hang_together(found: api.Estimate) -> None:
    assert found.seconds.low <= found.seconds.value <= found.seconds.high
    assert found.seconds.value >= found.steps * found.step.value
    assert found.error > 0
    assert found.memory is None or found.memory > found.disk["checkpoints"] / 4
    assert found.host_memory > 0
    assert found.setup > 0


def test_a_number_of_items_is_enough() -> None:
    done = rhyme("estimate", "moco", "--items", 1000, "--seconds", 0.2, "--json",
                 *flags({**OVERRIDES["moco"], "train.epochs": 3}))  # fmt: skip
    assert done.code == 0, done.err
    document = done.document
    assert document["steps"] == 6  # the earlier end counts
    assert document["items"] == 1000
    assert any("stand-in" in note for note in document["notes"])


def test_items_of_one_source_are_refused_as_the_training_refuses_them() -> None:
    """Groups are those of the data: with an item a group the queue would have been open to all."""
    whole = Catalog.open(catalog())
    one = whole.with_column("group", ["camera"] * len(whole))
    with pytest.raises(DataError, match="of one group"):
        api.estimate("moco", data=one, overrides=OVERRIDES["moco"], **SHORT)
    overrides = {**OVERRIDES["moco"], "model.mask_same_group": False}
    assert api.estimate("moco", data=one, overrides=overrides, **SHORT).steps > 0


def test_ranks_share_the_batch() -> None:
    found = api.estimate("moco", items=64, gpus=4, overrides=OVERRIDES["moco"], **SHORT)
    assert found.ranks == 4
    assert any("communication" in note for note in found.notes)
    with pytest.raises(ConfigError, match="cannot be shared by 3"):
        api.estimate("moco", items=64, gpus=3, overrides=OVERRIDES["moco"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["moco"], "--items"),
        (["moco", "--items", "3"], "do not fill a batch"),
        (["mocco", "--items", "3"], "moco"),
        (["moco", "--data", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_questions_are_answered_with_a_remedy(arguments: list[str], says: str) -> None:
    done = rhyme("estimate", *arguments, "--seconds", 0.1)
    assert done.code in (1, 2)
    assert says in done.err
    assert "remedy" in done.err


def test_too_few_items_are_refused_before_anything_is_measured() -> None:
    done = rhyme("estimate", "moco", "--data", catalog(), "--train.batch-size", 1000)
    assert done.code == 2
    assert "do not fill a batch" in done.err
    assert "measuring" not in done.err


@pytest.mark.parametrize("items", [0, -1])
def test_no_items_are_refused_as_such(items: int) -> None:
    done = rhyme("estimate", "moco", "--items", items, "--seconds", 0.1)
    refused(done, 2, "at least 1 item", f"value:  {items}", "--items 1000")
    assert "batch_size" not in done.err


def test_no_batch_of_nothing_is_advised() -> None:
    chosen = api.resolve_recipe("moco")
    with pytest.raises(ConfigError) as told:
        _length(chosen, 0)
    assert told.value.remedy == "give more items"
    with pytest.raises(ConfigError, match=r"lower the batch: --train.batch_size 3"):
        _length(chosen, 3)


def test_a_pace_is_set_by_the_slower_side() -> None:
    import os

    import torch

    cores = os.cpu_count() or 1
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert _pace(2.0, 1.0, 0, cuda, 1) == 3.0
    assert _pace(2.0, 1.0, 1, cuda, 1) == 2.0
    assert _pace(2.0, 12.0, 2, cuda, 1) == 12.0 / min(2, cores)
    threads = torch.get_num_threads()
    expected = max(2.0, 6.0 / 2, (2.0 * threads + 6.0) / cores)
    assert _pace(2.0, 6.0, 2, cpu, 1) == expected


def test_options_on_reading_files_need_files() -> None:
    for option, value in (
        ("--labels", "none.csv"), ("--label-column", "a"), ("--kinds", "bogus"),
        ("--segment", "-4"), ("--split", "all"), ("--fold", "1"),
    ):  # fmt: skip
        done = rhyme("estimate", "moco", "--items", 100, option, value)
        refused(done, 2, f"{option} says how to read a folder", "add --data DIR")
