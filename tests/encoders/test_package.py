from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from rhyme.encoders import (
    EncoderWithHeads,
    InferencePlan,
    build_backbone,
    load_package,
    save_package,
    untrained,
)
from rhyme.encoders.files import seal
from rhyme.errors import ConfigError, PackageError

Make = Callable[..., EncoderWithHeads]
FILES = {"weights.safetensors", "config.json", "inference.json", "README.md"}
CARD = {
    "title": "Small | encoder",
    "summary": "An encoder of single frames.",
    "training": {"system": "cyclecontrast", "steps": 100},
    "figures": [{"protocol": "knn", "value": 0.5}, {"protocol": "linear", "value": 0.625}],
    "limits": ["not for faces", "line\nbreak\x1b[31m"],
    "own_words": "free text",
}


def test_a_round_trip_is_exact(tmp_path: Path, make_encoder: Make, plan: InferencePlan) -> None:
    encoder = make_encoder()
    state = torch.get_rng_state()
    written = save_package(tmp_path / "p", encoder, plan, card=CARD, extra={"step": 7})
    package = load_package(tmp_path / "p")
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name for path in (tmp_path / "p").iterdir()} == FILES
    assert package.hash == written
    assert len(written) == 64
    assert (package.config, package.plan) == (encoder.config, plan)
    assert package.card == CARD
    assert package.extra == {"step": 7}
    assert package.kind == "encoder"
    assert not package.module.training
    assert not package.heads["m"].training
    ours, theirs = package.with_heads().state_dict(), encoder.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    pixels = torch.randn(3, 3, 32, 32)
    features, embeddings = encoder.eval()(pixels)
    assert torch.equal(package.module(pixels).map, features.map)
    assert torch.equal(package.with_heads()(pixels)[1]["m"], embeddings["m"])
    assert all(p.requires_grad for p in package.module.parameters())


def test_the_same_content_gives_the_same_bytes(
    tmp_path: Path, make_encoder: Make, plan: InferencePlan
) -> None:
    torch.manual_seed(0)
    first = save_package(tmp_path / "c", make_encoder(), plan, card=CARD)
    torch.manual_seed(0)
    second = save_package(tmp_path / "d", make_encoder(), plan, card=CARD)
    for name in FILES:
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "d" / name).read_bytes()
    assert first == second


def test_the_hash_covers_weights_configuration_and_plan(
    tmp_path: Path, plan: InferencePlan
) -> None:
    net = build_backbone("small", seed=0)
    hashes = [
        save_package(tmp_path / "0", net, plan),
        save_package(tmp_path / "1", build_backbone("small", seed=1), plan),
        save_package(tmp_path / "2", build_backbone("small", seed=0, norm_groups=2), plan),
        save_package(tmp_path / "3", net, replace(plan, size=30)),
    ]
    assert len(set(hashes)) == 4
    assert save_package(tmp_path / "4", net, plan) == hashes[0]


def test_weights_load_in_plain_torchvision(tmp_path: Path, plan: InferencePlan) -> None:
    net = build_backbone("resnet18").eval()
    save_package(tmp_path / "p", net, plan)
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    state = safetensors.torch.load_file(tmp_path / "p" / "weights.safetensors")
    model.load_state_dict(state, strict=True)
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.eval()(pixels), net(pixels).pooled)


def test_channels_last_and_other_types_are_stored_as_plain_float32(
    tmp_path: Path, plan: InferencePlan
) -> None:
    net = build_backbone("small", seed=0)
    expected = save_package(tmp_path / "a", net, plan)
    last = net.to(memory_format=torch.channels_last)
    assert save_package(tmp_path / "b", last, plan) == expected
    assert save_package(tmp_path / "c", net.double(), plan) == expected


