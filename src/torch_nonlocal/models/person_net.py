"""A small network for handwritten persons: each frame by itself, with a receptive field of one body part."""

from dataclasses import replace

from torch import Tensor, nn

from torch_nonlocal.models.inputs import RGB


class PersonNet(nn.Module):
    """A network for clips of small frames, without a classifier: (B, 3, T, H, W) -> maps (B, 2 C, T, H / 4, W / 4).

    | module | kernel | stride  | output for (3, 8, 48, 24) | receptive field (T, H, W) |
    |--------|--------|---------|---------------------------|---------------------------|
    | light  | each channel of a clip to mean 0 and standard deviation 1               |
    | stem   | 1x5x5  | 1, 2, 2 | C, 8, 24, 12              | 1, 5, 5                   |
    | conv2  | 1x3x3  | 1, 2, 2 | 2 C, 8, 12, 6             | 1, 9, 9                   |
    | conv3  | 1x3x3  | 1       | 2 C, 8, 12, 6             | 1, 17, 17                 |

    A position sees about one body part of one frame. What is farther away in the frame, such as the band of a tram
    below the digits in its window, reaches it only through a block. `light` removes gain and tint of a camera; it is
    the only module that sees the whole clip.

    Args:
        channels: C, at least 1.

    Raises:
        ValueError: the width is below 1.
    """

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels: got {channels}, expected at least 1")
        self.inputs = replace(RGB, size=(48, 24), frames=8)
        self.light: nn.Module = nn.InstanceNorm3d(3)
        self.stem = _stage(3, channels, 5, 2)
        self.conv2 = _stage(channels, 2 * channels, 3, 2)
        self.conv3 = _stage(2 * channels, 2 * channels, 3, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [0, 1] -> maps (B, 2 C, T, H / 4, W / 4)."""
        return self.conv3(self.conv2(self.stem(self.light(clips))))


def _stage(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution of each frame with same padding, batch norm, ReLU. He initialization keeps the scale of the input."""
    convolution = nn.Conv3d(
        in_channels, out_channels, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2), bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))
