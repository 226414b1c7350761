"""The network of the denoising task: convolutions at half the resolution, and one non-local block.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.insertion import insert
from torch_nonlocal.layers import BlockOptions
from torch_nonlocal.models.fitting import limited_to, load_exactly
from torch_nonlocal.tasks.denoise.settings import DenoiseSettings

FACTOR = 2
"""The network computes on a grid with this step in pixels."""
BLOCK: BlockOptions = {"pairwise": "gaussian", "scale": 16.0, "norm": None}
"""Options of the block. The features are small: at a scale of 1, a trained network weighs all positions equally."""


class Residual(nn.Module):
    """Two convolutions and a residual: x + W_2 ReLU(W_1 x)."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(hidden, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of x, (B, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))


class DenoisingNet(nn.Module):
    """A residual network that estimates the noise of images, given its standard deviation.

    Pixels of 2 x 2 become channels, so the convolutions see twice as far and take a quarter of the time.

    Args:
        channels: channels C of the images.
        width: channels of the network.
        depth: convolutions: one at each end and two in each residual.

    Reference: Zhang et al., Beyond a Gaussian denoiser (DnCNN), TIP 2017, and FFDNet, TIP 2018, for the noise map and
    the half resolution.
    """

    def __init__(self, channels: int = 1, width: int = 48, depth: int = 8) -> None:
        super().__init__()
        self.channels = channels
        cells = FACTOR * FACTOR
        self.head = nn.Conv2d(cells * (channels + 1), width, 3, padding=1)
        self.body = nn.Sequential(*(Residual(width, width, 3) for _ in range(depth // 2 - 1)))
        self.tail = nn.Conv2d(width, cells * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise images.

        Args:
            x: noisy images and the standard deviation of their noise in each pixel as the last channel,
                (B, C + 1, H, W), for pixels in [0, 1].

        Returns:
            (B, C, H, W), not limited to [0, 1].
        """
        height, width = x.shape[2:]
        padded = F.pad(x, (0, width % FACTOR, 0, height % FACTOR), mode="replicate")
        features = self.head(F.pixel_unshuffle(padded, FACTOR))
        noise = F.pixel_shuffle(self.tail(self.body(features)), FACTOR)
        return x[:, : self.channels] - noise[:, :, :height, :width]


def with_noise_map(images: Tensor, sigma: Tensor | float) -> Tensor:
    """The input of the network: images (B, C, H, W) and sigma, a number or (B,), as one more channel."""
    values = torch.as_tensor(sigma, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)
    return torch.cat([images, values.expand(len(images), 1, *images.shape[2:])], 1)


def network(settings: DenoiseSettings) -> DenoisingNet:
    """Build the network of these settings, with random weights.

    A block follows the middle residual. It compares the features themselves, as non-local means does patches. In its
    place, the network without a block has a residual of 1 x 1 convolutions with the same shapes as g and out of the
    block, so both networks have equally many parameters. Both start as the identity.
    """
    model = DenoisingNet(settings.channels, settings.width, settings.depth)
    middle = (len(model.body) - 1) // 2
    inner = settings.width // 2
    if settings.non_local == "one":
        example = torch.zeros(1, settings.channels + 1, 4, 4)
        options: BlockOptions = {**BLOCK, "inner_channels": inner}
        insert(model, f"body.{middle}", example, **options)
        return model
    pointwise = Residual(settings.width, inner, 1)
    nn.init.zeros_(pointwise.conv2.weight)
    nn.init.zeros_(pointwise.conv2.bias)  # pyright: ignore[reportArgumentType]
    model.body.insert(middle + 1, pointwise)
    return model


def trained_network(settings: DenoiseSettings, tensors: Mapping[str, Tensor], source: str) -> DenoisingNet:
    """Build the network that a file of trained weights describes, and load its tensors.

    Raises:
        ValueError: the settings and the tensors do not fit.
    """
    with limited_to(tensors):
        model = network(settings)
    load_exactly(model, tensors, source=source)
    return model


def parameter_count(model: nn.Module) -> int:
    """The number of parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
