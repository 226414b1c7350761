"""Large images in tiles: as the whole image, where the network sees less far than a third of the overlap."""

import pytest
import torch
from torch.nn import functional as F

from torch_nonlocal.tasks.denoise.network import network
from torch_nonlocal.tasks.denoise.settings import DenoiseSettings
from torch_nonlocal.tasks.denoise.tiles import in_tiles
from torch_nonlocal.tasks.denoise.trained import TrainedDenoiser


def trained(**settings):
    """A network whose weights are random, also those that are zero before training."""
    torch.manual_seed(0)
    options = DenoiseSettings(width=8, depth=4, **settings)
    model = network(options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return TrainedDenoiser(model.double(), options).eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 131), (90, 48), (201, 49), (33, 34)])
@pytest.mark.parametrize("tile", [48, 62])
def test_convolutions_have_no_seams(size, tile):
    model = trained(non_local="none")
    image = torch.rand(1, *size, dtype=torch.float64)
    whole = model.denoised(image, 0.1, tile=0)
    torch.testing.assert_close(model.denoised(image, 0.1, tile=tile), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(65, 131), (201, 49)])
def test_pixels_of_an_identity_are_exact(size):
    image = torch.rand(3, *size, dtype=torch.float64)
    seen = []

    def run(x):
        seen.append(tuple(x.shape[2:]))
        return x

    torch.testing.assert_close(in_tiles(run, image, tile=64, overlap=24), image)
    assert max(max(one) for one in seen) <= 66
    assert len(seen) > 2


def test_seams_are_blended():
    """Two tiles whose values differ: the result rises between them in small steps."""
    values = iter([0.0, 1.0])
    found = in_tiles(lambda x: torch.full_like(x, next(values)), torch.zeros(1, 20, 100), tile=64, overlap=24)
    steps = found[0, 0].diff()
    assert found[0, 0, 0] == 0
    assert found[0, 0, -1] == 1
    assert (steps >= -1e-6).all()
    assert steps.max() < 0.2


def test_a_block_sees_one_tile():
    model = trained(non_local="one")
    image = F.pad(torch.rand(1, 40, 60, dtype=torch.float64), (0, 60))
    whole, tiles = (model.denoised(image, 0.1, tile=tile) for tile in (0, 64))
    assert (whole - tiles).abs().max() > 1e-6
    changed = image.clone()
    changed[:, :, -4:] = 1
    first = [model.denoised(one, 0.1, tile=64)[:, :, :30] for one in (image, changed)]
    torch.testing.assert_close(*first, rtol=0, atol=0)


@pytest.mark.parametrize(("colors", "channels"), [("gray", 3), ("color", 1), ("color", 3), ("gray", 1)])
def test_gray_and_color_images_and_networks_fit_each_other(colors, channels):
    model = trained(colors=colors)
    image = torch.rand(channels, 20, 22, dtype=torch.float64)
    found = model.denoise(image, sigma=0.1)
    assert found.shape == image.shape
    if colors == "gray" and channels == 3:
        torch.testing.assert_close(found[1], model.denoise(image[1], sigma=0.1))
    if channels == 1 and colors == "color":
        expected = model.denoise(image.expand(3, -1, -1), sigma=0.1)
        unlimited = model.denoised(image.expand(3, -1, -1), 0.1)
        torch.testing.assert_close(found, unlimited.mean(0, keepdim=True).clamp(0, 1))
        assert expected.shape == (3, 20, 22)
