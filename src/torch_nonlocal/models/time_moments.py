"""A global pool that keeps the course of features over time: their average, trend and curvature."""

import torch
from torch import Tensor, nn

MOMENTS = 3
"""Values per channel: average, trend, curvature."""


class TimeMoments(nn.Module):
    """Average features over space, and project their course over time on Legendre polynomials of degree 0, 1 and 2.

    With time t from -1 (first frame) to 1 (last frame), channel c of the map x gives the averages over frames of
    x_c(t), 3 t x_c(t) and 5 (3 t^2 - a) / 2 x_c(t), where a makes the weights of the frames sum to 0 (a is 1 for many
    frames). The last two are 0 for features that do not change. The first one is what global average pooling returns.
    A linear layer behind it can tell the beginning, the middle and the end of a clip of any length.

    Shape: (B, C, T, H, W) -> (B, 3 C); the C averages come first, then the trends, then the curvatures.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute the moments."""
        x_BCT = x.mean((-2, -1))
        frames_T = torch.arange(x_BCT.shape[-1], dtype=x.dtype, device=x.device)
        centered_T = frames_T - frames_T.mean()
        t_T = centered_T / centered_T[-1:].clamp(min=0.5)  # one frame is at 0
        curve_T = 1.5 * t_T.square()
        moments = x_BCT, 3 * t_T * x_BCT, 5 * (curve_T - curve_T.mean()) * x_BCT
        return torch.stack(moments, 1).mean(-1).flatten(1)


def moment_classifier(channels: int, classes: int) -> nn.Linear:
    """A linear layer behind `TimeMoments` that starts as a layer behind global average pooling.

    Args:
        channels: C, channels of the map before the pool.
        classes: number of classes.
    """
    with torch.device("meta"):  # draws no random numbers
        layer = nn.Linear(channels * MOMENTS, classes)
    layer.to_empty(device="cpu")
    bound = channels**-0.5  # as nn.Linear draws its weights and bias
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :channels].uniform_(-bound, bound)
        layer.bias.uniform_(-bound, bound)
    return layer