def test_flipped_bits_never_load(tmp_path: Path, make_encoder: Make, plan: InferencePlan) -> None:
    good = tmp_path / "good"
    save_package(good, make_encoder(), plan, card=CARD)
    chance = random.Random(0)
    for name in ("weights.safetensors", "config.json", "inference.json"):
        data = (good / name).read_bytes()
        bad = tmp_path / name
        shutil.copytree(good, bad)
        for place in chance.sample(range(len(data)), 50):
            damaged = bytearray(data)
            damaged[place] ^= 1 << chance.randrange(8)
            (bad / name).write_bytes(damaged)
            with pytest.raises(PackageError):
                load_package(bad)
        for size in (0, 1, len(data) // 2, len(data) - 1):
            (bad / name).write_bytes(data[:size])
            with pytest.raises(PackageError):
                load_package(bad)
        (bad / name).write_bytes(data)
        assert load_package(bad).hash == load_package(good).hash


def forge(folder: Path, change: Callable[[dict[str, Any]], None], state: Any = None) -> None:
    """Rewrite a package with checksums that fit, as someone of bad faith would."""
    if state is not None:
        safetensors.torch.save_file(state, folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    change(config)
    files = {n: (folder / n).read_bytes() for n in ("weights.safetensors", "inference.json")}
    seal(files, config)
    (folder / "config.json").write_bytes(files["config.json"])


def test_names_and_shapes_that_do_not_fit_are_all_listed(
    tmp_path: Path, make_encoder: Make, plan: InferencePlan
) -> None:
    folder = tmp_path / "p"
    save_package(folder, make_encoder(), plan)
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    del state["layer2.conv.weight"], state["layer3.bn.num_batches_tracked"]
    state["layer9.weight"] = torch.zeros(1)
    state["heads.m.layers.0.weight"] = torch.zeros(2, 3)
    state["layer1.bn.weight"] = torch.zeros(4, dtype=torch.int64)
    forge(folder, lambda config: None, state)
    with pytest.raises(PackageError) as caught:
        load_package(folder)
    text = str(caught.value)
    assert "2 missing: layer2.conv.weight, layer3.bn.num_batches_tracked" in text
    assert "1 unexpected: layer9.weight" in text
    assert "heads.m.layers.0.weight [2, 3] instead of [10, 10]" in text
    assert "1 of another kind of number: layer1.bn.weight" in text
    assert "weights.safetensors" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["backbone"].update(name="resnet19"),
        lambda c: c["backbone"].update(name="resnet50"),
        lambda c: c["backbone"].update(widths=[10**9] * 4),
        lambda c: c["backbone"].update(surprise=1),
        lambda c: c["backbone"].update(strides="1222"),
        lambda c: c.pop("backbone"),
        lambda c: c.pop("heads"),
        lambda c: c.update(card=3),
        lambda c: c.update(format="other"),
        lambda c: c.update(format_version=99),
        lambda c: c["heads"]["m"].update(in_dim=10**15),
        lambda c: c["heads"]["m"].update(in_dim="ten"),
        lambda c: c["heads"].update({"a.b": c["heads"]["m"]}),
    ],
)
def test_forged_configurations_are_refused(
    tmp_path: Path, make_encoder: Make, plan: InferencePlan, change: Callable[[Any], None]
) -> None:
    folder = tmp_path / "p"
    save_package(folder, make_encoder(), plan)
    forge(folder, lambda config: None)
    load_package(folder)
    forge(folder, change)
    with pytest.raises(PackageError):
        load_package(folder)


def test_a_configuration_edited_by_hand_is_refused(tmp_path: Path, plan: InferencePlan) -> None:
    folder = tmp_path / "p"
    save_package(folder, build_backbone("small", seed=0), plan)
    path = folder / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"norm_groups": 1', '"norm_groups": 2'))
    with pytest.raises(PackageError, match=r"config\.json is damaged or was changed"):
        load_package(folder)
    path.write_text(text + "\n")
    with pytest.raises(PackageError, match=r"config\.json is damaged or was changed"):
        load_package(folder)


def test_missing_things_are_named(tmp_path: Path, plan: InferencePlan) -> None:
    with pytest.raises(PackageError, match="no such encoder package"):
        load_package(tmp_path / "nothing")
    for name in FILES - {"README.md"}:
        folder = tmp_path / f"without {name}"
        save_package(folder, build_backbone("small", seed=0), plan)
        (folder / name).unlink()
        with pytest.raises(PackageError, match=f"the package has no {name}"):
            load_package(folder)
    save_package(tmp_path / "p", build_backbone("small", seed=0), plan)
    (tmp_path / "p" / "README.md").unlink()
    load_package(tmp_path / "p")


