"""Weights as colors: the scale, and laying a row over a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from torch.nn import functional as F

SIGNED_CMAP = "coolwarm"
_INTERPOLATIONS = {"nearest": "nearest-exact", "bilinear": "bilinear"}  # as torch names them


@dataclass(frozen=True)
class Scale:
    """From weights to colors: 0 to `high`, or -`high` to `high` where weights have a sign.

    Attributes:
        high: the weight that gets the last color; larger ones get it too.
        signed: whether the scale is symmetric about 0.
        cmap: a matplotlib color map.
        clipped: whether weights beyond the scale were given.
    """

    high: float
    signed: bool
    cmap: Colormap
    clipped: bool

    @property
    def norm(self) -> Normalize:
        """The scale as matplotlib takes it."""
        return Normalize(-self.high if self.signed else 0.0, self.high, clip=True)

    def strength(self, weights: np.ndarray) -> np.ndarray:
        """How far from 0, in [0, 1]."""
        return np.abs(weights / self.high).clip(0, 1)

    def colors(self, weights: np.ndarray) -> np.ndarray:
        """Weights (...) as RGB (..., 3), floats in [0, 255]."""
        return self.cmap(self.norm(weights))[..., :3] * 255


def scale_of(weights: np.ndarray, *, cmap: str | Colormap, vmax: float | None = None) -> Scale:
    """Fits a scale to weights; negative ones (dot product) make it symmetric, with diverging colors.

    Raises:
        ValueError: if `vmax` is not positive or matplotlib has no such color map.
    """
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"matplotlib has no color map {cmap!r}; perceptually even ones: inferno, viridis, cividis")
    largest = float(np.abs(weights).max())
    if vmax is not None and not 0 < vmax < float("inf"):
        raise ValueError(f"vmax must be more than 0, got {vmax}")
    high = float(vmax) if vmax is not None else largest or 1.0
    signed = bool(weights.min() < -1e-6 * largest)
    chosen = colormaps[SIGNED_CMAP] if signed else colormaps[cmap] if isinstance(cmap, str) else cmap
    return Scale(high, signed, chosen, clipped=largest > high * (1 + 1e-9))


def bright_part(cmap: str) -> Colormap:
    """A color map without its darkest colors, for lines that must be seen on dark frames."""
    return LinearSegmentedColormap.from_list(f"bright {cmap}", colormaps[cmap](np.linspace(0.35, 0.97, 256)))


def resize(cells_HW: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize a grid of weights to pixels with `torch.nn.functional.interpolate`; each cell covers an equal share.

    Args:
        cells_HW: (H', W') weights, float64.
        height: H, in pixels.
        width: W, in pixels.
        interpolation: "nearest" keeps the edges of the cells; "bilinear" interpolates between their centers.

    Computed in float64: the blended colors are those of the exact interpolation, within one level of 255. With
    "nearest", a pixel whose center lies exactly on the edge of two cells takes either of them.

    Returns:
        (H, W) weights, float64.

    Raises:
        ValueError: unknown interpolation.
    """
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(f"interpolation={interpolation!r}: expected 'nearest' or 'bilinear'")
    cells = torch.from_numpy(np.ascontiguousarray(cells_HW))[None, None]
    return F.interpolate(cells, (height, width), mode=_INTERPOLATIONS[interpolation])[0, 0].numpy()


def blend(frame_HWC: np.ndarray, weights_HW: np.ndarray, scale: Scale, alpha: float) -> np.ndarray:
    """Lays the colors of weights (H, W) over a frame (H, W, 3) uint8.

    The frame turns gray, so that color means weight alone; where the weight is small more of it shows through.
    """
    gray_HW1 = (frame_HWC @ np.array([0.299, 0.587, 0.114]))[..., None]
    strength_HW1 = scale.strength(weights_HW)[..., None]
    least = 0.1 if scale.signed else 0.4  # the middle of a diverging map is light: it would veil the frame
    share_HW1 = alpha * (least + (1 - least) * strength_HW1)
    mixed_HWC = gray_HW1 * (1 - share_HW1) + scale.colors(weights_HW) * share_HW1
    return np.rint(mixed_HWC).clip(0, 255).astype(np.uint8)
