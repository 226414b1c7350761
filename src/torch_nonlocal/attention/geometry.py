"""From a block's grid to the input's pixels and back, one affine rule an axis: pixel = offset + stride * index.

A pixel's coordinate is its index: the center of the first pixel is 0, its edges are -0.5 and 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Where grid positions lie in the input.

    Args:
        grid: sizes of the block's map: (T', H', W'), (H', W') or (L',).
        key_grid: sizes of the keys' map, smaller where keys are pooled.
        pool: pooling factor an axis, 1 where there is none.
        input_size: sizes of the network's input on the same axes.
        offset: pixel index of the center of grid index 0, an axis; may be fractional or negative.
        stride: pixels from one grid index to the next, an axis.
        probed: whether offset and stride are the true centers of receptive fields; False: even cells are assumed.
    """

    grid: tuple[int, ...]
    key_grid: tuple[int, ...]
    pool: tuple[int, ...]
    input_size: tuple[int, ...]
    offset: tuple[float, ...]
    stride: tuple[float, ...]
    probed: bool = False

    @staticmethod
    def evenly(
        grid: Sequence[int], key_grid: Sequence[int], pool: Sequence[int], input_size: Sequence[int]
    ) -> "Geometry":
        """The grid's cells divide the input evenly: what is assumed where the true centers cannot be found."""
        stride = tuple(pixels / cells for pixels, cells in zip(input_size, grid, strict=True))
        offset = tuple((step - 1) / 2 for step in stride)
        return Geometry(tuple(grid), tuple(key_grid), tuple(pool), tuple(input_size), offset, stride)

    def query_pixel(self, point: Sequence[int]) -> tuple[float, ...]:
        """Pixel coordinates (frame, y, x) of a grid position's center."""
        return tuple(o + s * i for o, s, i in zip(self.offset, self.stride, point, strict=True))

    def key_pixel(self, point: Sequence[int]) -> tuple[float, ...]:
        """Pixel coordinates of the center of a key: of the area that was pooled into it."""
        centers = [pool * i + (pool - 1) / 2 for pool, i in zip(self.pool, point, strict=True)]
        return tuple(o + s * c for o, s, c in zip(self.offset, self.stride, centers, strict=True))

    def key_area(self, point: Sequence[int]) -> tuple[tuple[float, float], ...]:
        """First and last pixel edge of a key's area, an axis: the cells pooled into it, each one stride wide."""
        center = self.key_pixel(point)
        half = [pool * step / 2 for pool, step in zip(self.pool, self.stride, strict=True)]
        return tuple((c - h, c + h) for c, h in zip(center, half, strict=True))

    def spread(self, row: Tensor) -> Tensor:
        """A row or column at its true place in the input, for drawing: (*key_grid) or (*grid) -> (*input_size).

        The first axis of a clip takes the nearest frame's cell; in space a pixel between centers takes from both, in
        proportion. Values stay weights of cells; they are not divided among pixels.

        Raises:
            ValueError: a row of another shape.
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
        """The grid position whose center is nearest to an input pixel.

        Raises:
            ValueError: a pixel outside the input; the message gives the valid range.
        """
        self._check("pixel", pixel, self.input_size)
        inside = zip(pixel, self.offset, self.stride, self.grid, strict=True)
        return tuple(min(max(math.floor((p - o) / s + 0.5), 0), cells - 1) for p, o, s, cells in inside)

    def find(self, point: Sequence[float], *, pixels: bool = False) -> tuple[int, ...]:
        """The grid position that a user's point means: itself or, of an input pixel, the nearest.

        Raises:
            ValueError: outside; the message gives the valid range.
        """
        if pixels:
            return self.nearest_query(point)
        self.check_point(point)
        return tuple(int(value) for value in point)

    def covering_key(self, point: Sequence[int]) -> tuple[int, ...]:
        """The key whose area holds a grid position; the last key for positions that pooling left over at the end."""
        return tuple(min(i // pool, n - 1) for i, pool, n in zip(point, self.pool, self.key_grid, strict=True))

    def check_point(self, point: Sequence[float]) -> None:
        """Refuse a point that is not on the grid.

        Raises:
            ValueError: outside, or not whole numbers; the message gives the valid range.
        """
        self._check("point", point, self.grid)
        if any(value != int(value) for value in point):
            raise ValueError(f"point {tuple(point)}: a grid position is whole numbers; pixels=True takes input pixels")

    def _check(self, what: str, given: Sequence[float], size: tuple[int, ...]) -> None:
        names = ("t", "y", "x")[-len(size) :] if len(size) > 1 else ("i",)
        if len(given) != len(size) or any(
            not 0 <= value <= limit - 1 for value, limit in zip(given, size, strict=True)
        ):
            valid = ", ".join(f"0 <= {name} <= {limit - 1}" for name, limit in zip(names, size, strict=True))
            raise ValueError(f"{what} {tuple(given)} is outside: expected ({', '.join(names)}) with {valid}")
