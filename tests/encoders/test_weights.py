from __future__ import annotations

import argparse
import itertools
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from rhyme.encoders import (
    EncoderWithHeads,
    InferencePlan,
    build_backbone,
    load_state_file,
    save_package,
)
from rhyme.encoders.names import grouped
from rhyme.encoders.weights import told
from rhyme.errors import PackageError

Make = Callable[..., EncoderWithHeads]
WIDTHS = (4, 6, 8, 10)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def test_a_torchvision_file_with_classifier(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "r.pth")
    net = build_backbone("resnet18")
    report = load_state_file(net, tmp_path / "r.pth")
    assert report.ignored == ("fc.bias", "fc.weight")
    assert report.prefix == ""
    assert report.loaded == len(net.state_dict())
    assert torch.equal(net.layer4[1].conv2.weight, model.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("base_network.", ("fc7", "fc8")),  # clip order prediction, as it is trained
        ("", ("linear",)),  # and fine-tuned
        ("module.", ("module.linear",)),
        ("backbone.", ("final_fc",)),  # DUAL's classifier
    ],
)
def test_files_of_clip_order_prediction_load_without_their_classifiers(
    tmp_path: Path, prefix: str, beside: tuple[str, ...]
) -> None:
    source, target = (build_backbone("r3d", seed=seed) for seed in (0, 1))
    state = {prefix + name: value for name, value in source.state_dict().items()}
    heads = {f"{b}.{w}": torch.zeros(3) for b in beside for w in ("weight", "bias")}
    torch.save(state | heads, tmp_path / "w.pt")
    report = load_state_file(target, tmp_path / "w.pt")
    assert same(target, source)
    assert sorted(report.ignored) == sorted(heads)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "backbone.", "encoder_q.", "module.encoder_q.", "_orig_mod.module.backbone."],
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_wrappers_are_taken_off(tmp_path: Path, prefix: str, ending: str) -> None:
    source, target = (build_backbone("small", seed=s, widths=WIDTHS) for s in (0, 1))
    state = {prefix + name: value for name, value in source.state_dict().items()}
    if ending == "pt":
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pt")
    else:
        safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert load_state_file(target, tmp_path / f"w.{ending}").prefix == prefix
    assert same(target, source)


def test_a_moco_checkpoint_gives_the_query_encoder(tmp_path: Path) -> None:
    query, key, net = (build_backbone("small", seed=s, widths=WIDTHS) for s in range(3))
    state = {f"module.encoder_k.{n}": v for n, v in key.state_dict().items()}
    state |= {f"module.encoder_q.{n}": v for n, v in query.state_dict().items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(2, 2), "module.queue": torch.zeros(4, 4)}
    torch.save(
        {"state_dict": state, "arch": "small", "optimizer": {"state": {}}},
        tmp_path / "moco.pth.tar",
    )
    report = load_state_file(net, tmp_path / "moco.pth.tar")
    assert same(net, query)
    assert report.loaded == len(net.state_dict())
    assert "module.queue" in report.ignored
    assert "module.encoder_q.fc.0.weight" in report.ignored
    assert {kind: len(names) for kind, names in report.left_out.items()} == {
        "classifier or head": 1,
        "momentum copy": len(key.state_dict()),
        "queue": 1,
        "no tensor": 1,
        "optimizer's state": 1,
    }
    assert report.left_out["no tensor"] == ("arch",)
    line = told(report.facts())
    assert f"under 'module.encoder_q.'; {len(report.ignored)} are not the backbone's" in line
    assert "queue, 1: module.queue" in line
    assert f"and {len(key.state_dict()) - 3} more" in line


def test_a_packages_own_file_gives_the_backbone(
    tmp_path: Path, make_encoder: Make, plan: InferencePlan
) -> None:
    encoder = make_encoder()
    save_package(tmp_path / "p", encoder, plan)
    net = build_backbone("small", widths=WIDTHS)
    report = load_state_file(net, tmp_path / "p" / "weights.safetensors")
    assert same(net, encoder.backbone)
    assert all(name.startswith("heads.m.") for name in report.ignored)
    assert report.ignored


def test_an_encoder_with_heads_keeps_its_own_names(tmp_path: Path, make_encoder: Make) -> None:
    source, target = make_encoder(0), make_encoder(1)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert load_state_file(target, tmp_path / "w.pt").prefix == ""
    assert same(target, source)


def test_old_files_without_counters_load(tmp_path: Path) -> None:
    source, target = (build_backbone("small", seed=s, widths=WIDTHS) for s in (0, 1))
    state = {n: v for n, v in source.state_dict().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "old.pt")
    report = load_state_file(target, tmp_path / "old.pt")
    assert same(target, source)
    counters = {n for n in source.state_dict() if "num_batches" in n}
    assert set(report.not_there) == counters
    assert f"{len(counters)} counters of batch norm are missing" in told(report.facts())


