"""Weights as colors: color scales, and overlays on frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from torch.nn import functional as F

SIGNED_CMAP = "coolwarm"
FAINTEST = {"unsigned": 0.3, "signed": 0.1}
"""Opacity of the color of weight 0 relative to that of the largest weight. The middle of a diverging color map is light
and would hide the frame."""
NEGLIGIBLE = 0.01
"""Links below this fraction of the strongest one are not drawn, nor any if all are below this fraction of a uniform
weight."""
OWN_FRAME = 8
"""Factor by which weights in the query's frame may exceed those in other frames before they set the color scale."""
LEVELS = 256  # colors of a map; between them, colors are interpolated
_INTERPOLATIONS = {"nearest": "nearest-exact", "bilinear": "bilinear"}  # as torch names them


@dataclass(frozen=True)
class Scale:
    """A color scale from 0 to `high`, or from -`high` to `high` for signed weights.

    Attributes:
        high: weight of the last color; larger weights are clipped to it.
        signed: True if the scale is symmetric about 0.
        cmap: a matplotlib color map.
        clipped: True if some weights lie outside the scale.
    """

    high: float
    signed: bool
    cmap: Colormap
    clipped: bool

    @property
    def norm(self) -> Normalize:
        """The scale as a matplotlib norm."""
        return Normalize(-self.high if self.signed else 0.0, self.high, clip=True)

    def strength(self, weights: np.ndarray) -> np.ndarray:
        """Absolute weights relative to `high`, clipped to [0, 1]."""
        return np.abs(weights / self.high).clip(0, 1)

    def colors(self, weights: np.ndarray) -> np.ndarray:
        """Map weights (...) to RGB (..., 3), floats in [0, 255], interpolated between the colors of the map."""
        low = -self.high if self.signed else 0.0
        place = (weights - low) / (self.high - low) * (LEVELS - 1)
        table = self.cmap(np.linspace(0, 1, LEVELS))[:, :3] * 255
        levels = np.arange(LEVELS)
        return np.stack([np.interp(place, levels, table[:, channel]) for channel in range(3)], axis=-1)


def scale_of(
    weights: np.ndarray, *, cmap: str | Colormap, vmax: float | None = None, signed: bool | None = None
) -> Scale:
    """Return a color scale for weights; symmetric and with diverging colors if some are negative (dot product).

    Args:
        weights: the weights to draw.
        cmap: a matplotlib color map for weights without a sign.
        vmax: weight of the last color. Default: the largest absolute weight.
        signed: whether the scale is symmetric about 0. Default: if a weight is negative.

    Raises:
        ValueError: `vmax` is not positive, or matplotlib has no such color map.
    """
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"no color map {cmap!r} in matplotlib: expected one such as inferno, viridis or cividis")
    largest = float(np.abs(weights).max())
    if vmax is not None and not 0 < vmax < float("inf"):
        raise ValueError(f"vmax={vmax}: expected a positive number")
    high = float(vmax) if vmax is not None else largest or 1.0
    signed = has_signs(weights) if signed is None else signed
    chosen = colormaps[SIGNED_CMAP] if signed else colormaps[cmap] if isinstance(cmap, str) else cmap
    return Scale(high, signed, chosen, clipped=largest > high * (1 + 1e-9))


def has_signs(weights: np.ndarray) -> bool:
    """Return whether some weights are negative, beyond rounding."""
    return bool(weights.min() < -1e-6 * np.abs(weights).max())


def brightest(row_THW: np.ndarray, own: tuple[int, int, int]) -> float:
    """Return the weight of the last color in pictures, videos and the page.

    The self-weight is often much larger than all other weights and does not count. Neither do, in a clip, the other
    weights in the query's frame, up to eight times the largest weight in other frames.

    Args:
        row_THW: weights of the query, (T', H', W').
        own: cell of the query.
    """
    sizes_THW = np.abs(row_THW)
    itself = float(sizes_THW[own])
    sizes_THW[own] = 0
    rest = float(sizes_THW.max())
    sizes_THW[own[0]] = 0
    others = float(sizes_THW.max())
    return (max(others, rest / OWN_FRAME) if others else rest) or itself or 1.0


def bright_part(cmap: str) -> Colormap:
    """Return a color map without its darkest colors, for lines on dark frames."""
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
    """Blend the colors of weights (H, W) with a frame (H, W, 3) uint8.

    The frame is converted to grayscale, so that colors show weights alone. The smaller the weight, the more of the
    frame is visible.
    """
    gray_HW1 = (frame_HWC @ np.array([0.299, 0.587, 0.114]))[..., None]
    strength_HW1 = scale.strength(weights_HW)[..., None]
    least = FAINTEST["signed" if scale.signed else "unsigned"]
    share_HW1 = alpha * (least + (1 - least) * strength_HW1)
    mixed_HWC = gray_HW1 * (1 - share_HW1) + scale.colors(weights_HW) * share_HW1
    return np.rint(mixed_HWC).clip(0, 255).astype(np.uint8)