@pytest.mark.parametrize("name", ["model.pt", "model.PTH", "x.pkl", "pytorch_model.bin", "a.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(PackageError, match="pickled") as caught:
            load_package(source)
        assert "load_state_file" in str(caught.value)


def test_an_existing_folder_is_not_overwritten_unless_asked(
    tmp_path: Path, plan: InferencePlan
) -> None:
    folder = tmp_path / "deep" / "p"
    first = save_package(folder, build_backbone("small", seed=0), plan)
    with pytest.raises(PackageError, match="not empty"):
        save_package(folder, build_backbone("small", seed=1), plan)
    assert load_package(folder).hash == first
    second = save_package(folder, build_backbone("small", seed=1), plan, overwrite=True)
    assert load_package(folder).hash == second != first
    assert [path.name for path in folder.parent.iterdir()] == ["p"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    with pytest.raises(PackageError, match="no encoder package"):
        save_package(tmp_path / "precious", build_backbone("small"), plan, overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "years"
    (tmp_path / "empty").mkdir()
    save_package(tmp_path / "empty", build_backbone("small"), plan)
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_a_failed_write_leaves_the_old_package(
    tmp_path: Path, plan: InferencePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p"
    first = save_package(folder, build_backbone("small", seed=0), plan)

    def full(path: Path, content: bytes) -> None:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr("rhyme.encoders.files.atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        save_package(folder, build_backbone("small", seed=1), plan, overwrite=True)
    with pytest.raises(OSError, match="No space"):
        save_package(tmp_path / "q", build_backbone("small", seed=1), plan)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert load_package(folder).hash == first


def test_broken_weights_and_plans_are_not_saved(tmp_path: Path, plan: InferencePlan) -> None:
    net = build_backbone("small", seed=0)
    for wrong in ({"size": 0}, {"std": (0.0, 1.0, 1.0)}, {"mean": (float("nan"), 0.0, 0.0)}):
        with pytest.raises(ConfigError, match="plan"):
            save_package(tmp_path / "p", net, replace(plan, **wrong))
    with torch.no_grad():
        net.layer3.conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(PackageError, match=r"not finite: layer3\.conv\.weight"):
        save_package(tmp_path / "p", net, plan)
    assert not (tmp_path / "p").exists()


def test_untrained_has_the_same_architecture_and_other_weights(
    tmp_path: Path, plan: InferencePlan
) -> None:
    save_package(tmp_path / "p", build_backbone("small", seed=0, widths=(4, 4, 4, 4)), plan)
    package = load_package(tmp_path / "p")
    before = torch.get_rng_state()
    fresh, again, other = (untrained(package, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert fresh.config == package.config
    assert not fresh.training
    weight = fresh.layer4.conv.weight
    assert torch.equal(weight, again.layer4.conv.weight)
    assert not torch.equal(weight, other.layer4.conv.weight)
    assert not torch.equal(weight, package.module.layer4.conv.weight)
    assert torch.equal(untrained(package.config, 5).layer4.conv.weight, weight)


def test_the_card_is_markdown_for_people(
    tmp_path: Path, make_encoder: Make, plan: InferencePlan
) -> None:
    save_package(tmp_path / "p", make_encoder(), plan, card=CARD)
    text = (tmp_path / "p" / "README.md").read_text()
    assert text.startswith("# Small \\| encoder\n")
    assert "| protocol | value |\n| --- | --- |\n| knn | 0.5 |\n| linear | 0.625 |" in text
    assert "| system | cyclecontrast |" in text
    assert "- not for faces\n- line break\\x1b[31m" in text
    assert "## Own words\n\nfree text" in text
    assert "centre 32 x 32 pixels" in text
    assert "| head m | 2 layers, 10 to 5 |" in text
    assert text.index("What it is") < text.index("Measured") < text.index("Limits")
