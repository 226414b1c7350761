"""Maps before the global pool, and the last stride."""

import pytest
import torch
from torch import nn

torchvision = pytest.importorskip("torchvision", reason="pip install 'torch-nonlocal[models]'")
timm = pytest.importorskip("timm", reason="pip install 'torch-nonlocal[models]'")

from torch_nonlocal.models.feature_maps import feature_maps, map_channels, set_last_stride  # noqa: E402

IMAGE = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def networks():
    models = torchvision.models
    return {
        "resnet18": (models.resnet18(), 512, ["layer4.0.conv1", "layer4.0.downsample.0"]),
        "mobilenet_v2": (models.mobilenet_v2(), 1280, ["features.14.conv.1.0"]),
        "densenet121": (models.densenet121(), 1024, []),  # its last reduction is a pool
        "timm": (timm.create_model("efficientnet_lite0"), 1280, ["network.blocks.5.0.conv_dw"]),
    }


@pytest.mark.parametrize(("model", "channels", "last"), networks().values(), ids=networks())
def test_pooled_maps_with_the_classifier_are_the_networks_scores(model, channels, last):
    model.eval()
    scores = model(IMAGE)
    head = next(one for one in reversed(list(model.modules())) if isinstance(one, nn.Linear))
    maps = feature_maps(model).eval()
    x = maps(IMAGE)
    assert map_channels(maps, IMAGE) == channels == x.shape[1]
    x = x.relu() if channels == 1024 else x  # DenseNet has a functional ReLU before its pool
    torch.testing.assert_close(head(x.mean((2, 3))), scores, rtol=1e-4, atol=1e-4)

    assert set_last_stride(maps, IMAGE) == last
    height, width = maps(IMAGE).shape[2:]
    assert (height, width) == ((4, 2) if last else (2, 1))


def test_a_shift_by_the_former_stride_gives_the_former_maps_at_every_second_place():
    maps = feature_maps(torchvision.models.resnet18()).eval()
    former = maps(IMAGE)
    stage = torch.nn.Sequential(*list(maps.children())[:-1])(IMAGE)
    set_last_stride(maps, IMAGE)
    block = maps.layer4[0]
    with torch.no_grad():
        dense = block.downsample(stage)
    assert dense.shape[2:] == (4, 2)
    assert former.shape[2:] == (2, 1)
    block.downsample[0].stride = (2, 2)
    torch.testing.assert_close(dense[:, :, ::2, ::2], block.downsample(stage))


def test_a_network_without_maps_is_named_with_what_it_returns():
    with pytest.raises(ValueError, match=r"network 'mine': expected maps .* for an input of \(1, 3, 64, 32\), got"):
        map_channels(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 32, 2)), IMAGE, "mine")
    with pytest.raises(ValueError, match="got RuntimeError"):
        map_channels(nn.Conv2d(4, 2, 1), IMAGE, "mine")
