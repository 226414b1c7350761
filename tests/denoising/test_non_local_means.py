"""Non-local means against its definition in plain loops, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from torch_nonlocal import functional
from torch_nonlocal.benchmark.meter import measure
from torch_nonlocal.denoising import everywhere, windowed


def reflected(index, size):
    """An index beyond the border, reflected without repeating the edge."""
    index = abs(index)
    return 2 * (size - 1) - index if index >= size else index


def definition(image, patch, window, h, sigma):
    """The definition, pixel by pixel: weights (N, N) and means of the shape of the image (C, ...)."""
    image = np.asarray(image, dtype=np.float64)
    sizes = image.shape[1:]
    places = list(itertools.product(*map(range, sizes)))
    offsets = list(itertools.product(*(range(-(side // 2), side // 2 + 1) for side in patch)))

    def patch_at(place):
        around = (
            tuple(reflected(one + step, size) for one, step, size in zip(place, offset, sizes, strict=True))
            for offset in offsets
        )
        return np.array([image[(slice(None), *one)] for one in around]).ravel()

    patches = [patch_at(place) for place in places]
    weights = np.zeros((len(places), len(places)))
    for i, j in itertools.product(range(len(places)), repeat=2):
        steps = [abs(one - two) for one, two in zip(places[i], places[j], strict=True)]
        if window is None or all(step <= side // 2 for step, side in zip(steps, window, strict=True)):
            distance = ((patches[i] - patches[j]) ** 2).mean()
            weights[i, j] = math.exp(-max(distance - 2 * sigma**2, 0) / h**2)
    weights /= weights.sum(1, keepdims=True)
    return weights, (weights @ image.reshape(len(image), -1).T).T.reshape(image.shape)


def picture(*shape, seed=0, dtype=torch.float64):
    """A ramp with noise, in [0, 1]."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise * 0.3 + torch.linspace(0, 0.7, shape[-1], dtype=torch.float64)).to(dtype)


CASES = {
    # shape, patch, window, h, sigma
    "gray": ((1, 9, 11), 5, 7, 0.1, 0.0),
    "color": ((3, 8, 7), 3, 5, 0.1, 0.0),
    "sigma": ((1, 9, 8), 3, 5, 0.06, 0.1),
    "window of one pixel": ((1, 5, 6), 3, 1, 0.1, 0.0),
    "window larger than the image": ((1, 5, 6), 3, 41, 0.1, 0.0),
    "patch of one pixel": ((2, 6, 7), 1, 5, 0.1, 0.0),
    "patch as large as reflection allows": ((1, 4, 4), 7, 5, 0.1, 0.0),
    "per axis": ((1, 8, 9), (3, 5), (7, 3), 0.1, 0.02),
    "volume": ((1, 4, 5, 6), 3, 3, 0.1, 0.0),
    "color video": ((3, 4, 5, 4), (1, 3, 3), (5, 3, 3), 0.1, 0.05),
    "one pixel": ((1, 1, 1), 1, 1, 0.1, 0.0),
    "global": ((1, 9, 8), 5, None, 0.1, 0.0),
    "global color": ((3, 6, 8), 3, None, 0.1, 0.0),
    "global with sigma": ((1, 9, 8), 3, None, 0.06, 0.1),
    "global volume": ((1, 3, 5, 4), 3, None, 0.1, 0.02),
    "small h": ((1, 8, 8), 3, None, 0.004, 0.0),
    "tiny h": ((1, 6, 6), 3, 5, 1e-30, 0.0),
    "tiny h, global": ((1, 6, 6), 3, None, 1e-30, 0.0),
    "large h": ((1, 6, 6), 3, None, 1e3, 0.0),
}


def sides(side, axes):
    return side if side is None or isinstance(side, tuple) else (side,) * axes