def test_aliens_are_refused_and_known_parts_told(tmp_path: Path) -> None:
    source, target, twin = (build_backbone("small", seed=s, widths=WIDTHS) for s in (0, 1, 1))
    alien = {"trunk.layer9.weight": torch.zeros(2), "model_ema.decay": torch.zeros(1)}
    for prefix in ("", "module."):
        state = {prefix + name: value for name, value in source.state_dict().items()}
        torch.save({**state, **alien}, tmp_path / "w.pt")
        with pytest.raises(PackageError, match=r"1 unexpected: trunk\.layer9\.weight"):
            load_state_file(target, tmp_path / "w.pt")
        assert same(target, twin)
    # beside a part with a name of its own stand other parts, which are told
    state = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({**state, **alien}, tmp_path / "w.pt")
    report = load_state_file(target, tmp_path / "w.pt")
    assert report.left_out == {
        "momentum copy": ("model_ema.decay",),
        "other part": ("trunk.layer9.weight",),
    }
    assert same(target, source)


def test_an_entry_beside_the_wrapper_never_takes_the_place_of_one_in_it(tmp_path: Path) -> None:
    source, target = (build_backbone("small", seed=s, widths=WIDTHS) for s in (0, 1))
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    state["layer1.bn.bias"] = torch.full_like(state["module.layer1.bn.bias"], 7.0)
    torch.save(state, tmp_path / "w.pt")
    assert load_state_file(target, tmp_path / "w.pt").ignored == ("layer1.bn.bias",)
    assert same(target, source)


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path: Path) -> None:
    source, target, twin = (build_backbone("small", seed=s, widths=WIDTHS) for s in (0, 1, 1))
    state = dict(source.state_dict())
    del state["layer4.conv.weight"]
    state["layer5.conv.weight"] = torch.zeros(1)
    state["layer1.bn.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(PackageError) as caught:
        load_state_file(target, tmp_path / "w.pt")
    text = str(caught.value)
    assert "1 missing: layer4.conv.weight" in text
    assert "1 unexpected: layer5.conv.weight" in text
    assert "layer1.bn.bias [9] instead of [4]" in text
    assert same(target, twin)


def test_a_file_of_another_network_is_refused_loudly(tmp_path: Path) -> None:
    """Not one entry fits: the silent case in which probes judge random weights."""
    file = tmp_path / "other.pt"
    torch.save({"trunk.0.weight": torch.zeros(3), "trunk.0.bias": torch.zeros(3)}, file)
    module = build_backbone("small", seed=0)
    with pytest.raises(PackageError, match="none of the 2 entries belongs to") as caught:
        load_state_file(module, file)
    assert "nothing was loaded" in caught.value.cause
    assert "layer1" in str(caught.value.remedy)


def expanded(text: str) -> list[str]:
    """What a shell makes of braces."""
    depth, start = 0, text.find("{")
    if start < 0:
        return [text]
    parts = [start]
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if text[i] == "," and depth == 1:
            parts.append(i)
        if depth == 0:
            parts.append(i)
            break
    inner = [text[one + 1 : other] for one, other in itertools.pairwise(parts)]
    if len(inner) == 1:
        first, last = map(int, inner[0].split(".."))
        inner = [str(i) for i in range(first, last + 1)]
    tails = expanded(text[parts[-1] + 1 :])
    return [text[:start] + e + tail for one in inner for e in expanded(one) for tail in tails]


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "densenet121"])
def test_every_name_is_told_and_what_they_share_only_once(name: str) -> None:
    names = [*getattr(torchvision.models, name)(weights=None).state_dict()]
    text = grouped(names)
    assert sorted(n for one in text.split(", ") for n in expanded(one)) == sorted(names)
    assert len(text) < len(", ".join(names)) / 6
    assert grouped(["a", "a.b.0", "a.b.1", "c.0", "c.1", "c.2"]) == "a{,.b.{0,1}}, c.{0..2}"
    assert grouped(["x.\x1b[1m", "." * 9000]).isprintable()
    assert len(grouped(f"{i * i}x" for i in range(5000))) < 4100


def test_what_is_missing_is_named_to_the_last(tmp_path: Path) -> None:
    known = build_backbone("small").state_dict()["layer1.bn.bias"]
    torch.save({"x": torch.zeros(1), "layer1.bn.bias": known}, tmp_path / "w.pt")
    with pytest.raises(PackageError, match=r"19 missing: .*; 1 unexpected: x") as caught:
        load_state_file(build_backbone("small"), tmp_path / "w.pt")
    said = caught.value.cause.split("missing: ")[1].split("; ")[0]
    told = {name for one in said.split(", ") for name in expanded(one)}
    wanted = {n for n in build_backbone("small").state_dict() if "num_batches" not in n}
    assert told == wanted - {"layer1.bn.bias"}


