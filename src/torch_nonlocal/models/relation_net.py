"""A small 3D network with a receptive field of 9 x 9 pixels, for moving digits."""

from torch import Tensor, nn

from torch_nonlocal.models.inputs import GRAY


class RelationNet(nn.Module):
    """A 3D network with a receptive field of 9 x 9 pixels: (B, 1, T, H, W) -> (B, classes) logits.

    | module | kernel | stride  | output for (1, 8, 32, 32) | receptive field (T, H, W) |
    |--------|--------|---------|---------------------------|---------------------------|
    | stem   | 3x5x5  | 1, 2, 2 | channels, 8, 16, 16       | 3, 5, 5                   |
    | conv2  | 3x3x3  | 1, 2, 2 | channels, 8, 8, 8         | 5, 9, 9                   |
    | conv3  | 3x1x1  | 2, 1, 1 | channels, 4, 8, 8         | 7, 9, 9                   |
    | head   | 1x1x1  | 1       | average over T, H, W; linear to the three relations   |

    The only normalization layer, a batch norm in conv3, is a fixed scale and shift in eval mode, so it does not widen
    the receptive field. It gives a block after conv3 features of unit scale to compare. Without it, a block can stay
    near the average over all positions, which also solves the task but yields no informative attention.

    Args:
        channels: C, width of the three stages, at least 1.
        hidden: width of the head's 1x1x1 convolution, at least 1.
        classes: number of outputs.

    Raises:
        ValueError: a width is below 1.
    """

    def __init__(self, channels: int = 32, *, hidden: int = 128, classes: int = 3) -> None:
        super().__init__()
        self.inputs = GRAY
        if channels < 1 or hidden < 1:
            raise ValueError(f"channels, hidden: got {channels}, {hidden}, expected at least 1 each")
        self.stem = _stage(1, channels, (3, 5, 5), (1, 2, 2))
        self.conv2 = _stage(channels, channels, (3, 3, 3), (1, 2, 2))
        self.conv3 = _stage(channels, channels, (3, 1, 1), (2, 1, 1), norm=True)
        self.head = nn.Sequential(
            *_stage(channels, hidden, (1, 1, 1), (1, 1, 1)),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(hidden, classes),
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 1, T, H, W) in [0, 1] -> logits (B, classes)."""
        return self.head(self.conv3(self.conv2(self.stem(clips))))


def _stage(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    *,
    norm: bool = False,
) -> nn.Sequential:
    """Convolution with same padding, optional norm, ReLU. He initialization keeps the scale of the input."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, padding)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:  # always true; for the type checker
        nn.init.zeros_(convolution.bias)
    norms = [nn.BatchNorm3d(out_channels)] if norm else []
    return nn.Sequential(convolution, *norms, nn.ReLU(inplace=True))