@pytest.mark.parametrize("name", CASES)
def test_equals_the_definition(name):
    shape, patch, window, h, sigma = CASES[name]
    images = torch.stack([picture(*shape, seed=seed) for seed in (0, 1)])
    expected = [
        definition(one, sides(patch, len(shape) - 1), sides(window, len(shape) - 1), h, sigma) for one in images
    ]
    options = {"patch": patch, "window": window, "h": h, "sigma": sigma}
    y = functional.non_local_means(images, **options)
    assert y.dtype == torch.float64
    assert y.shape == images.shape
    torch.testing.assert_close(y, torch.tensor(np.stack([means for _, means in expected])), rtol=0, atol=1e-12)
    single = functional.non_local_means(images.float(), **options)
    assert single.dtype == torch.float32
    if h > 1e-20:  # else rounding of the pixels decides which patches are equal
        torch.testing.assert_close(single.double(), y, rtol=0, atol=1e-6)
    at = tuple(size // 2 for size in shape[1:])
    row = functional.non_local_means_weights(images[0], at, **options)
    number = int(np.ravel_multi_index(at, shape[1:]))
    torch.testing.assert_close(row.flatten(), torch.tensor(expected[0][0][number]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.0, 0.08])
def test_parts_of_an_image_make_no_difference(monkeypatch, sigma):
    images, options = picture(1, 2, 40, 30), {"patch": 5, "h": 0.05, "sigma": sigma}
    in_one = [functional.non_local_means(images, window=window, **options) for window in (9, None)]
    monkeypatch.setattr(windowed, "BAND_BYTES", 1)
    monkeypatch.setattr(everywhere, "PIXELS", 64)
    in_parts = [functional.non_local_means(images, window=window, **options) for window in (9, None)]
    torch.testing.assert_close(in_parts, in_one, rtol=0, atol=1e-13)


@pytest.mark.parametrize("noise", [0.0, 1 / 255, 10 / 255, 50 / 255])
@pytest.mark.parametrize("window", [21, None])
def test_float32_equals_float64_on_edges_and_flat_areas(noise, window, monkeypatch):
    """Distances of patches with strong edges are small differences of large products."""
    monkeypatch.setattr(everywhere, "PIXELS", 256)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    clean = ((y - 24) ** 2 + (x - 24) ** 2 < 200).double() * 0.8 + 0.1 + (x > 30) * (y % 4 < 2) * 0.1
    image = clean + noise * torch.randn(48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = image.float()[None, None]
    for h, sigma in ((max(noise, 1e-3), 0.0), (max(0.65 * noise, 1e-3), noise)):
        single, double = (
            functional.non_local_means(one, window=window, h=h, sigma=sigma) for one in (image, image.double())
        )
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [9, None])
def test_half_types_and_ranges(window):
    images = picture(1, 1, 12, 10, dtype=torch.float32)
    expected = functional.non_local_means(images.half().float(), patch=3, window=window, h=0.1)
    y = functional.non_local_means(images.half(), patch=3, window=window, h=0.1)
    torch.testing.assert_close(y, expected.half())
    scaled = functional.non_local_means(images * 255 + 7, patch=3, window=window, h=25.5)
    torch.testing.assert_close((scaled - 7) / 255, functional.non_local_means(images, patch=3, window=window, h=0.1))


def test_global_means_are_the_embedded_gaussian():
    image, h = picture(2, 7, 6), 0.1
    P = everywhere.patches(image.unsqueeze(1), (1, 3, 3))[None]
    ones = torch.ones_like(P[..., :1])
    theta = torch.cat([2 * P, ones], -1) / (P.shape[-1] * h**2)
    phi = torch.cat([P, -P.square().sum(-1, keepdim=True)], -1)
    y = functional.embedded_gaussian(theta, phi, image.flatten(1).mT[None], algorithm="dense")
    expected = functional.non_local_means(image[None], patch=3, window=None, h=h)
    torch.testing.assert_close(y.mT.reshape(expected.shape), expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_of_products_makes_no_difference(precision):
    images, before = picture(1, 1, 40, 40, dtype=torch.float32), torch.get_float32_matmul_precision()
    expected = functional.non_local_means(images, patch=3, window=None, h=0.1)
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu"):
            y = functional.non_local_means(images, patch=3, window=None, h=0.1)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [(3, 5), None])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_gradients(window, sigma):
    images = picture(1, 2, 4, 5).requires_grad_()

    def denoised(images):
        return functional.non_local_means(images, patch=3, window=window, h=0.15, sigma=sigma)

    torch.testing.assert_close(denoised(images), denoised(images.detach()))
    assert torch.autograd.gradcheck(denoised, images)
    assert torch.autograd.gradgradcheck(denoised, images)


def test_gradients_of_a_volume_and_in_a_transform():
    images = picture(2, 1, 3, 4, 4)

    def total(images):
        return functional.non_local_means(images, patch=3, window=3, h=0.15).square().sum()

    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(images), expected)
    many = torch.func.vmap(torch.func.grad(lambda one: total(one[None])))(images)
    torch.testing.assert_close(many, expected)


