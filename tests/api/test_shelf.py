"""``--encoder`` in place of a run: evaluate, compare, embed, search, export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from rhyme import api
from rhyme.api import OffTheShelf
from rhyme.catalog import Catalog, scan
from rhyme.encoders import load_package
from rhyme.evaluation import read_results
from rhyme.run import sha256_file
from support.extras import extra
from support.tiny_runs import catalog, refused, rhyme, trained, world

SMALL = ("--encoder", "torchvision:squeezenet1_1", "--size", 32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_an_encoder_off_the_shelf_is_a_row_beside_runs(weights: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    shown = rhyme(
        "evaluate", *SMALL, "--weights", weights, "--data", catalog(), "--protocol", "knn",
        "--frames", 1, "--results", rows,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    found = read_results(rows)
    (own,) = [r for r in found if (r.encoder, r.metric) == ("trained", "top1")]
    assert own.system == "torchvision:squeezenet1_1 squeezenet.pth"
    assert own.details["weights"]["file"] == "squeezenet.pth"
    assert len(own.details["weights"]["sha256"]) == 64
    left = ["classifier.1.bias", "classifier.1.weight"]
    assert own.details["weights"]["left_out"] == {"classifier or head": left}
    assert "2 are not the backbone's and left out (classifier or head, 2: classifier.1.bias" in (
        " ".join(shown.out.split())
    )
    assert own.details["plan"]["size"] == 32
    assert [r.seed for r in found if (r.encoder, r.metric) == ("untrained", "top1")] == [0, 1, 2]
    assert "the file of weights does not say which groups it was trained on" in (
        " ".join(shown.out.split())
    )
    compared = api.compare([rows])
    assert any("squeezenet.pth" in str(line) for line in compared.rows)


def test_files_of_one_name_and_other_sizes_are_rows_of_their_own(
    weights: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    files = [tmp_path / name / "checkpoint.pth" for name in "ab"]
    for path in files:
        path.parent.mkdir()
    files[0].write_bytes(weights.read_bytes())
    torch.save(models.squeezenet1_1(weights=None).state_dict(), files[1])
    for path, size in ((files[0], 32), (files[1], 32), (files[0], 48)):
        encoder = OffTheShelf(encoder="torchvision:squeezenet1_1", weights=path, size=size)
        api.evaluate(
            encoder, catalog(), protocols="retrieval", untrained_seeds=(0,), frames_per_item=1,
            results=rows,
        )  # fmt: skip
    lines = [line for line in api.compare([rows]).lines if line.metric == "recall_at_1"]
    a, b = (sha256_file(path)[:8] for path in files)
    name = "torchvision:squeezenet1_1 checkpoint.pth"
    arms = [f"{name} ({mark}, size {size})" for mark, size in ((a, 32), (b, 32), (a, 48))]
    assert {line.arm for line in lines} == {*arms, *(f"{arm} untrained" for arm in arms)}
    assert {line.n for line in lines} == {1}
    against = {line.arm: line.difference.baseline for line in lines if line.difference is not None}
    assert against == {arm: f"{arm} untrained" for arm in arms}


def test_without_weights_no_row_is_of_a_trained_encoder(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    shown = rhyme(
        "evaluate", *SMALL, "--data", catalog(), "--protocol", "knn",
        "--frames", 1, "--results", rows,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert "random weights: no file of weights was given" in " ".join(shown.out.split())
    found = read_results(rows)
    assert {r.encoder for r in found} == {"untrained"}
    assert {r.protocol for r in found} == {"knn"}
    assert all(r.details["weights"] is None for r in found)


def test_it_embeds_answers_and_becomes_a_package(weights: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    clip = sorted((world() / "videos").rglob("*.mp4"))[0]
    (some / "a.mp4").write_bytes(clip.read_bytes())
    store = tmp_path / "store"
    done = rhyme("embed", *SMALL, "--weights", weights, "--data", some, "--store", store)
    assert done.code == 0, done.err
    assert "weights: squeezenet.pth, SHA-256" in done.err
    found = rhyme("search", store, "--query", f"{some / 'a.mp4'}@0.2", "-k", 1, "--json")
    assert found.code == 0, found.err
    assert found.document["hits"][0]["score"] > 0.9
    command = ("export", *SMALL, "--weights", weights, "--format", "package", "--out")
    written = rhyme(*command, tmp_path / "package")
    assert written.code == 0
    assert "2 are not the backbone's and left out" in " ".join(written.err.split())
    package = load_package(tmp_path / "package")
    assert package.trained
    assert package.config.name == "torchvision:squeezenet1_1"


def test_wrong_usage_says_what_to_write(weights: Path) -> None:
    refused(rhyme("evaluate"), 2, "give a RUN, or --encoder")
    refused(rhyme("evaluate", trained("moco"), *SMALL), 2, "give a RUN, or --encoder")
    refused(rhyme("evaluate", "torchvision:resnet50"), 2, "--encoder torchvision:resnet50")
    refused(rhyme("evaluate", "--weights", weights), 2, "give a RUN, or --encoder")
    nothing = rhyme("evaluate", *SMALL, "--data", catalog(), "--protocol", "segments")
    refused(nothing, 1, "nothing was measured: segments: ")
    refused(rhyme("evaluate", *SMALL), None, "say what to judge on: --data")


def test_an_encoder_of_timm_is_a_row_where_it_is_installed(tmp_path: Path) -> None:
    timm = extra("timm")
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pth")
    rows = tmp_path / "rows.jsonl"
    shown = rhyme(
        "evaluate", "--encoder", "timm:resnet10t", "--weights", tmp_path / "w.pth", "--size", 32,
        "--data", catalog(), "--protocol", "knn,correspondence", "--frames", 1, "--results", rows,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert {(r.protocol, r.encoder) for r in read_results(rows)} == {
        (protocol, encoder)
        for protocol in ("knn", "correspondence")
        for encoder in ("trained", "untrained")
    }
    assert "correspondence: cells every 32 pixels (stage1)" in " ".join(shown.out.split())


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A few videos with masks."""
    folder = tmp_path_factory.mktemp("masked")
    api.world(folder / "world", counts=(3, 2, 2), size=64)
    return scan(folder / "world", out=folder / "world.catalog")


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("resnet18", 8),
        ("mobilenet_v3_small", 8),
        pytest.param("vit_b_32", 32, marks=pytest.mark.slow),
        pytest.param("swin_t", 8, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 8, marks=pytest.mark.slow),
    ],
)
def test_encoders_of_every_kind_serve_the_protocols_of_places(
    name: str, stride: int, masked: Catalog, tmp_path: Path
) -> None:
    """By default: nobody has to know the stages of another library's network."""
    rows = tmp_path / "rows.jsonl"
    encoder = OffTheShelf(encoder=f"torchvision:{name}", size=64)
    done = api.evaluate(
        encoder, masked, protocols=("propagation", "correspondence", "cells"), untrained_seeds=(0,),
        settings={"correspondence": {"pairs": 1, "size": 64}}, results=rows,
    )  # fmt: skip
    assert not done.skipped
    found = read_results(rows)
    assert {r.protocol for r in found} == {"propagation", "correspondence", "cells"}
    assert {r.details["stride"] for r in found} == {stride}
    assert all(0 <= r.value <= 1 for r in found)
    coarse = [note for note in done.notes if "the finest that this encoder has" in note]
    assert len(coarse) == (3 if stride > 8 else 0)
    assert [n.rpartition("--")[2] for n in coarse] == [
        option
        for option in ("propagation.height", "correspondence.size", "cells.height")
        if stride > 8
    ]
