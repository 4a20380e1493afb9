from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from rhyme.encoders import (
    EncoderPackage,
    Features,
    InferencePlan,
    build_backbone,
    load_package,
    save_package,
)
from rhyme.errors import ConfigError, PackageError
from rhyme.export import from_hub, load_torch_export, to_hub_folder, to_torch_export

PLAN = InferencePlan(size=48, resize=56, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def make(folder: Path, name: str = "small", **options: object) -> EncoderPackage:
    net = build_backbone(name, seed=0, **options)
    with torch.no_grad():
        net(torch.randn(4, net.config.in_channels, 48, 48))  # running statistics of its own
    save_package(folder, net, PLAN, card={"title": "An encoder", "limits": "untrained"})
    return load_package(folder)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small", {"norm_groups": 4}),
        ("resnet18", {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}),
    ],
)
def test_a_program_gives_the_same_features_for_any_batch(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    package = make(tmp_path / "p", name, **options)
    path = to_torch_export(package, tmp_path / "encoder.pt2")
    exported = load_torch_export(path)
    assert (exported.plan, exported.source) == (PLAN, package.hash)
    assert not exported.normalised
    for rows in (1, 2, 5):
        pixels = torch.randn(rows, 3, 48, 48)
        features = package.module(pixels)
        pooled, cells = exported.module(pixels)
        torch.testing.assert_close(pooled, features.pooled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cells, features.map, rtol=1e-5, atol=1e-5)


def test_an_encoder_without_a_map_gives_its_feature_alone(tmp_path: Path, monkeypatch) -> None:
    package = make(tmp_path / "p")
    forward = type(package.module).forward

    def mapless(self, x):
        return dataclasses.replace(forward(self, x), map=None)

    monkeypatch.setattr(type(package.module), "forward", mapless)
    exported = load_torch_export(to_torch_export(package, tmp_path / "encoder.pt2"))
    pixels = torch.randn(3, 3, 48, 48)
    (pooled,) = exported.module(pixels)
    torch.testing.assert_close(pooled, package.module(pixels).pooled, rtol=1e-5, atol=1e-5)


def test_a_network_that_cannot_be_traced_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch
) -> None:
    package = make(tmp_path / "p")

    def by_value(self, x):
        return Features(pooled=x * x.sum().item() if x.sum() > 0 else x)

    monkeypatch.setattr(type(package.module), "forward", by_value)
    with pytest.raises(ConfigError, match="cannot trace small"):
        to_torch_export(package, tmp_path / "encoder.pt2")
    assert not (tmp_path / "encoder.pt2").exists()


def test_a_program_can_normalise_itself(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    path = to_torch_export(package, tmp_path / "encoder.pt2", normalise=True)
    exported = load_torch_export(path)
    assert exported.normalised
    pixels = torch.rand(3, 3, 48, 48)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PLAN.mean, PLAN.std))
    pooled, _ = exported.module(pixels)
    expected = package.module((pixels - mean) / std).pooled
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
    grey = make(tmp_path / "grey", in_channels=1)
    with pytest.raises(ConfigError, match="3 channels, the encoder reads 1"):
        to_torch_export(grey, tmp_path / "grey.pt2", normalise=True)
    to_torch_export(grey, tmp_path / "grey.pt2")


def test_wrong_program_files_are_named(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    with pytest.raises(ConfigError, match=r"\.pt2"):
        to_torch_export(package, tmp_path / "encoder.pt")
    with pytest.raises(PackageError, match="no such"):
        load_torch_export(tmp_path / "none.pt2")
    path = to_torch_export(package, tmp_path / "encoder.pt2")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(PackageError, match="not a program"):
        load_torch_export(path)


def test_a_hub_folder_is_the_package_with_metadata(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    folder = to_hub_folder(package, tmp_path / "hub", licence="apache-2.0", tags=("demo",))
    back = from_hub(folder)
    assert back.hash == package.hash
    pixels = torch.randn(2, 3, 48, 48)
    assert torch.equal(back.module(pixels).pooled, package.module(pixels).pooled)
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0"
    assert {"demo", "small", "self-supervised-learning"} <= set(metadata["tags"])
    assert body.strip().startswith("# An encoder")
    with pytest.raises(PackageError, match="not empty") as told:
        to_hub_folder(package, folder)
    assert told.value.remedy == "choose another folder, or delete this one"
    to_hub_folder(package, folder, overwrite=True)
    assert "license" not in (folder / "README.md").read_text()


def test_a_package_that_changed_on_disk_is_not_sent_out(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    save_package(tmp_path / "p", build_backbone("small", seed=9), PLAN, overwrite=True)
    with pytest.raises(PackageError, match="changed on disk"):
        to_hub_folder(package, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_from_hub_asks_only_for_repositories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make(tmp_path / "p")
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        if name == "some/missing":
            raise OSError("offline")
        return str(tmp_path / "p")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for wrong in ("nofolder", "../up/there", "a/b/c", "https://x.y/z", ""):
        with pytest.raises(PackageError):
            from_hub(tmp_path / "absent" if wrong == "" else wrong)
    assert asked == []
    assert from_hub("owner/encoder", revision="v1").hash == package.hash
    name, revision, patterns = asked[0]
    assert (name, revision) == ("owner/encoder", "v1")
    assert set(patterns) == {"weights.safetensors", "config.json", "inference.json", "README.md"}
    with pytest.raises(PackageError, match="could not be fetched"):
        from_hub("some/missing")
    assert from_hub("owner/encoder", sha256=package.hash.upper()).hash == package.hash


def test_a_package_of_another_hash_than_is_expected_is_refused(tmp_path: Path) -> None:
    package = make(tmp_path / "p")
    assert from_hub(tmp_path / "p", sha256=package.hash).hash == package.hash
    other = package.hash[:-1] + ("0" if package.hash[-1] != "0" else "1")
    with pytest.raises(PackageError, match=f"SHA-256 {package.hash}, expected {other}") as told:
        from_hub(tmp_path / "p", sha256=other)
    assert told.value.file == str(tmp_path / "p")
    assert "revision=" in (told.value.remedy or "")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        from_hub(tmp_path / "p", sha256=package.hash[:12])