def global_means(size):
    torch.set_num_threads(1)
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    functional.non_local_means(image[..., :32, :32], window=None, h=0.02)
    return lambda: functional.non_local_means(image, window=None, h=0.02)


@pytest.mark.extended
def test_memory_of_global_means_is_far_below_that_of_a_map():
    pixels = 200 * 200
    patches = 4 * 49 * pixels
    bound = 4 * patches + 64 * 2**20
    assert bound < 4 * pixels**2 / 50
    assert measure(global_means, 200, repeats=0).extra_bytes <= bound


IMAGE = torch.rand(1, 1, 8, 8)
MISTAKES = {
    "rank": (IMAGE[0], {}, r"expected images \(B, C, H, W\) or \(B, C, T, H, W\), got shape \(1, 8, 8\)"),
    "integers": ((IMAGE * 255).byte(), {}, r"floating-point.*torch.uint8.*images.float\(\) / 255"),
    "empty": (IMAGE[:0], {}, r"at least one pixel, got shape \(0, 1, 8, 8\)"),
    "no channels": (IMAGE[:, :0], {}, "at least one pixel"),
    "NaN": (IMAGE.where(IMAGE.max() > IMAGE, torch.nan), {}, "finite images, got 1 values"),
    "infinite": (IMAGE / 0, {}, "finite images, got 64 values"),
    "h of zero": (IMAGE, {"h": 0.0}, "h=0.0: expected a finite number, more than 0"),
    "negative h": (IMAGE, {"h": -1.0}, "h=-1.0"),
    "NaN h": (IMAGE, {"h": math.nan}, "h=nan"),
    "infinite h": (IMAGE, {"h": math.inf}, "h=inf"),
    "negative sigma": (IMAGE, {"sigma": -0.1}, "sigma=-0.1: expected a finite number, 0 or more"),
    "NaN sigma": (IMAGE, {"sigma": math.nan}, "sigma=nan"),
    "even patch": (IMAGE, {"patch": 6}, "patch=6: expected an odd number"),
    "zero patch": (IMAGE, {"patch": 0}, "patch=0"),
    "fractional patch": (IMAGE, {"patch": 7.0}, "patch=7.0: expected an odd number"),
    "patch of three axes": (IMAGE, {"patch": (3, 3, 3)}, "or 2 of them"),
    "even window": (IMAGE, {"window": 20}, "window=20: expected an odd number"),
    "window of one axis": (IMAGE, {"window": (21,)}, "or 2 of them"),
    "large patch": (IMAGE, {"patch": 17}, "8 x 8 pixels are too small; .* needs more than 8 x 8"),
    "few frames": (IMAGE[:, :, None], {"patch": 3}, "1 x 8 x 8 pixels are too small"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    images, options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        functional.non_local_means(images, **{"h": 0.1, **options})


@pytest.mark.parametrize("at", [(8, 0), (0, -1), (0,), (0, 0, 0)])
def test_weights_of_a_pixel_outside_are_refused(at):
    with pytest.raises(ValueError, match=r"expected 2 numbers from 0, below \(8, 8\)"):
        functional.non_local_means_weights(IMAGE[0], at, h=0.1)


@pytest.mark.parametrize("shape", [(2, 3, 128, 128), (1, 1, 4, 64, 64)])
def test_the_noise_of_a_smooth_image_is_estimated(shape):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    smooth = torch.linspace(0, 1, shape[-1]).square()
    estimates = functional.estimate_noise(smooth + 0.05 * noise)
    assert estimates.shape == shape[:2]
    torch.testing.assert_close(estimates, torch.full(shape[:2], 0.05), rtol=0.06, atol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGE[..., :3], "at least 4 x 4 pixels"),
        (IMAGE[0], r"expected images \(B, C, H, W\)"),
        (IMAGE.byte(), "floating-point"),
        (IMAGE / 0, "finite"),
    ],
)
def test_an_image_whose_noise_cannot_be_estimated_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        functional.estimate_noise(images)
