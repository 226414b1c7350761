"""Training items of the denoising task: noisy crops. Random draws are torch's, which `training.sampler` seeds per item.

Shapes: C channels, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from torch_nonlocal.tasks.denoise.images import Images
from torch_nonlocal.tasks.denoise.network import with_noise_map
from torch_nonlocal.tasks.denoise.settings import LEVELS, DenoiseSettings

EPOCH = 1600
"""Fewest crops per epoch; large folders have more, a few of each image."""
_PER_IMAGE = 4


class NoisyCrops(Dataset[tuple[Tensor, Tensor, int]]):
    """Noisy crops by index: (input of the network (C + 1, H, W), clean crop (C, H, W), index).

    Consecutive indices share an image; an image has as many as its share of all pixels. A crop is taken at a random
    place, of the image or of the image at half its size, and turned and mirrored in one of eight ways. Noise is
    Gaussian, not limited to [0, 1].

    Args:
        images: at least as large as a crop.
        settings: size of the crops and range of the noise.
    """

    def __init__(self, images: Images, settings: DenoiseSettings) -> None:
        self._images, self._settings = images, settings
        self._names = images.names
        self._length = max(EPOCH, _PER_IMAGE * len(images))
        areas = torch.tensor([one.shape[1] * one.shape[2] for one in images.pixels.values()], dtype=torch.float64)
        self._ends = areas.cumsum(0) / areas.sum() * self._length

    def __len__(self) -> int:
        return self._length

    def fingerprint(self) -> dict[str, object]:
        """See `Images.fingerprint`."""
        return self._images.fingerprint()

    def name(self, index: int) -> str:
        """The name of the image that a crop is taken from."""
        found = int(torch.searchsorted(self._ends, index + 0.5))
        return self._names[min(found, len(self._names) - 1)]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """One crop."""
        image_CHW, crop = self._images.pixels[self.name(index)], self._settings.crop
        is_half = min(image_CHW.shape[1:]) >= 2 * crop and bool(torch.rand(()) < 0.5)
        side = 2 * crop if is_half else crop
        top, left = (int(torch.randint(size - side + 1, ())) for size in image_CHW.shape[1:])
        clean = image_CHW[:, top : top + side, left : left + side].float().div(LEVELS)
        clean = F.avg_pool2d(clean, 2) if is_half else clean
        clean = torch.rot90(clean, int(torch.randint(4, ())), (1, 2))
        clean = (clean.flip(2) if torch.rand(()) < 0.5 else clean).contiguous()
        low, high = self._settings.sigma
        sigma = (low + (high - low) * float(torch.rand(()))) / LEVELS
        noisy = clean + sigma * torch.randn(clean.shape)
        return with_noise_map(noisy[None], sigma)[0], clean, index
