"""torchvision and timm networks: bit-identical output after insert, original checkpoint loads, remove restores."""

import pytest
import torch

import torch_nonlocal as nl

models = pytest.importorskip("torchvision.models", reason="pip install torchvision")

IMAGE, CLIP = (1, 3, 64, 64), (1, 3, 4, 32, 32)

TORCHVISION = [
    # name, builder, at, example size, places, kind
    ("resnet18", models.resnet18, "layer3.*", IMAGE, ["layer3.0", "layer3.1"], nl.NonLocal2d),
    ("resnet50", models.resnet50, "layer3", IMAGE, ["layer3.5"], nl.NonLocal2d),
    ("r3d_18", models.video.r3d_18, "layer3.*", CLIP, ["layer3.0", "layer3.1"], nl.NonLocal3d),
    ("mc3_18", models.video.mc3_18, "layer2", CLIP, ["layer2.1"], nl.NonLocal3d),
    ("r2plus1d_18", models.video.r2plus1d_18, "layer3.*", CLIP, ["layer3.0", "layer3.1"], nl.NonLocal3d),
    ("convnext_tiny", models.convnext_tiny, "features.5", IMAGE, ["features.5.8"], nl.NonLocal2d),
    ("mobilenet_v2", models.mobilenet_v2, "features.13", IMAGE, ["features.13"], nl.NonLocal2d),
    ("mobilenet_v3_small", models.mobilenet_v3_small, "features.8", IMAGE, ["features.8"], nl.NonLocal2d),
    ("efficientnet_b0", models.efficientnet_b0, "features.4", IMAGE, ["features.4.2"], nl.NonLocal2d),
    ("densenet121", models.densenet121, "features.transition2", IMAGE, ["features.transition2.pool"], nl.NonLocal2d),
]


def restore_check(model, at, example, forward, places, kind):
    model.eval()
    checkpoint = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = forward(model)
        nl.insert(model, at=at, example_input=example)
        inserted = nl.blocks(model)
        assert list(inserted) == places
        assert all(type(block) is kind for block in inserted.values())
        assert_identical(forward(model), expected)
        model.load_state_dict(checkpoint, strict=True)
        assert_identical(forward(model), expected)
        nl.remove(model)
        assert model.state_dict().keys() == checkpoint.keys()
        assert_identical(forward(model), expected)


def assert_identical(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    else:
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)


@pytest.mark.parametrize(
    ("name", "build", "at", "size", "places", "kind"), TORCHVISION, ids=[t[0] for t in TORCHVISION]
)
def test_torchvision(name, build, at, size, places, kind):
    torch.manual_seed(0)
    x = torch.randn(size)
    restore_check(build(weights=None), at, x, lambda model: model(x), places, kind)


@pytest.mark.extended
def test_mask_rcnn_backbone():
    torch.manual_seed(0)
    model = models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    images = [torch.rand(3, 96, 96)]
    place = "backbone.body.layer3.5"
    restore_check(model, place, images, lambda net: net(images), [place], nl.NonLocal2d)


def test_mask_rcnn_needs_no_example_input():
    model = models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    block = nl.blocks(nl.insert(model, at="backbone.body.layer3.5"))["backbone.body.layer3.5"]
    assert (type(block), block.channels) == (nl.NonLocal2d, 1024)


def test_deeplab():
    torch.manual_seed(0)
    model = models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
    x = torch.randn(IMAGE)
    restore_check(model, "backbone.layer4", x, lambda net: net(x), ["backbone.layer4.2"], nl.NonLocal2d)


@pytest.mark.parametrize(
    ("build", "channels"),
    [(models.resnet18, 256), (models.resnet50, 1024), (models.video.r3d_18, 256), (models.video.r2plus1d_18, 256)],
)
def test_channels_of_resnet_blocks_are_found_without_an_example_input(build, channels):
    model = nl.insert(build(weights=None), at="layer3.*")
    x = torch.randn(CLIP if "video" in build.__module__ else IMAGE)
    model.eval()(x)  # raises if a channel count is wrong
    assert {block.channels for block in nl.blocks(model).values()} == {channels}


def test_a_dense_stage_raises_with_its_name():
    model = models.densenet121(weights=None)
    with pytest.raises(ValueError, match=r"'features\.denseblock1' is a _DenseBlock, a container"):
        nl.insert(model, at="features.denseblock1", example_input=torch.randn(IMAGE))


TIMM = [
    ("resnet18", "layer3.*", ["layer3.0", "layer3.1"]),
    ("efficientnet_lite0", "blocks.3", ["blocks.3.2"]),
    ("convnext_atto", "stages.2", ["stages.2"]),
    ("mobilenetv3_small_100", "blocks.2.[01]", ["blocks.2.0", "blocks.2.1"]),
    ("regnety_002", "s3", ["s3"]),
]


@pytest.mark.parametrize(("name", "at", "places"), TIMM, ids=[t[0] for t in TIMM])
def test_timm(name, at, places):
    timm = pytest.importorskip("timm", reason="pip install timm")
    torch.manual_seed(0)
    x = torch.randn(IMAGE)
    model = timm.create_model(name, pretrained=False)
    if len(places) == 1:
        inserted = nl.blocks(nl.insert(timm.create_model(name, pretrained=False), at=at, example_input=x))
        places = list(inserted)
        assert places[0].startswith(at)
    restore_check(model, at, x, lambda net: net(x), places, nl.NonLocal2d)


def test_timm_features_only():
    timm = pytest.importorskip("timm", reason="pip install timm")
    torch.manual_seed(0)
    x = torch.randn(IMAGE)
    model = timm.create_model("resnet18", pretrained=False, features_only=True)
    restore_check(model, "layer3", x, lambda net: net(x), ["layer3.1"], nl.NonLocal2d)


def test_a_1d_network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 8, 3), torch.nn.ReLU())
    x = torch.randn(1, 2, 9)
    restore_check(model, "1", x, lambda net: net(x), ["1"], nl.NonLocal1d)