def test_weights_of_another_network_are_recognised(tmp_path: Path) -> None:
    def file(name: str, net: torch.nn.Module, prefix: str = "") -> Path:
        torch.save({prefix + n: v for n, v in net.state_dict().items()}, tmp_path / name)
        return tmp_path / name

    eighteen = file("a.pth", torchvision.models.resnet18(weights=None), "module.encoder_q.")
    with pytest.raises(PackageError, match="the weights are those of 'resnet18'") as caught:
        load_state_file(build_backbone("small"), eighteen)
    assert "--model.backbone.name resnet18" in str(caught.value.remedy)
    assert "--encoder resnet18" in str(caught.value.remedy)
    # those of ResNet-18 are all there, and not all that is there
    thirty = file("b.pth", torchvision.models.resnet34(weights=None))
    with pytest.raises(PackageError, match="the weights are those of 'resnet34'"):
        load_state_file(build_backbone("resnet18"), thirty)
    squeezed = file("squeezenet1_1-b8a52dc0.pth", torchvision.models.squeezenet1_1(weights=None))
    with pytest.raises(PackageError, match="those of 'torchvision:squeezenet1_1'"):
        load_state_file(build_backbone("small"), squeezed)
    # a RegNet cannot be built without numbers, so nobody is told whose weights these are
    regnet = file("regnet_y_400mf.pth", torchvision.models.regnet_y_400mf(weights=None))
    with pytest.raises(PackageError, match="belongs to 'small'"):
        load_state_file(build_backbone("small"), regnet)
    net = build_backbone("resnet18", strides=(2, 2, 2, 2))
    with pytest.raises(
        PackageError, match=r"with strides \[2, 2, 2, 2\], but with its own"
    ) as caught:
        load_state_file(net, eighteen)
    assert caught.value.remedy == 'give --model.backbone.strides "[1, 2, 2, 2]"'


def test_other_objects_are_never_run(tmp_path: Path) -> None:
    net = build_backbone("small")
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    with pytest.raises(PackageError, match="never run"):
        load_state_file(net, tmp_path / "a.pt")
    mark = tmp_path / "owned"
    (tmp_path / "b.pth").write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    with pytest.raises(PackageError):
        load_state_file(net, tmp_path / "b.pth")
    assert not mark.exists()
    torch.save([torch.zeros(1)], tmp_path / "c.pt")
    with pytest.raises(PackageError, match="no table of named tensors"):
        load_state_file(net, tmp_path / "c.pt")
    with pytest.raises(PackageError, match="no such file"):
        load_state_file(net, tmp_path / "d.pt")


def test_what_is_said_of_other_objects_is_safe(tmp_path: Path) -> None:
    """No words of PyTorch's, which advise to run what is in the file, and none of its warnings."""
    net = build_backbone("small")
    options = {"model": net.state_dict(), "args": argparse.Namespace(lr=1)}
    torch.save(options, tmp_path / "args.pth")
    torch.save(options, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    (tmp_path / "none.pth").write_text("import os")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "program.pt")
    for name, cause, value in (
        ("args.pth", "Python objects besides tensors, which are never run", "argparse.Namespace"),
        ("old.pth", "Python objects besides tensors, which are never run", "argparse.Namespace"),
        ("whole.pth", "a whole model as a Python object", "torch.nn.modules.linear.Linear"),
        ("program.pt", "a TorchScript program, which is never run", ""),
        ("none.pth", "damaged, or none that torch.save wrote", "9 bytes"),
    ):
        with pytest.raises(PackageError, match=cause) as caught:  # a warning would be an error
            load_state_file(net, tmp_path / name)
        text = str(caught.value)
        assert value in text
        assert "save the weights alone" in str(caught.value.remedy)
        assert not re.search(r"weights_only|set to `?False|\\x1b", text), text


@pytest.mark.parametrize("form", ["pt", "older pt", "safetensors"])
def test_damaged_files_give_typed_errors(tmp_path: Path, form: str) -> None:
    net = build_backbone("small", widths=WIDTHS)
    path = tmp_path / f"w.{form.split()[-1]}"
    if form == "safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=form == "pt")
    data, chance = path.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data[: chance.choice([len(data), chance.randrange(len(data))])])
        for _ in range(8):
            if damaged:
                damaged[chance.randrange(min(len(damaged), 2000))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            load_state_file(net, path)
        except PackageError:
            refused += 1
    assert refused > 40
