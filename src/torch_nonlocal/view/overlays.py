"""Weights as colors over the frames of a clip.

Shapes: T frames, H height, W width of the clip, in pixels; T', H', W' of the block's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from torch_nonlocal.view.clips import Point, as_clip, as_query, as_row, choose_frames, describe, temporal_cell
from torch_nonlocal.view.colors import Scale, blend, brightest, resize, scale_of
from torch_nonlocal.view.picture import Picture
from torch_nonlocal.view.strip import Strip, frame_labels, lay_out

ALPHA = 0.9
CMAP = "inferno"


def overlay(
    clip: Any,
    row: Any,
    *,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | None = None,
    interpolation: str = "nearest",
) -> np.ndarray:
    """Blend the weights of one query as colors over each frame.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        row: weights (T', H', W'); with T' < T each frame shows the temporal cell that it belongs to.
        alpha: opacity of the colors at the largest weight, 0 to 1.
        cmap: a matplotlib color map for weights without a sign; signed weights use a diverging one.
        vmax: weight of the last color. Default: the largest absolute weight of the row.
        interpolation: "nearest" shows the cells of the grid; "bilinear" interpolates between their centers.

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
    interpolation: str = "nearest",
    title: str = "",
    caption: str | None = None,
    labels: Sequence[str] | None = None,
    quantity: str = "weight",
    signed: bool | None = None,
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
        vmax: weight of the last color; larger weights have the same color. Default with a query: the largest weight in
            other frames or, if there is none, the largest except that of the query's own cell, which often exceeds all
            others. Default without a query: the largest weight.
        scale_bar: draw the color scale.
        interpolation: "nearest" shows the cells of the grid; "bilinear" interpolates between their centers.
        title: lines of text above the frames.
        caption: lines of text below the frames. Default: the position of the query.
        labels: text above each frame of the clip. Default: its number; nothing for an image.
        quantity: what the color scale shows, in a word.
        signed: use diverging colors. Default: if a weight is negative.

    Raises:
        ValueError: an invalid clip, row, query, frame or option.
    """
    return _strips(
        clip, {"": row}, query=query, frames=frames, alpha=alpha, cmap=cmap, vmax=vmax, scale_bar=scale_bar,
        interpolation=interpolation, title=title, caption=caption, labels=labels, quantity=quantity, signed=signed,
    )  # fmt: skip


def compare(
    clip: Any,
    rows: Mapping[str, Any],
    *,
    query: Sequence[float] | None = None,
    frames: Iterable[int] | None = None,
    alpha: float = ALPHA,
    cmap: str = CMAP,
    vmax: float | Mapping[str, float] | None = None,
    scale_bar: bool = True,
    interpolation: str = "nearest",
    title: str = "",
    caption: str | None = None,
    labels: Sequence[str] | None = None,
) -> Picture:
    """Draw the weights of one query in several blocks, one strip of frames per block under its name.

    Each block has its own color scale, because weights depend on its number of positions; a number as `vmax` sets a
    common one. Blocks of a single image are laid out in rows.

    Args:
        clip: (T, H, W, 3) or another layout of `torch_nonlocal.view`.
        rows: name of the block -> weights (T', H', W'); the grids may differ.
        query: as in `heatmap`.
        frames: as in `heatmap`.
        alpha: as in `heatmap`.
        cmap: as in `heatmap`.
        vmax: as in `heatmap`, for all blocks or by name.
        scale_bar: as in `heatmap`.
        interpolation: as in `heatmap`.
        title: as in `heatmap`.
        caption: as in `heatmap`.
        labels: as in `heatmap`.

    Raises:
        ValueError: as in `heatmap`, or `rows` is empty.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError("rows: expected {name: row} with at least one row; for a single row, use heatmap")
    return _strips(
        clip, rows, query=query, frames=frames, alpha=alpha, cmap=cmap, vmax=vmax, scale_bar=scale_bar,
        interpolation=interpolation, title=title, caption=caption, labels=labels,
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


def scale_around(
    row_THW: np.ndarray,
    query: Point | None,
    clip_THWC: np.ndarray,
    *,
    cmap: str,
    vmax: float | None,
    signed: bool | None = None,
) -> Scale:
    """Return the color scale of a row; without `vmax`, the weight of the query on itself does not set it."""
    if vmax is None and query is not None and row_THW.size > 1:
        cells = [
            min(int((place + 0.5) * count / pixels), count - 1)
            for place, count, pixels in zip(query[1:], row_THW.shape[1:], clip_THWC.shape[1:3], strict=True)
        ]
        own = (temporal_cell(query[0], len(clip_THWC), len(row_THW)), max(cells[0], 0), max(cells[1], 0))
        vmax = brightest(row_THW, own)
    return scale_of(row_THW, cmap=cmap, vmax=vmax, signed=signed)


def _strips(
    clip: Any,
    rows: Mapping[str, Any],
    *,
    query: Sequence[float] | None,
    frames: Iterable[int] | None,
    alpha: float,
    cmap: str,
    vmax: float | Mapping[str, float] | None,
    scale_bar: bool,
    interpolation: str,
    title: str,
    caption: str | None,
    labels: Sequence[str] | None,
    quantity: str = "weight",
    signed: bool | None = None,
) -> Picture:
    clip_THWC = as_clip(clip)
    grids = {name: as_row(row, clip_THWC) for name, row in rows.items()}
    point = as_query(query, clip_THWC)
    numbers = choose_frames(frames, len(clip_THWC), keep=point[0] if point else None)
    names = frame_labels(labels, clip_THWC)
    strips = []
    for name, row_THW in grids.items():
        most = vmax.get(name) if isinstance(vmax, Mapping) else vmax
        scale = scale_around(row_THW, point, clip_THWC, cmap=cmap, vmax=most, signed=signed)
        painted = [paint(clip_THWC, row_THW, number, scale, alpha, interpolation) for number in numbers]
        strips.append(Strip(painted, numbers, scale if scale_bar else None, name, names, quantity))
    if caption is None:
        caption = f"query: {describe(point, clip_THWC)} (ring)" if point else ""
    sheet = lay_out(strips, title=title, caption=caption)
    if point and point[0] in numbers:
        for strip in range(len(strips)):
            sheet.ring(strip, point)
    return Picture(sheet.figure, numbers)
