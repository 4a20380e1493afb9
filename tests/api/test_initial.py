"""``rhyme train --init``: weights of others, of packages and of runs."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from rhyme import api
from rhyme.api import resolve_recipe
from rhyme.api.initial import INITIAL, read_initial, start_from
from rhyme.config import override
from rhyme.encoders import (
    InferencePlan,
    build_backbone,
    load_package,
    load_state_file,
    save_package,
)
from rhyme.errors import PackageError, RhymeError
from rhyme.recipes import load_recipe
from rhyme.report import collect
from rhyme.report.story import facts_table
from rhyme.run import read_jsonl
from rhyme.systems import system_class
from support.tiny_runs import catalog, refused, rhyme, train, trained

STILL = ("--train.optimizer.lr", 1e-30)  # too small to move a weight: what it starts from stays


def shared_backbone() -> torch.nn.Module:
    """Another draw of the backbone that the tiny runs have."""
    return build_backbone(load_recipe(trained("moco") / "config.yaml").model.backbone, seed=77)


def parameters_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = dict(other.named_parameters())
    return all(
        torch.allclose(p, theirs[name], rtol=0, atol=1e-20) for name, p in one.named_parameters()
    )


@pytest.fixture
def moco_file(tmp_path: Path) -> Path:
    """A checkpoint as MoCo's code writes it: query encoder, its classifier, key encoder, queue."""
    source = shared_backbone().state_dict()
    state = {f"module.encoder_q.{name}": value for name, value in source.items()}
    state |= {f"module.encoder_k.{name}": torch.zeros_like(v) for name, v in source.items()}
    state |= {"module.encoder_q.fc.weight": torch.zeros(3, 3), "module.queue": torch.zeros(4, 4)}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "moco.pth.tar")
    return tmp_path / "moco.pth.tar"


