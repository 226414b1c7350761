"""A baseline without training: color histograms of the upper and the lower half of the frames.

Shapes: N tracklets, T frames, H height, W width, K the 72 bins: 2 halves x 12 hues x 3 saturations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_nonlocal.data.tracklets.tracklet import TrackletSource
from torch_nonlocal.models.inputs import RGB

_HUES, _SATURATIONS, _HALVES = 12, 3, 2
_CONTRAST = 0.2  # standard deviation of each channel, for values in [0, 1]


def color_histogram(clip: Tensor) -> Tensor:
    """Square roots of the joint histogram of hue and saturation per half, averaged over frames: (K,), of length 1.

    The inner product of two of them is the Bhattacharyya coefficient of the histograms, so their cosine distance is the
    squared Hellinger distance. Each channel is brought to the same mean and standard deviation first, which removes
    most of the gain and the tint of a camera.

    Args:
        clip: (3, T, H, W) uint8 RGB.
    """
    values = RGB.normalize(clip[None])[0]
    spread = values.std((1, 2, 3), correction=0, keepdim=True).clamp(min=1e-3)
    values = ((values - values.mean((1, 2, 3), keepdim=True)) / spread * _CONTRAST + 0.5).clamp_(0, 1)
    red, green, blue = values
    high, chroma = values.amax(0), values.amax(0) - values.amin(0)
    safe = chroma.clamp(min=1e-6)
    sixth = torch.where(
        high == red,
        (green - blue) / safe % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )  # hue in [0, 6]
    hue = (sixth * (_HUES / 6)).long() % _HUES
    saturation = (chroma / high.clamp(min=1e-6) * _SATURATIONS).long().clamp(max=_SATURATIONS - 1)
    is_low_H1 = (torch.arange(clip.shape[-2]) >= clip.shape[-2] // 2).long().unsqueeze(1)
    bins = (is_low_H1 * _HUES + hue) * _SATURATIONS + saturation
    counts = torch.bincount(bins.flatten(), minlength=_HALVES * _HUES * _SATURATIONS)
    return (counts / counts.sum()).sqrt()


def histogram_embeddings(source: TrackletSource, indices: Sequence[int]) -> Tensor:
    """Color histograms of tracklets, over all their frames: (N, K)."""
    tracklets = source.tracklets
    return torch.stack([color_histogram(source.read(at, range(tracklets[at].length))) for at in indices])
