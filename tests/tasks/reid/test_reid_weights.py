"""Initial weights of networks of re-identification: files of whole networks, such as those of torchvision and timm."""

import re
from urllib.error import URLError

import pytest
import torch

for package in ("timm", "torchvision"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")

import timm  # noqa: E402
import torchvision  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.tasks.reid.network import network, start_from  # noqa: E402
from torch_nonlocal.tasks.reid.settings import ReidSettings  # noqa: E402

SIZE = {"height": 64, "width": 32, "frames": "uniform-2", "last_stride": 2}


def settings_of(name, path, **more):
    return ReidSettings(network=name, weights=str(path), **{"non_local": "none", **SIZE, **more})


def maps_of_resnet(model, images):
    for name, module in model.named_children():
        images = images if name in ("avgpool", "fc") else module(images)
    return images


def flat(name):
    """The name of a tensor of torchvision's MobileNetV2 in the first implementation in PyTorch.

    A block there is one sequence: conv, norm, ReLU6, conv, norm, ReLU6, conv, norm; the first block lacks the first
    three.
    """
    found = re.fullmatch(r"features\.(\d+)\.conv\.(.+)\.(\w+)", name)
    if found is None:
        return name
    block, place, kind = found.groups()
    if block == "1":
        place = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}[place]
    else:
        place = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}[place]
    return f"features.{block}.conv.{place}.{kind}"


NETWORKS = {
    "torchvision:resnet18": (lambda: torchvision.models.resnet18(), maps_of_resnet),
    "torchvision:mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(), lambda model, x: model.features(x)),
    "timm:efficientnet_lite0": (
        lambda: timm.create_model("efficientnet_lite0"),
        lambda model, x: model.forward_features(x),
    ),
}


@pytest.mark.parametrize(
    ("name", "renamed", "options"),
    [
        ("torchvision:resnet18", lambda name: f"module.{name}", {"non_local": "layer3"}),
        ("torchvision:mobilenet_v2", str, {"pooling": "attention", "non_local": "features.13"}),
        ("torchvision:mobilenet_v2", flat, {}),
        ("timm:efficientnet_lite0", str, {"non_local": "network.blocks.2.1"}),
    ],
)
def test_a_state_dict_of_the_network_is_loaded_into_the_backbone(tmp_path, name, renamed, options):
    build, maps = NETWORKS[name]
    torch.manual_seed(0)
    whole = build().eval()
    path = tmp_path / "weights.pth"
    torch.save({renamed(key): value for key, value in whole.state_dict().items()}, path)
    settings = settings_of(name, path, **options)
    model = network(settings, 3).eval()
    state = torch.get_rng_state()
    report = start_from(model, settings)
    assert torch.equal(torch.get_rng_state(), state)
    clip = torch.randn(1, 3, 2, 64, 32)
    with torch.no_grad():
        expected = maps(whole, clip[0].transpose(0, 1)).transpose(0, 1)
        assert torch.allclose(model.backbone(clip)[0], expected, atol=1e-5 * float(expected.abs().max()))
    assert "neck (not in the weights), classifier (not in the weights); not used: " in report
    assert ("pool (not in the weights)" in report) == ("pooling" in options)
    assert ("non_local (identity until trained)" in report) == ("non_local" in options)


def test_several_places_are_separated_by_commas():
    settings = settings_of("torchvision:mobilenet_v2", "none", non_local="features.13,features.[6,7]")
    assert list(nl.blocks(network(settings, 3).backbone)) == ["features.6", "features.7", "features.13"]


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(*given, **options):
        raise URLError("unknown host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(OSError, match=r"weights of torchvision:resnet18 are not on this machine .*unknown host.* copy"):
        network(settings_of("torchvision:resnet18", "imagenet"), 3)


def test_kernels_over_time_stay_the_identity(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.resnet50().eval()
    torch.save(whole.state_dict(), tmp_path / "resnet50.pth")
    settings = settings_of("torchvision:resnet50", tmp_path / "resnet50.pth", temporal="factorized")
    model = network(settings, 3).eval()
    assert "not used: fc.weight, fc.bias" in start_from(model, settings)
    clip = torch.randn(1, 3, 2, 32, 32)
    with torch.no_grad():
        expected = maps_of_resnet(whole, clip[0].transpose(0, 1)).transpose(0, 1)
        assert torch.allclose(model.backbone(clip)[0], expected, atol=1e-5 * float(expected.abs().max()))


def test_weights_of_another_network_are_refused_and_nothing_changes(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    settings = settings_of("torchvision:resnet18", path)
    model = network(settings, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"missing keys: conv1\.weight.* or weights of the network torchvision:resnet18"
    ):
        start_from(model, settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_without_imagenet_weights_is_named(tmp_path):
    (tmp_path / "net.py").write_text("from torchvision.models import resnet18\n")
    for name in ("persons", f"{tmp_path / 'net.py'}:resnet18"):
        with pytest.raises(ValueError, match=r"weights='imagenet': the network '.*' has none; expected 'none' or a"):
            network(settings_of(name, "imagenet"), 3)
