"""Places of a block's cells in the pixels of a clip, which may have more pixels than the model's input.

Axes are (frame, y, x); an axis that the map of the block does not have has one cell. Shapes: T frames, H height, W
width of the clip; T', H', W' of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torch_nonlocal.attention.geometry import Geometry

Cell = tuple[int, int, int]


def axis_centers(geometry: Geometry, clip_shape: Sequence[int]) -> tuple[list[list[float]], list[list[float]]]:
    """Return the centers of queries and those of keys on each axis, in pixels of a clip (T, H, W, ...)."""
    missing = 3 - len(geometry.grid)
    query = [[(clip_shape[axis] - 1) / 2] for axis in range(missing)]
    key = [list(line) for line in query]
    for own in range(len(geometry.grid)):
        share = clip_shape[own + missing] / geometry.input_size[own]
        lines = ((query, geometry.query_pixel, geometry.grid), (key, geometry.key_pixel, geometry.key_grid))
        for found, pixel, grid in lines:
            point = [0] * len(grid)
            line = []
            for index in range(grid[own]):
                point[own] = index
                line.append((pixel(point)[own] + 0.5) * share - 0.5)
            found.append(line)
    return query, key


def nearest_cells(places: np.ndarray, centers: Sequence[float]) -> np.ndarray:
    """Return the index of the center nearest to each place on one axis; halfway between two, the first."""
    middles = (np.asarray(centers[:-1]) + np.asarray(centers[1:])) / 2
    return np.searchsorted(middles, places - 1e-6, side="left")


def nearest_cell(point: Sequence[float], centers: Sequence[Sequence[float]]) -> Cell:
    """Return the cell whose center is nearest to a point (frame, y, x)."""
    t, y, x = (int(nearest_cells(np.array(one), line)) for one, line in zip(point, centers, strict=True))
    return t, y, x


def placed(
    row_THW: np.ndarray, centers: Sequence[Sequence[float]], clip_shape: Sequence[int], *, smooth: bool = False
) -> np.ndarray:
    """Return the weights of cells on the pixels of a clip, (T, H, W), float32.

    Args:
        row_THW: weights of the cells, (T', H', W').
        centers: centers of the cells, of `axis_centers`.
        clip_shape: (T, H, W, ...) of the clip.
        smooth: interpolate in y and x between the centers of the cells; otherwise each pixel has the weight of the
            nearest cell.
    """
    values = row_THW.astype(np.float32)
    for axis, (pixels, line) in enumerate(zip(clip_shape[:3], centers, strict=True)):
        places = np.arange(pixels, dtype=np.float64)
        if smooth and axis > 0:
            index = np.interp(places, line, np.arange(len(line)))
            low = np.floor(index).astype(int)
            part = (index - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            after = np.minimum(low + 1, len(line) - 1)
            values = values.take(low, axis) * (1 - part) + values.take(after, axis) * part
        else:
            values = values.take(nearest_cells(places, line), axis)
    return values
