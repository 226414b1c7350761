"""The paper's placements in torchvision and timm networks."""

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.insertion.presets import stages
from torch_nonlocal.insertion.targets import find_targets

FIVE_OF_50 = ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]


def torchvision_model(path):
    models = pytest.importorskip("torchvision", reason="pip install torchvision").models
    for part in path.split(".")[:-1]:
        models = getattr(models, part)
    name = path.split(".")[-1]
    build, options = getattr(models, name), {"weights": None}
    if "." in path and "video" not in path:
        options["weights_backbone"] = None
    with torch.device("meta"):
        return build(**options)


@pytest.mark.parametrize(
    ("path", "preset", "places"),
    [
        ("resnet50", "paper-5", FIVE_OF_50),
        ("resnet50", "paper-1", ["layer3.4"]),
        ("resnet50", "paper-10", [f"layer2.{i}" for i in range(4)] + [f"layer3.{i}" for i in range(6)]),
        ("resnet101", "paper-5", ["layer2.1", "layer2.3", "layer3.6", "layer3.13", "layer3.20"]),
        ("resnet101", "paper-1", ["layer3.21"]),
        ("resnet152", "paper-5", ["layer2.3", "layer2.7", "layer3.11", "layer3.23", "layer3.35"]),
        ("resnet50", "nvan", ["layer2.2", "layer2.3", "layer3.3", "layer3.4", "layer3.5"]),
        ("resnet18", "nvan", ["layer2.0", "layer2.1", "layer3.0", "layer3.1"]),
        ("resnet18", "paper-5", ["layer2.0", "layer2.1", "layer3.0", "layer3.1"]),
        ("video.r3d_18", "paper-1", ["layer3.0"]),
        ("convnext_tiny", "paper-5", [f"features.{i}" for i in ("3.0", "3.1", "5.2", "5.5", "5.8")]),
        ("detection.maskrcnn_resnet50_fpn", "paper-5", [f"backbone.body.{place}" for place in FIVE_OF_50]),
        ("segmentation.deeplabv3_resnet50", "paper-5", [f"backbone.{place}" for place in FIVE_OF_50]),
    ],
)
def test_torchvision(path, preset, places):
    model = torchvision_model(path)
    assert list(find_targets(model, preset)) == places  # insert would need an example input for convnext_tiny


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet50", FIVE_OF_50),
        ("seresnet50", FIVE_OF_50),
        ("resnetv2_50", [f"stages.{i}.blocks.{j}" for i, j in ((1, 1), (1, 3), (2, 1), (2, 3), (2, 5))]),
        ("convnext_tiny", [f"stages.{i}.blocks.{j}" for i, j in ((1, 0), (1, 1), (2, 2), (2, 5), (2, 8))]),
        ("regnety_004", ["s2.b1", "s2.b2", "s3.b2", "s3.b4", "s3.b6"]),
    ],
)
def test_timm(name, places):
    timm = pytest.importorskip("timm", reason="pip install timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    assert list(find_targets(model, "paper-5")) == places


STAGES = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        *((f"detection.{name}_resnet50_fpn", [f"backbone.body.{stage}" for stage in STAGES])
          for name in ("fasterrcnn", "retinanet", "fcos", "keypointrcnn")),
        ("segmentation.fcn_resnet50", [f"backbone.{stage}" for stage in STAGES]),
        ("swin_t", [f"features.{i}" for i in (1, 3, 5, 7)]),
        ("video.swin3d_t", [f"features.{i}" for i in (0, 2, 4, 6)]),
        ("vit_b_16", ["encoder.layers"]),
    ],
)  # fmt: skip
def test_stages_of_torchvision(path, found):
    assert list(stages(torchvision_model(path))) == found


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("resnet18", {"features_only": True}, STAGES),
        ("convnext_atto", {"features_only": True}, [f"stages_{i}.blocks" for i in range(4)]),
        ("swin_tiny_patch4_window7_224", {"features_only": True}, [f"layers_{i}.blocks" for i in range(4)]),
        ("swin_tiny_patch4_window7_224", {}, [f"layers.{i}.blocks" for i in range(4)]),
        ("pvt_v2_b0", {}, [f"stages.{i}.blocks" for i in range(4)]),
        ("poolformer_s12", {}, [f"stages.{i}.blocks" for i in range(4)]),
    ],
)
def test_stages_of_timm(name, options, found):
    timm = pytest.importorskip("timm", reason="pip install timm")
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    assert list(stages(model)) == found


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, channels, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)
        self.skip = nn.Conv2d(channels, width, 1)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x))) + self.skip(x)


class Hourglass(nn.Module):
    """An encoder and a decoder side by side, of blocks of one class."""

    def __init__(self, *, decoder_first):
        super().__init__()
        down = [8, 16, 32, 64]
        parts = {
            "enc": [nn.Sequential(Residual(a, b), Residual(b, b)) for a, b in zip([3, *down[:3]], down, strict=True)],
            "dec": [nn.Sequential(Residual(a, b)) for a, b in zip(down[::-1], [*down[2::-1], 4], strict=True)],
        }
        for name in sorted(parts, reverse=not decoder_first):
            for i, stage in enumerate(parts[name]):
                self.add_module(f"{name}{i}", stage)


@pytest.mark.parametrize("decoder_first", [True, False])
def test_stages_of_an_encoder_grow_in_width(decoder_first):
    assert list(stages(Hourglass(decoder_first=decoder_first))) == [f"enc{i}" for i in range(4)]


def test_stages_are_the_same_after_insertion_and_behind_wrappers():
    model = Hourglass(decoder_first=False)
    expected = stages(model)
    nl.insert(model, ["enc2.1.skip", "enc1.0.skip"], norm=None)
    assert stages(model) == expected
    assert stages(nn.DataParallel(model)) == expected


def test_a_preset_inserts_and_removes_the_same_blocks():
    models = pytest.importorskip("torchvision", reason="pip install torchvision").models
    model = models.resnet18(weights=None).eval()
    image = torch.randn(1, 3, 64, 64)
    before = model(image)
    nl.insert(model, "paper-5")
    assert list(nl.blocks(model)) == ["layer2.0", "layer2.1", "layer3.0", "layer3.1"]
    assert torch.equal(model(image), before)
    assert not nl.blocks(nl.remove(model, "paper-5"))


@pytest.mark.parametrize(
    ("model", "preset", "match"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "paper-5", "stages of Sequential: 0, none. Name the places"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3)),
            "paper-3",
            "unknown preset 'paper-3': expected one of 'paper-1', 'paper-5'",
        ),
    ],
)
def test_networks_without_four_stages_and_unknown_presets_raise(model, preset, match):
    with pytest.raises(ValueError, match=match):
        nl.insert(model, preset)


def test_the_message_lists_the_stages():
    timm = pytest.importorskip("timm", reason="pip install timm")
    with pytest.raises(ValueError, match=r"stages of EfficientNet: 7, blocks.0 \(1\), blocks.1 \(2\)"):
        nl.insert(timm.create_model("efficientnet_lite0"), "paper-5")


@pytest.mark.parametrize("preset", ["paper-5", "nvan"])
def test_a_network_inside_a_module_of_its_own(preset):
    model = torchvision_model("resnet50")
    inside = [f"0.{place}" for place in find_targets(model, preset)]
    assert list(find_targets(nn.Sequential(model), preset)) == inside
