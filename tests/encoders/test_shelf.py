"""Off-the-shelf encoders: torchvision's as they are, timm's and Hugging Face's where installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from rhyme.encoders import BackboneConfig, load_package, open_shelf, save_package, untrained
from rhyme.encoders.shelf import recommended_plan
from rhyme.encoders.torchvision_shelf import TorchvisionEncoder
from rhyme.errors import ConfigError, DataError, PackageError, UnknownName
from rhyme.loading.inference import eval_transform
from support.extras import extra


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network of torchvision's, and its weights as a training with DDP stores them."""
    net = models.squeezenet1_1(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save({"state_dict": {f"module.{n}": v for n, v in net.state_dict().items()}}, path)
    return net, path


def test_features_are_torchvisions_and_a_package_keeps_them(
    squeezenet: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    net, path = squeezenet
    package = open_shelf("torchvision:squeezenet1_1", path, plan={"size": 64})
    assert (package.plan.size, package.plan.resize) == (64, 73)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = package.module(pixels, stages=("stage3",))
        expected = net.features(pixels)  # pyright: ignore
    assert found.map is not None
    assert torch.allclose(found.map, expected, atol=1e-5)
    assert torch.allclose(found.pooled, expected.mean(dim=(-2, -1)), atol=1e-5)
    assert found.stages["stage3"].shape[1] == 256
    # three poolings of kernel 3 and stride 2 without padding behind a convolution of the same kind
    assert package.module.geometry["stage4"] == (16.0, 15.0)
    told = package.extra["weights"]
    assert (told["file"], told["prefix"]) == ("squeezenet.pth", "module.")
    both = ["module.classifier.1.bias", "module.classifier.1.weight"]
    assert told["left_out"] == {"classifier or head": both}
    save_package(
        tmp_path / "p", package.module, package.plan, card=package.card, extra=package.extra
    )
    again = load_package(tmp_path / "p")
    assert again.hash == package.hash
    assert again.trained
    with torch.no_grad():
        assert torch.equal(again.module(pixels).pooled, found.pooled)
    fresh = untrained(again, seed=3)
    assert isinstance(fresh, TorchvisionEncoder)
    with torch.no_grad():
        assert not torch.allclose(fresh(pixels).pooled, found.pooled, atol=1e-3)


def test_weights_that_are_drawn_are_never_taken_for_trained() -> None:
    package = open_shelf("torchvision:resnet18", seed=4)
    assert not package.trained
    assert package.extra["weights"] is None
    assert package.card["weights"] == "random, seed 4"
    assert package.config.name == "resnet18"  # rhyme's own: strides, dilations, all protocols
    assert (package.plan.size, package.plan.resize, package.plan.frames) == (224, 256, 1)


def test_pixels_are_scaled_as_the_library_scales_them() -> None:
    swin, resnet = (
        recommended_plan(BackboneConfig(name=f"torchvision:{name}"))
        for name in ("swin_t", "resnet18")
    )
    assert (swin.interpolation, resnet.interpolation) == ("bicubic", "bilinear")
    assert eval_transform(swin).interpolation == "bicubic"
    # hashes of packages whose plan is a usual one stay what they were
    assert "interpolation" in swin.facts()
    assert not {"interpolation", "aspect"} & set(resnet.facts())


def test_a_plan_that_cuts_more_than_there_is_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be followed"):
        open_shelf("small", plan={"size": 224, "resize": 100})


def test_plans_are_those_of_the_library_unless_told_otherwise() -> None:
    clips = open_shelf("torchvision:r3d_18", plan={"frames": 8, "stride": 2}).plan
    assert (clips.size, clips.resize, clips.frames, clips.stride) == (112, 128, 8, 2)
    assert clips.spacing == 0
    assert clips.mean == (0.43216, 0.394666, 0.37645)


@pytest.mark.parametrize(("size", "helps"), [(100, "--size 96 or 112"), (20, "--size 16 or 32")])
def test_a_vision_transformer_says_which_sizes_it_takes(size: int, helps: str) -> None:
    with pytest.raises(ConfigError, match=f"patches of 16 pixels, which {size} is no") as caught:
        open_shelf("torchvision:vit_b_16", plan={"size": size})
    assert helps in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="16 to 1024 pixels, not for '2000'") as caught:
        open_shelf("torchvision:vit_b_16", plan={"size": 2000})
    assert "--size 224" in str(caught.value.remedy)


@pytest.mark.slow
def test_weights_and_pictures_of_another_size_name_the_one_that_fits(tmp_path: Path) -> None:
    net = models.VisionTransformer(64, 32, 12, 12, 768, 3072)  # vit_b_32 at 64 pixels
    torch.save(net.state_dict(), tmp_path / "w64.pth")
    with pytest.raises(PackageError, match=r"another shape: encoder\.pos_emb") as caught:
        open_shelf("torchvision:vit_b_32", tmp_path / "w64.pth")
    assert "--size 64" in str(caught.value.remedy)
    module = open_shelf("torchvision:vit_b_32", tmp_path / "w64.pth", plan={"size": 64}).module
    with pytest.raises(DataError, match="128 x 128 pixels: it is built for 64 x 64") as told:
        module(torch.zeros(1, 3, 128, 128))
    assert told.value.remedy == "give the size that it is made for: --size 64"


def test_what_cannot_be_is_refused_with_names(
    squeezenet: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = squeezenet
    with pytest.raises(UnknownName, match="squeezenet9") as caught:
        open_shelf("torchvision:squeezenet9")
    assert "squeezenet1" in str(caught.value.remedy)
    with pytest.raises(UnknownName, match="unknown encoder 'hub:resnet50'"):
        open_shelf("hub:resnet50")
    with pytest.raises(PackageError, match="no such file"):
        open_shelf("torchvision:squeezenet1_1", tmp_path / "none.pth")
    with pytest.raises(PackageError, match="none of the 52 entries belongs to 'resnet18'"):
        open_shelf("torchvision:resnet18", path)
    broken = {**net.state_dict(), "features.0.bias": torch.full((64,), torch.nan)}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(
        PackageError, match=r"1 of the weights are not finite: features\.0\.bias"
    ) as bad:
        open_shelf("torchvision:squeezenet1_1", tmp_path / "nan.pth")
    assert (bad.value.file, bad.value.stage) == (str(tmp_path / "nan.pth"), "load weights")
    assert "earlier moment of their training" in str(bad.value.remedy)
    part = {n: v for n, v in net.state_dict().items() if not n.startswith("features.0")}
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(PackageError, match=r"2 missing: features\.0\.\{bias,weight\}"):
        open_shelf("torchvision:squeezenet1_1", tmp_path / "part.pth")
    (tmp_path / "pickle.pth").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(PackageError, match="never run"):
        open_shelf("torchvision:squeezenet1_1", tmp_path / "pickle.pth")
    with pytest.raises(DataError, match="cannot read 2 x 2 pixels"), torch.no_grad():
        open_shelf("torchvision:squeezenet1_1", path).module(torch.zeros(1, 3, 2, 2))
    for name in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="timm, which is not installed") as absent:
        open_shelf("timm:resnet18")
    assert "rhyme-ssl[timm]" in str(absent.value.remedy)
    with pytest.raises(ConfigError, match="no such Hugging Face folder"):
        open_shelf(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="transformers, which is not installed") as absent:
        open_shelf(f"hf:{tmp_path}")
    assert "rhyme-ssl[transformers]" in str(absent.value.remedy)


def test_timm_where_it_is_installed(tmp_path: Path) -> None:
    timm = extra("timm")
    net = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    package = open_shelf("timm:resnet10t", tmp_path / "w.pth", plan={"size": 64})
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = package.module(pixels, stages=("stage1",))
        expected = net.forward_head(net.forward_features(pixels), pre_logits=True)
    assert torch.allclose(found.pooled, expected, atol=1e-5)
    assert package.module.geometry["stage1"] == (32.0, 0.0)
    assert package.extra["weights"]["left_out"] == {"classifier or head": ["fc.bias", "fc.weight"]}


def test_a_hugging_face_folder_where_it_is_installed(tmp_path: Path) -> None:
    transformers = extra("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8,
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config).eval()
    net.save_pretrained(tmp_path / "vit")
    package = open_shelf(f"hf:{tmp_path / 'vit'}")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = package.module(pixels)
        expected = net.vit(pixel_values=pixels).last_hidden_state
    assert torch.allclose(found.pooled, expected[:, 0], atol=1e-5)
    assert found.map is not None
    assert torch.allclose(found.map.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-5)
    assert package.extra["weights"]["left_out"] == {
        "classifier or head": ["classifier.bias", "classifier.weight"]
    }
    save_package(tmp_path / "p", package.module, package.plan, extra=package.extra)
    with torch.no_grad():
        assert torch.equal(load_package(tmp_path / "p").module(pixels).pooled, found.pooled)
    (tmp_path / "vit" / "model.safetensors").rename(tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(PackageError, match="pickled ones are never read"):
        open_shelf(f"hf:{tmp_path / 'vit'}")
