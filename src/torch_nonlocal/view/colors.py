"""Weights as colours: the scale, and laying a row over a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize

SIGNED_CMAP = "coolwarm"


@dataclass(frozen=True)
class Scale:
    """From weights to colours: 0 to `high`, or -`high` to `high` where weights have a sign.

    Attributes:
        high: the weight that gets the last colour; larger ones get it too.
        signed: whether the scale is symmetric about 0.
        cmap: a matplotlib colour map.
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

    def colours(self, weights: np.ndarray) -> np.ndarray:
        """Weights (...) as RGB (..., 3), floats in [0, 255]."""
        return self.cmap(self.norm(weights))[..., :3] * 255


def scale_of(weights: np.ndarray, *, cmap: str | Colormap, vmax: float | None = None) -> Scale:
    """Fits a scale to weights; negative ones (dot product) make it symmetric, with diverging colours.

    Raises:
        ValueError: if `vmax` is not positive or matplotlib has no such colour map.
    """
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"matplotlib has no colour map {cmap!r}; perceptually even ones: inferno, viridis, cividis")
    largest = float(np.abs(weights).max())
    if vmax is not None and not 0 < vmax < float("inf"):
        raise ValueError(f"vmax must be more than 0, got {vmax}")
    high = float(vmax) if vmax is not None else largest or 1.0
    signed = bool(weights.min() < -1e-6 * largest)
    chosen = colormaps[SIGNED_CMAP] if signed else colormaps[cmap] if isinstance(cmap, str) else cmap
    return Scale(high, signed, chosen, clipped=largest > high * (1 + 1e-9))


def bright_part(cmap: str) -> Colormap:
    """A colour map without its darkest colours, for lines that must be seen on dark frames."""
    return LinearSegmentedColormap.from_list(f"bright {cmap}", colormaps[cmap](np.linspace(0.35, 0.97, 256)))


def resize(cells_HW: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Spreads a grid over pixels: each cell covers its share of the area.

    Args:
        cells_HW: (H', W') weights.
        height: H, in pixels.
        width: W, in pixels.
        interpolation: "nearest" keeps the cells' edges; "bilinear" goes over smoothly from centre to centre.

    Raises:
        ValueError: if the interpolation is another.
    """
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation is 'nearest' or 'bilinear', got {interpolation!r}")
    for axis, pixels in enumerate((height, width)):
        cells = cells_HW.shape[axis]
        centre = (np.arange(pixels) + 0.5) * cells / pixels - 0.5  # of each pixel, in cells
        if interpolation == "nearest":
            cells_HW = cells_HW.take(np.rint(centre).astype(int).clip(0, cells - 1), axis=axis)
        else:
            centre = centre.clip(0, cells - 1)
            below = np.floor(centre).astype(int).clip(0, max(cells - 2, 0))
            part = np.expand_dims(centre - below, 1 - axis)
            above = np.minimum(below + 1, cells - 1)
            cells_HW = cells_HW.take(below, axis=axis) * (1 - part) + cells_HW.take(above, axis=axis) * part
    return cells_HW


def blend(frame_HWC: np.ndarray, weights_HW: np.ndarray, scale: Scale, alpha: float) -> np.ndarray:
    """Lays the colours of weights (H, W) over a frame (H, W, 3) uint8.

    The frame turns grey, so that colour means weight alone; where the weight is small more of it shows through.
    """
    grey_HW1 = (frame_HWC @ np.array([0.299, 0.587, 0.114]))[..., None]
    strength_HW1 = scale.strength(weights_HW)[..., None]
    least = 0.1 if scale.signed else 0.4  # the middle of a diverging map is light: it would veil the frame
    share_HW1 = alpha * (least + (1 - least) * strength_HW1)
    mixed_HWC = grey_HW1 * (1 - share_HW1) + scale.colours(weights_HW) * share_HW1
    return np.rint(mixed_HWC).clip(0, 255).astype(np.uint8)
