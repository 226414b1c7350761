"""Mapping between a block's grid and the pixels of the input, affine on each axis: pixel = offset + stride * index.

The coordinate of a pixel is its index: the first pixel has its center at 0 and its edges at -0.5 and 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Position of a block's grid in the input.

    Args:
        grid: size of the block's feature map: (T', H', W'), (H', W') or (L',).
        key_grid: size of the map of keys, smaller than the grid where keys are pooled.
        pool: pooling factor on each axis, 1 without pooling.
        input_size: size of the network's input on the same axes.
        offset: pixel coordinate of grid index 0 on each axis; may be fractional or negative.
        stride: pixels between neighboring grid indices on each axis.
        probed: True if offset and stride are those of the receptive fields' centers, False if the grid is assumed to
            divide the input evenly.
        strided: True if a key is the first of the cells that it stands for, False if they are pooled into it.
    """

    grid: tuple[int, ...]
    key_grid: tuple[int, ...]
    pool: tuple[int, ...]
    input_size: tuple[int, ...]
    offset: tuple[float, ...]
    stride: tuple[float, ...]
    probed: bool = False
    strided: bool = False

    @staticmethod
    def evenly(
        grid: Sequence[int],
        key_grid: Sequence[int],
        pool: Sequence[int],
        input_size: Sequence[int],
        *,
        strided: bool = False,
    ) -> "Geometry":
        """Geometry of a grid that divides the input evenly, for use where receptive fields are unknown."""
        stride = tuple(pixels / cells for pixels, cells in zip(input_size, grid, strict=True))
        offset = tuple((step - 1) / 2 for step in stride)
        return Geometry(tuple(grid), tuple(key_grid), tuple(pool), tuple(input_size), offset, stride, strided=strided)

    def query_pixel(self, point: Sequence[int]) -> tuple[float, ...]:
        """Pixel coordinates (frame, y, x) of the center of a grid position."""
        return tuple(o + s * i for o, s, i in zip(self.offset, self.stride, point, strict=True))

    def key_pixel(self, point: Sequence[int]) -> tuple[float, ...]:
        """Pixel coordinates of the center of a key, which is the center of the cells pooled into it."""
        middle = 0.0 if self.strided else 0.5
        centers = [pool * i + (pool - 1) * middle for pool, i in zip(self.pool, point, strict=True)]
        return tuple(o + s * c for o, s, c in zip(self.offset, self.stride, centers, strict=True))

    def key_area(self, point: Sequence[int]) -> tuple[tuple[float, float], ...]:
        """Lower and upper edge, on each axis, of the cells of a key; a cell is one stride wide."""
        center = self.key_pixel(point)
        cells = (1,) * len(self.pool) if self.strided else self.pool
        half = [count * step / 2 for count, step in zip(cells, self.stride, strict=True)]
        return tuple((c - h, c + h) for c, h in zip(center, half, strict=True))

    def spread(self, row: Tensor) -> Tensor:
        """Resample a row or column onto the pixels of the input, for drawing.

        Interpolates linearly between the centers of the cells in space and takes the nearest cell in time. Values
        remain weights of cells; they are not divided among pixels.

        Args:
            row: (*key_grid) or (*grid).

        Returns:
            (*input_size).

        Raises:
            ValueError: the row has another shape.
        """
        if tuple(row.shape) not in (self.key_grid, self.grid):
            raise ValueError(f"row {tuple(row.shape)}: expected {self.key_grid} (keys) or {self.grid} (queries)")
        pooled = tuple(row.shape) == self.key_grid
        first = (self.key_pixel if pooled else self.query_pixel)((0,) * row.ndim)
        for axis, (pixels, cells) in enumerate(zip(self.input_size, row.shape, strict=True)):
            step = self.stride[axis] * (self.pool[axis] if pooled else 1)
            index = ((torch.arange(pixels) - first[axis]) / step).clamp(0, cells - 1)
            if row.ndim == 3 and axis == 0:
                index = index.round()
            below = index.floor().long().clamp_max(max(cells - 2, 0))
            part = (index - below).to(row.dtype).reshape([-1 if a == axis else 1 for a in range(row.ndim)])
            above = (below + 1).clamp_max(cells - 1)
            row = torch.lerp(row.index_select(axis, below), row.index_select(axis, above), part)
        return row

    def nearest_query(self, pixel: Sequence[float]) -> tuple[int, ...]:
        """Return the grid position whose center is nearest to an input pixel.

        Raises:
            ValueError: the pixel is outside the input; the message gives the valid range.
        """
        self._check("pixel", pixel, self.input_size)
        inside = zip(pixel, self.offset, self.stride, self.grid, strict=True)
        return tuple(min(max(math.floor((p - o) / s + 0.5), 0), cells - 1) for p, o, s, cells in inside)

    def find(self, point: Sequence[float], *, pixels: bool = False) -> tuple[int, ...]:
        """Return the grid position of a point, or with `pixels` the one nearest to an input pixel.

        Raises:
            ValueError: the point is outside; the message gives the valid range.
        """
        if pixels:
            return self.nearest_query(point)
        self.check_point(point)
        return tuple(int(value) for value in point)

    def covering_key(self, point: Sequence[int]) -> tuple[int, ...]:
        """Return the key that a grid position is pooled into; positions dropped by pooling belong to the last key."""
        return tuple(min(i // pool, n - 1) for i, pool, n in zip(point, self.pool, self.key_grid, strict=True))

    def check_point(self, point: Sequence[float]) -> None:
        """Check that a point is a position of the grid.

        Raises:
            ValueError: the point is outside the grid or not integral; the message gives the valid range.
        """
        self._check("point", point, self.grid)
        if any(value != int(value) for value in point):
            raise ValueError(
                f"point {tuple(point)}: expected whole numbers, a grid position; for input pixels, pass pixels=True"
            )

    def _check(self, what: str, given: Sequence[float], size: tuple[int, ...]) -> None:
        names = ("t", "y", "x")[-len(size) :] if len(size) > 1 else ("i",)
        if len(given) != len(size) or any(
            not 0 <= value <= limit - 1 for value, limit in zip(given, size, strict=True)
        ):
            valid = ", ".join(f"0 <= {name} <= {limit - 1}" for name, limit in zip(names, size, strict=True))
            raise ValueError(f"{what} {tuple(given)} is out of range: expected ({', '.join(names)}) with {valid}")
