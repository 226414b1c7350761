"""Keys: which features of a map are compared with the queries.

| keys      | keys of a map (H, W), with subsample=s                        | M              |
|-----------|---------------------------------------------------------------|----------------|
| "pool"    | max pooling by s; every position without subsample            | floor(H/s) ... |
| "stride"  | every s-th position, from the first                           | ceil(H/s) ...  |
| "pyramid" | averages over 1 x 1, 3 x 3, 6 x 6 and 8 x 8 regions of an image | 110            |

A pyramid has 18 keys for a sequence. It is computed for each frame of a clip, so a clip of T frames has 110 T keys with
attend="spacetime" and 110 for each frame with attend="space". References: Zhu et al., Asymmetric Non-local Neural
Networks for Semantic Segmentation, ICCV 2019 (pyramid).
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Keys = Literal["pool", "stride", "pyramid"]
KEYS: tuple[Keys, ...] = get_args(Keys)
PYRAMID = (1, 3, 6, 8)

_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class Stride(nn.Module):
    """Every s-th position of a map (B, C, *size), from the first on each axis.

    Args:
        factors: s, one per axis.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, *ceil(size / s))."""
        return x[(..., *(slice(None, None, factor) for factor in self.factors))]

    def extra_repr(self) -> str:
        """Return the factors."""
        return f"factors={self.factors}"


class Pyramid(nn.Module):
    """Averages over 1, 3, 6 and 8 parts of each image axis, concatenated, coarse to fine.

    Args:
        dims: axes of a map: 1, 2 or 3. The frames of a clip are pooled one by one.
        parts: numbers of parts of each image axis.
    """

    def __init__(self, dims: int, parts: Sequence[int] = PYRAMID) -> None:
        super().__init__()
        self.dims, self.parts = dims, tuple(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, 18) of a sequence, (B, C, 110, 1) of an image, (B, C, T, 110, 1) of a clip."""
        if self.dims == 1:
            return torch.cat([F.adaptive_avg_pool1d(x, parts) for parts in self.parts], 2)
        if self.dims == 2:
            return torch.cat([F.adaptive_avg_pool2d(x, parts).flatten(2) for parts in self.parts], 2).unsqueeze(3)
        frames = x.transpose(1, 2).flatten(0, 1)
        pooled = torch.cat([F.adaptive_avg_pool2d(frames, parts).flatten(2) for parts in self.parts], 2)
        return pooled.unflatten(0, (-1, x.shape[2])).transpose(1, 2).unsqueeze(4)

    def extra_repr(self) -> str:
        """Return the numbers of parts."""
        return f"parts={self.parts}"


def key_module(keys: Keys, factors: tuple[int, ...] | None, dims: int) -> nn.Module:
    """Return the module that makes the keys of a map (B, C, *size)."""
    if keys == "pyramid":
        return Pyramid(dims)
    if factors is None:
        return nn.Identity()
    return Stride(factors) if keys == "stride" else _MAX_POOLS[dims - 1](factors, factors)


def key_grid(options: Any, grid: Sequence[int]) -> tuple[int, ...]:
    """Return the grid of the keys of a map of a size.

    Args:
        options: a `NonLocal` or a `Computed`.
        grid: the size of the map that the keys are computed from.
    """
    if options.keys == "pyramid":
        images = len(grid) - (len(grid) == 3)
        return *grid[: len(grid) - images], sum(parts**images for parts in PYRAMID), *(1,) * (images - 1)
    if options.subsample is None:
        return tuple(grid)
    sizes = zip(grid, options.subsample, strict=True)
    if options.keys == "stride":
        return tuple((size + factor - 1) // factor for size, factor in sizes)
    return tuple(size // factor for size, factor in sizes)
