"""Noisy images for evaluation, and how close denoised images are to the clean ones: PSNR and SSIM."""

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def with_noise(clean: Tensor, sigma: float, seed: int) -> Tensor:
    """An image with Gaussian noise of this standard deviation, not limited to [0, 1]."""
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def psnr(image: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of an image with values in [0, 1]; infinite for equal images."""
    error = (image.double() - clean.double()).square().mean()
    return float(-10 * error.log10())


def ssim(image_CHW: Tensor, clean_CHW: Tensor) -> float:
    """Structural similarity of images with values in [0, 1], mean over all channels and whole windows.

    Args:
        image_CHW: (C, H, W).
        clean_CHW: (C, H, W), at least 11 x 11.

    Raises:
        ValueError: the images are smaller than a window.

    Reference: Wang et al., Image quality assessment: from error visibility to structural similarity, TIP 2004: Gaussian
    windows of 11 x 11 with sigma 1.5.
    """
    if min(clean_CHW.shape[1:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM: expected images of at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {tuple(clean_CHW.shape[1:])}"
        )
    distance = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    line = torch.exp(-distance.square() / (2 * _SIGMA**2))
    line /= line.sum()

    def mean(values_CHW: Tensor) -> Tensor:
        columns = F.conv2d(values_CHW[:, None], line.view(1, 1, -1, 1))
        return F.conv2d(columns, line.view(1, 1, 1, -1))

    x, y = image_CHW.double().cpu(), clean_CHW.double().cpu()
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())
