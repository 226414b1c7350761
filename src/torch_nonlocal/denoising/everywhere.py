"""Non-local means over the whole image: every pixel is averaged with every pixel.

Patches are vectors P_i of D values. With their norms appended, the exponents of a tile of weights are one product:

    -|P_i - P_j|^2 = [2 P_i, -|P_i|^2, 1] . [P_j, 1, -|P_j|^2]

No exponent exceeds 0 and that of a pixel with itself is 0, so the sums need no running maximum as in a softmax. Weights
are symmetric: each tile is computed once and added to the pixels of its rows and of its columns.

Pixels are grouped by the mean m_i of their patch and by its contrast c_i = |P_i - m_i|, for three reasons:

- |P_i - P_j|^2 >= D (m_i - m_j)^2 + (c_i - c_j)^2, so a tile is skipped if N weights as large as those in it are less
  than the rounding error of the weight of a pixel with itself, which is 1.
- Patches and values of a tile are taken relative to its mean, so that little is lost in the difference of products.
- Where patches of a group differ much, float32 would lose digits of small distances; float64 is used for its products.

The memory is the patches, N x D values, and a few tiles.

Shapes: C channels, T frames, N pixels, D values of a patch, R pixels of the rows of a tile, S of its columns.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torch_nonlocal.denoising.border import reflected
from torch_nonlocal.denoising.scaling import Filter, Sizes

PIXELS = 1024  # of the rows and of the columns of a tile
ACCELERATOR_PIXELS = 8192
LARGEST = 6.0
"""The largest extent of a group, in the unit of the exponents, whose products are computed in float32."""


class _Group(NamedTuple):
    """Pixels that are one after another in the order of `_grouped`.

    Attributes:
        pixels: their places in the order.
        mean: least and largest mean of their patches.
        contrast: least and largest contrast.
    """

    pixels: slice
    mean: tuple[float, float]
    contrast: tuple[float, float]

    @property
    def center(self) -> float:
        """The middle of the means."""
        return sum(self.mean) / 2

    def extent(self, width: int) -> float:
        """An upper bound of the distances of patches from the center, with some reserve."""
        return self.contrast[1] + math.sqrt(width) * (self.mean[1] - self.mean[0])

    def distance(self, other: "_Group", width: int) -> float:
        """A lower bound of the squared distances of patches of two groups."""
        gaps = (
            max(0.0, one[0] - two[1], two[0] - one[1])
            for one, two in ((self.mean, other.mean), (self.contrast, other.contrast))
        )
        mean, contrast = gaps
        return width * mean**2 + contrast**2


def denoise(image_CTHW: Tensor, patch: Sizes, scale: Filter) -> Tensor:
    """Average each pixel with all pixels.

    Args:
        image_CTHW: float32 or float64, (C, T, H, W).
        patch: size of a patch along T, H and W, odd.
        scale: exponents of the weights.

    Returns:
        (C, T, H, W), the weighted means.
    """
    P_ND = patches(image_CTHW, patch)
    N, D = P_ND.shape
    order_N, groups = _grouped(P_ND, scale.factor, PIXELS if P_ND.device.type == "cpu" else ACCELERATOR_PIXELS)
    P_ND, values_CN = P_ND[order_N], image_CTHW.flatten(1)[:, order_N]
    sums_CN, total_N = torch.zeros_like(values_CN, dtype=torch.float64), P_ND.new_zeros(N, dtype=torch.float64)
    furthest = scale.furthest(N, P_ND.dtype) / scale.factor**2
    largest = LARGEST / scale.factor
    tiles = _Tiles(P_ND, max(group.pixels.stop - group.pixels.start for group in groups), scale)
    for i, row in enumerate(groups):
        tiles.begin(P_ND[row.pixels], row.center)
        for j, column in enumerate(groups[i:], i):
            if row.distance(column, D) > furthest:
                continue
            exact = max(row.extent(D), column.extent(D)) > largest
            weights_RS = tiles.weights(P_ND[column.pixels], exact=exact, diagonal=i == j)
            total_N[row.pixels] += weights_RS.sum(1)
            for sums_N, values_N in zip(sums_CN, values_CN, strict=True):
                sums_N[row.pixels] += torch.mv(weights_RS, values_N[column.pixels] - row.center)
            if i != j:
                total_N[column.pixels] += weights_RS.sum(0)
                sums_CN[:, column.pixels] += (values_CN[:, row.pixels] - column.center) @ weights_RS
    for group in groups:
        sums_CN[:, group.pixels].div_(total_N[group.pixels]).add_(group.center)
    means_CN = torch.empty_like(sums_CN)
    means_CN[:, order_N] = sums_CN
    return means_CN.view(image_CTHW.shape).to(image_CTHW.dtype)


def patches(image_CTHW: Tensor, patch: Sizes) -> Tensor:
    """The patches around all pixels, reflected at the border, (N, D)."""
    windows = reflected(image_CTHW, patch)
    for axis, size in enumerate(patch, 1):
        windows = windows.unfold(axis, size, 1)
    return windows.movedim(0, 3).flatten(3).flatten(0, 2)


def _grouped(P_ND: Tensor, factor: float, most: int) -> tuple[Tensor, list[_Group]]:
    """An order of the pixels, and groups of up to `most` in that order.

    Scaled contrasts are divided into levels: up to `LARGEST`, up to twice that, and so on. Within a level, pixels are
    sorted by mean.
    """
    mean_N = P_ND.mean(1)
    contrast_N = torch.linalg.vector_norm(P_ND - mean_N[:, None], dim=1)
    level_N = (contrast_N * (factor / LARGEST)).clamp_(min=1).log2_().ceil_()
    order_N = mean_N.argsort()
    order_N = order_N[level_N[order_N].argsort(stable=True)]
    mean_N, contrast_N = mean_N[order_N], contrast_N[order_N]
    groups, start = [], 0
    for size in level_N.unique(return_counts=True)[1].tolist():
        for first in range(start, start + size, most):
            pixels = slice(first, min(first + most, start + size))
            ranges = ((float(of[pixels].min()), float(of[pixels].max())) for of in (mean_N, contrast_N))
            groups.append(_Group(pixels, *ranges))
        start += size
    return order_N, groups


class _Tiles:
    """Computes tiles of weights in buffers that are used again."""

    def __init__(self, like_ND: Tensor, pixels: int, scale: Filter) -> None:
        self._scale = scale
        self._rows, self._columns = like_ND.new_ones((2, pixels, like_ND.shape[1] + 2))
        self._tile = like_ND.new_empty(pixels * pixels)
        self._P_RD, self._center = like_ND, 0.0

    def begin(self, P_RD: Tensor, center: float) -> None:
        """Set the patches of the rows, and the value that is subtracted from all patches."""
        self._P_RD, self._center = P_RD, center
        rows = self._rows[: len(P_RD)]
        rows[:, -2] = self._scaled(P_RD, rows).square().sum(1).neg_()
        rows[:, :-2] *= 2

    def weights(self, P_SD: Tensor, *, exact: bool, diagonal: bool) -> Tensor:
        """The weights between the rows and columns with these patches, (R, S), until the next call.

        Args:
            P_SD: the patches of the columns.
            exact: compute the products in float64.
            diagonal: the columns are the rows; the exponent of a pixel with itself is set to 0.
        """
        rows, columns = self._rows[: len(self._P_RD)], self._columns[: len(P_SD)]
        tile_RS = self._tile[: len(rows) * len(columns)].view(len(rows), len(columns))
        if exact and P_SD.dtype != torch.float64:
            one, other = (P.double().sub_(self._center).mul_(self._scale.factor) for P in (self._P_RD, P_SD))
            norms = one.square().sum(1, keepdim=True) + other.square().sum(1)
            tile_RS.copy_(torch.addmm(norms, one, other.mT, beta=-1, alpha=2))
        else:
            columns[:, -1] = self._scaled(P_SD, columns).square().sum(1).neg_()
            torch.mm(rows, columns.mT, out=tile_RS)
        if diagonal:
            tile_RS.fill_diagonal_(0)
        return self._scale.weights_(tile_RS.clamp_(max=0))

    def _scaled(self, P_RD: Tensor, out: Tensor) -> Tensor:
        return torch.sub(P_RD, self._center, out=out[:, :-2]).mul_(self._scale.factor)
