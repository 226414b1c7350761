"""Weights as colors over the frames of a clip.

Shapes: T frames, H height, W width of the clip, in pixels; T', H', W' of the block's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from torch_nonlocal.view.clips import as_clip, as_query, as_row, choose_frames, temporal_cell
from torch_nonlocal.view.colors import Scale, blend, resize, scale_of
from torch_nonlocal.view.picture import Picture
from torch_nonlocal.view.strip import Strip, lay_out

ALPHA = 0.9
CMAP = "inferno"


def overlay(
    clip: Any,
    row: Any,
    *,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Blend the weights of one query as colors over each frame.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        row: weights (T', H', W'); with T' < T each frame shows the temporal cell that it belongs to.
        alpha: opacity of the colors at the largest weight, 0 to 1.
        cmap: a matplotlib color map for weights without a sign; signed weights use a diverging one.
        vmax: weight of the last color. Default: the largest absolute weight of the row.
        interpolation: "bilinear", or "nearest" to show the cells of the grid.

    Returns:
        (T, H, W, 3) RGB, uint8 in [0, 255].

    Raises:
        ValueError: an invalid clip, row or option.
    """
    clip_THWC = as_clip(clip)
    row_THW = as_row(row, clip_THWC)
    scale = scale_of(row_THW, cmap=cmap, vmax=vmax)
    return np.stack([paint(clip_THWC, row_THW, t, scale, alpha, interpolation) for t in range(len(clip_THWC))])


def heatmap(
    clip: Any,
    row: Any,
    *,
    query: Sequence[float] | None = None,
    frames: Iterable[int] | None = None,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | None = None,
    scale_bar: bool = True,
    interpolation: str = "bilinear",
) -> Picture:
    """Draw the weights of one query as colors over frames side by side, with frame numbers and the color scale.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        row: weights (T', H', W') of the query.
        query: (frame, y, x) in pixels of the clip, or (y, x) in an image; marked with a ring.
        frames: the frames to show. Default: all frames of a short clip; eight of a long one, evenly spaced and
            including that of the query.
        alpha: opacity of the colors at the largest weight, 0 to 1.
        cmap: a matplotlib color map for weights without a sign; signed weights use a diverging one.
        vmax: weight of the last color. Default: the largest absolute weight of the row.
        scale_bar: draw the color scale.
        interpolation: "bilinear", or "nearest" to show the cells of the grid.

    Raises:
        ValueError: an invalid clip, row, query, frame or option.
    """
    return _strips(
        clip, {"": row}, query=query, frames=frames, alpha=alpha, cmap=cmap, vmax=vmax, scale_bar=scale_bar,
        interpolation=interpolation,
    )  # fmt: skip


def compare(
    clip: Any,
    rows: Mapping[str, Any],
    *,
    query: Sequence[float] | None = None,
    frames: Iterable[int] | None = None,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | None = None,
    scale_bar: bool = True,
    interpolation: str = "bilinear",
) -> Picture:
    """Draw the weights of one query in several blocks, one strip of frames per block under its name.

    Each block has its own color scale, because weights depend on its number of positions; `vmax` sets a common one.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        rows: name of the block -> weights (T', H', W'); the grids may differ.
        query: as in `heatmap`.
        frames: as in `heatmap`.
        alpha: as in `heatmap`.
        cmap: as in `heatmap`.
        vmax: as in `heatmap`.
        scale_bar: as in `heatmap`.
        interpolation: as in `heatmap`.

    Raises:
        ValueError: as in `heatmap`, or `rows` is empty.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError("rows: expected {name: row} with at least one row; for a single row, use heatmap")
    return _strips(
        clip, rows, query=query, frames=frames, alpha=alpha, cmap=cmap, vmax=vmax, scale_bar=scale_bar,
        interpolation=interpolation,
    )  # fmt: skip


def paint(
    clip_THWC: np.ndarray, row_THW: np.ndarray, frame: int, scale: Scale, alpha: float, interpolation: str
) -> np.ndarray:
    """Return one frame of the clip with its weights as colors, (H, W, 3) uint8.

    Raises:
        ValueError: `alpha` is not in [0, 1], or the interpolation is unknown.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected 0 to 1")
    picture_HWC = clip_THWC[frame]
    height, width = picture_HWC.shape[:2]
    cells_HW = row_THW[temporal_cell(frame, len(clip_THWC), len(row_THW))]
    return blend(picture_HWC, resize(cells_HW, height, width, interpolation), scale, alpha)


def _strips(
    clip: Any,
    rows: Mapping[str, Any],
    *,
    query: Sequence[float] | None,
    frames: Iterable[int] | None,
    alpha: float,
    cmap: str,
    vmax: float | None,
    scale_bar: bool,
    interpolation: str,
) -> Picture:
    clip_THWC = as_clip(clip)
    grids = {name: as_row(row, clip_THWC) for name, row in rows.items()}
    point = as_query(query, clip_THWC)
    numbers = choose_frames(frames, len(clip_THWC), keep=point[0] if point else None)
    strips = []
    for name, row_THW in grids.items():
        scale = scale_of(row_THW, cmap=cmap, vmax=vmax)
        painted = [paint(clip_THWC, row_THW, number, scale, alpha, interpolation) for number in numbers]
        strips.append(Strip(painted, numbers, scale if scale_bar else None, name))
    sheet = lay_out(strips, caption=f"query: {describe(point)} (ring)" if point else "")
    if point and point[0] in numbers:
        for strip in range(len(strips)):
            sheet.ring(strip, point)
    return Picture(sheet.figure, numbers)


def describe(point: tuple[int, float, float]) -> str:
    """Return a position as text: its frame and pixel."""
    return f"frame {point[0]}, y {point[1]:.4g}, x {point[2]:.4g}"
