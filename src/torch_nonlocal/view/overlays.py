"""Weights laid over frames as colors.

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
    """Lays the weights of one query over every frame, nothing else.

    Args:
        clip: (T, H, W, 3) and the other layouts of `torch_nonlocal.view`.
        row: (T', H', W') weights; with T' < T a frame shows the cell in time that it belongs to.
        alpha: how much of the frame the strongest weight covers, 0 to 1.
        cmap: a matplotlib color map; weights with a sign are drawn in a diverging one instead.
        vmax: the weight that gets the last color; None: the largest of the row.
        interpolation: "bilinear", or "nearest" to see the grid's cells.

    Returns:
        (T, H, W, 3) RGB, uint8 in [0, 255].

    Raises:
        ValueError: if the clip, the row or an option is none of these.
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
    """Draws where one query looks: frames side by side with their index, weights as colors, and the scale.

    Args:
        clip: (T, H, W, 3) and the other layouts of `torch_nonlocal.view`.
        row: (T', H', W') weights of the query.
        query: (frame, y, x) in pixels of the clip, or (y, x) of an image, marked with a ring.
        frames: the frames to show; None: all, or eight evenly spaced ones with the query's among them.
        alpha: how much of the frame the strongest weight covers, 0 to 1.
        cmap: a matplotlib color map; weights with a sign are drawn in a diverging one instead.
        vmax: the weight that gets the last color; None: the largest of the row.
        scale_bar: whether to draw the scale.
        interpolation: "bilinear", or "nearest" to see the grid's cells.

    Raises:
        ValueError: if the clip, the row, the query, a frame or an option is none of these.
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
    """Draws one query through several blocks, a strip for each under its name.

    Every block has its own scale, because weights depend on the number of its positions; `vmax` gives them one.

    Args:
        clip: (T, H, W, 3) and the other layouts of `torch_nonlocal.view`.
        rows: name of the block -> (T', H', W') weights; the grids may differ.
        query: as for `heatmap`, like all that follow.
        frames: see there.
        alpha: see there.
        cmap: see there.
        vmax: see there.
        scale_bar: see there.
        interpolation: see there.

    Raises:
        ValueError: as for `heatmap`, or if there are no rows.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError("compare draws {name: row}, one or more; for a single row there is heatmap")
    return _strips(
        clip, rows, query=query, frames=frames, alpha=alpha, cmap=cmap, vmax=vmax, scale_bar=scale_bar,
        interpolation=interpolation,
    )  # fmt: skip


def paint(
    clip_THWC: np.ndarray, row_THW: np.ndarray, frame: int, scale: Scale, alpha: float, interpolation: str
) -> np.ndarray:
    """One frame (H, W, 3) uint8 under its weights.

    Raises:
        ValueError: if `alpha` is not in [0, 1] or the interpolation is unknown.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be 0 to 1, got {alpha}")
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
    sheet = lay_out(strips, caption=f"query (ring): {describe(point)}" if point else "")
    if point and point[0] in numbers:
        for strip in range(len(strips)):
            sheet.ring(strip, point)
    return Picture(sheet.figure, numbers)


def describe(point: tuple[int, float, float]) -> str:
    """A position in words: its frame and its pixel."""
    return f"frame {point[0]}, y {point[1]:.4g}, x {point[2]:.4g}"