def test_a_training_starts_from_a_file_and_the_run_says_so(moco_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("moco", out, "--init", moco_file, *STILL)
    assert done.code == 0, done.err
    count = len(shared_backbone().state_dict())
    assert f"starts from {moco_file}" in done.err
    assert f"{count} entries under 'module.encoder_q.'; {count + 3} are not the backbone's" in (
        " ".join(done.err.split())
    )
    assert parameters_equal(load_package(out / "encoder").module, shared_backbone())
    assert load_recipe(out / "config.yaml").init == str(moco_file)
    (event,) = [row for row in read_jsonl(out / "events.jsonl") if row["event"] == "initialised"]
    assert event["entries"] == count
    assert {kind: len(names) for kind, names in event["left_out"].items()} == {
        "classifier or head": 1,
        "momentum copy": count,
        "queue": 1,
        "no tensor": 1,
    }
    assert len(event["sha256"]) == 64
    shown = dict(facts_table(collect(out)))
    assert event["sha256"][:12] in shown["Started from"]
    assert load_package(out / "encoder").card["started_from"] == moco_file.name
    # A run that goes on needs neither the file nor the copy.
    moco_file.unlink()
    (out / INITIAL).unlink()
    again = rhyme("train", "--resume", out)
    assert again.code == 0, again.err
    events = [row["event"] for row in read_jsonl(out / "events.jsonl")]
    assert events.count("initialised") == 1


def test_a_run_that_died_early_starts_from_its_own_copy(moco_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(trained("moco") / "config.yaml")
    run = api.new_run(recipe, trained("moco") / "catalog.arrow", out=tmp_path / "r", init=moco_file)
    moco_file.unlink()
    system = system_class("moco")(recipe.model)
    start_from(run, system)
    online, copied = (system.encoders.online, system.encoders.momentum.module)
    assert parameters_equal(online.backbone, shared_backbone())
    assert parameters_equal(copied.backbone, shared_backbone())
    (run.path / INITIAL).unlink()
    with pytest.raises(RhymeError, match="missing in its folder"):
        api.resume(run.path, progress=False)
    assert not list(run.checkpoints.glob("*"))


def test_a_run_and_a_package_are_sources_too(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("cycle_contrast", out, "--init", trained("moco"), *STILL)
    assert done.code == 0, done.err
    package = load_package(trained("moco") / "encoder")
    assert parameters_equal(load_package(out / "encoder").module, package.module)
    assert package.hash[:12] in done.err
    said = " ".join(done.err.split())
    assert "are not the backbone's and left out (classifier or head, " in said
    assert "heads.m." in said
    shutil.copytree(trained("moco") / "encoder", tmp_path / "package")
    start = api.new_run(
        load_recipe(out / "config.yaml"),
        trained("moco") / "catalog.arrow",
        out=tmp_path / "second",
        init=tmp_path / "package",
        overrides={"model.backbone.strides": [2, 2, 2, 1]},
        progress=False,
    )
    (event,) = [r for r in read_jsonl(start.events) if r["event"] == "initialised"]
    assert "trained with other options: strides" in event["initial_weights"]


def test_what_does_not_fit_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    state = shared_backbone().state_dict()
    lacking = {name: value for name, value in state.items() if not name.startswith("layer4.")}
    torch.save(lacking, tmp_path / "lacking.pth")
    torch.save({"trunk.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({**state, "layer1.extra": torch.zeros(2)}, tmp_path / "more.pth")
    torch.save({**state, "layer1.bn.bias": state["layer1.bn.bias"] / 0}, tmp_path / "nan.pth")
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "objects.pth")
    (tmp_path / "empty").mkdir()
    says = {
        "lacking.pth": "5 missing: layer4.{bn.{bias,running_mean,",
        "other.pth": "none of the 1 entries belongs to",
        "more.pth": "1 unexpected: layer1.extra",
        "nan.pth": "not finite: layer1.bn.bias",
        "objects.pth": "never run",
        "absent.pth": "no such file",
        "empty": "the package has no weights.safetensors",
    }
    for name, text in says.items():
        done = train("moco", tmp_path / "run", "--init", tmp_path / name)
        refused(done, 1, name)
        assert text in " ".join(done.err.split()), done.err
        assert not (tmp_path / "run").exists()
    done = rhyme("train", "--resume", trained("moco"), "--init", tmp_path / "more.pth")
    refused(done, 2, "keeps its recipe")


PUBLISHED = ("resnet18", "convnext_tiny", "mobilenet_v3_small")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of torchvision's networks."""
    folder = tmp_path_factory.mktemp("published")
    for name in PUBLISHED:
        torch.save(torchvision.models.get_model(name).state_dict(), folder / f"{name}.pth")
    return folder


SEEN = ("cycle_contrast", "moco", "simclr", "densecl")


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("cycle_contrast", "torchvision:resnet18"),
        *[(system, "torchvision:mobilenet_v3_small") for system in SEEN[:3]],
        *[pytest.param(s, "torchvision:convnext_tiny", marks=pytest.mark.slow) for s in SEEN],
    ],
)
def test_a_training_starts_from_a_network_off_the_shelf(
    system: str, name: str, published: Path, tmp_path: Path
) -> None:
    """The small recipe's strides are those of its own backbone, and stay behind."""
    bare = name.partition(":")[2]
    done = rhyme(
        "train", system, "--data", catalog(), "--out", tmp_path / "run", "--train.steps", 1,
        "--train.batch_size", 8, "--train.schedule.warmup_steps", 0,
        "--model.backbone.name", name, "--init", published / f"{bare}.pth", *STILL,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert f"{name} has its own strides; those of the recipe are made for small" in done.err
    assert done.err.count("has its own strides") == 1
    assert "not the own of" not in done.err
    config = load_recipe(tmp_path / "run" / "config.yaml").model.backbone
    assert (config.name, config.strides) == (name, (0, 0, 0, 0))
    theirs = build_backbone(name)
    load_state_file(theirs, published / f"{bare}.pth")
    assert parameters_equal(load_package(tmp_path / "run" / "encoder").module, theirs)


def test_other_strides_than_a_networks_own_are_told_or_named(
    published: Path, tmp_path: Path
) -> None:
    """Of ResNet-18 other strides have other entries, of ResNet-50 the same with another meaning."""
    given = ["--model.backbone.name", "resnet18", "--init", published / "resnet18.pth"]
    wrong = ["--model.backbone.strides", "[2, 2, 2, 2]"]
    done = train("moco", tmp_path / "run", *given, *wrong)
    refused(done, 1, 'give --model.backbone.strides "[1, 2, 2, 2]"')
    assert "has its own" not in done.err
    file = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), file)
    model = resolve_recipe("moco", {"model.backbone.name": "resnet50"}).model
    system = system_class("moco")
    assert "own of" not in read_initial(file, system(model)).told
    model = override(model, {"backbone.strides": [2, 2, 2, 2]})
    told = read_initial(file, system(model)).told
    assert "strides [2, 2, 2, 2] are not the own of 'resnet50', [1, 2, 2, 2]" in told


def test_a_package_of_another_backbone_says_which(tmp_path: Path) -> None:
    net = build_backbone("resnet18", strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    save_package(tmp_path / "package", net, InferencePlan(size=64, resize=64))
    done = train("moco", tmp_path / "run", "--init", tmp_path / "package")
    refused(
        done, 1, '--model.backbone.name resnet18 --model.backbone.strides "[1, 2, 1, 1]" '
        '--model.backbone.dilations "[1, 1, 2, 4]"',
    )  # fmt: skip
    # Its strides too, where they are the network's own: the recipe's may be others.
    net = build_backbone("small", strides=(1, 2, 2, 2))
    save_package(tmp_path / "small", net, InferencePlan(size=64, resize=64))
    done = train(
        "moco", tmp_path / "run", "--init", tmp_path / "small", "--model.backbone.name", "resnet50"
    )
    refused(done, 1, '--model.backbone.name small --model.backbone.strides "[1, 2, 2, 2]"')


def forged(path: Path) -> dict[str, bytes]:
    """A file of safetensors whose header lies, by what it lies about."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    one, other = [name for name in header if name != "__metadata__"][:2]

    def change(name: str, **fields: object) -> bytes:
        text = json.dumps({**header, name: {**header[name], **fields}}).encode()
        return len(text).to_bytes(8, "little") + text + body

    return {
        "a header of many exabytes": (1 << 62).to_bytes(8, "little") + data[8:],
        "a header of four gigabytes": (1 << 32).to_bytes(8, "little") + data[8:],
        "a header that is shorter": (7).to_bytes(8, "little") + data[8:],
        "two tensors in one place": change(other, **header[one]),
        "a shape without end": change(one, shape=[1 << 40, 1 << 20]),
        "more bytes than there are": change(one, shape=[1 << 34], data_offsets=[0, 1 << 36]),
        "an end before its beginning": change(one, data_offsets=[8, 0]),
        "brackets without end": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_forged_headers_of_weights_are_refused_and_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(shared_backbone().state_dict(), path)
    system = system_class("moco")(load_recipe(trained("moco") / "config.yaml").model)
    assert read_initial(path, system).told
    lies = forged(path)

    def peak() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    before = peak()
    for lie, data in lies.items():
        path.write_bytes(data)
        with pytest.raises(PackageError, match="safetensors") as caught:
            read_initial(path, system)
        assert caught.value.file == str(path), lie
        assert caught.value.remedy, lie
    assert peak() - before < 100 << 20
