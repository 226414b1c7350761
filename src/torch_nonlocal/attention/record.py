"""One block's run: which positions weigh most for which, in grid positions and in input pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.weights import PairWeights

FRAMES = ("all", "others", "each")
DIRECTIONS = ("out", "in")


@dataclass(frozen=True)
class Link:
    """One weight w_ij: position x_i (source) looks at position x_j (target).

    Attributes:
        source: x_i on the block's grid, (t, y, x).
        target: x_j on the keys' grid (the block's grid, or coarser where keys are pooled).
        source_pixel: centre of x_i in the input, (frame, y, x), fractional.
        target_pixel: centre of x_j's area in the input.
        weight: w_ij; signed for dot product.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    source_pixel: tuple[float, ...]
    target_pixel: tuple[float, ...]
    weight: float


class BlockRecord:
    """What one block saw in the last watched run: theta and phi (or a and b), never a map.

    Points are grid positions (t, y, x) of the block's map ((y, x) of an image, (i,) of a sequence), or input pixels
    with `pixels=True`.
    """

    def __init__(self, name: str, weights: PairWeights, geometry: Geometry, *, attend: str, batch: int) -> None:
        self.name = name
        self.weights = weights
        self.geometry = geometry
        self.attend = attend
        self.batch_size = batch

    def __repr__(self) -> str:
        grid = "x".join(map(str, self.geometry.grid))
        keys = "x".join(map(str, self.geometry.key_grid))
        pixels = "x".join(map(str, self.geometry.input_size))
        return (
            f"<{self.name}: {self.weights.pairwise} over {self.attend}, grid {grid}, keys {keys}, input {pixels}, "
            f"batch {self.batch_size}; {self.shown}>"
        )

    @property
    def shown(self) -> str:
        """What a weight is in this form, in words."""
        if self.weights.is_softmax:
            over = "a query's weights" if self.weights.normalize == "keys" else "a key's weights"
            return f"softmax: {over} sum to one"
        if self.weights.pairwise == "dot_product":
            return "dot product / M: signed, sums to no fixed number"
        return "ReLU(a + b) / M: not negative, sums to no fixed number"

    def rows(self, points: Sequence[Sequence[float]], *, pixels: bool = False, batch: int = 0) -> Tensor:
        """Exact weights of chosen queries over all keys, O(Q M).

        Args:
            points: Q positions.
            pixels: the points are input pixels, not grid positions.
            batch: which clip of the batch.

        Returns:
            (Q, *key_grid); with attend="space" or "time", zero where the block does not look.

        Raises:
            ValueError: a point or a batch index outside; the message gives the valid range.
        """
        found = [self._query(point, pixels) for point in points]
        self._check_batch(batch)
        out = [self._spread(*self._group(point, batch, self.geometry.grid), batch) for point in found]
        return torch.stack(out) if out else torch.zeros(0, *self.geometry.key_grid)

    def column(self, point: Sequence[float], *, pixels: bool = False, batch: int = 0) -> Tensor:
        """Who looks here: the weight that every query gives to the key that covers a point: (*grid)."""
        key = self.geometry.covering_key(self._query(point, pixels))
        self._check_batch(batch)
        group, index = self._group(key, batch, self.geometry.key_grid)
        values_N = self.weights.columns(group, torch.tensor([index]))[0]
        return self._embed(values_N, group, self.geometry.grid, batch)

    def links(
        self,
        point: Sequence[float],
        k: int = 20,
        *,
        frames: str = "all",
        direction: str = "out",
        pixels: bool = False,
        batch: int = 0,
    ) -> list[Link]:
        """The strongest links of one position, strongest first (by absolute value where weights are signed).

        Args:
            point: the position.
            k: how many (of each frame, with frames="each").
            frames: "all": anywhere; "others": in the other frames, as in the paper's figure 3; "each": k in each other
                frame.
            direction: "out": what this position looks at; "in": who looks at this position.
            pixels: the point is an input pixel, not a grid position.
            batch: which clip of the batch.

        Raises:
            ValueError: a point or batch index outside, an unknown choice, k below 1 or above the number of positions
                there are to choose from; the message gives the valid range.
        """
        for name, given, allowed in (("frames", frames, FRAMES), ("direction", direction, DIRECTIONS)):
            if given not in allowed:
                raise ValueError(f"{name}={given!r}: expected one of {', '.join(map(repr, allowed))}")
        here = self._query(point, pixels)
        row = self.rows([here], batch=batch)[0] if direction == "out" else self.column(here, batch=batch)
        own = self.geometry.covering_key(here) if direction == "out" else here
        chosen = [index for region in _regions(row, own, frames) for index in _strongest(row, region, k)]
        if direction == "out":
            return [self._link(here, index, float(row[index])) for index in chosen]
        key = self.geometry.covering_key(here)
        return [self._link(index, key, float(row[index])) for index in chosen]

    def _link(self, source: tuple[int, ...], target: tuple[int, ...], weight: float) -> Link:
        return Link(source, target, self.geometry.query_pixel(source), self.geometry.key_pixel(target), weight)

    def _query(self, point: Sequence[float], pixels: bool) -> tuple[int, ...]:
        if pixels:
            return self.geometry.nearest_query(point)
        self.geometry.check_point(point)  # pyright: ignore[reportArgumentType]
        return tuple(int(value) for value in point)

    def _check_batch(self, batch: int) -> None:
        if not 0 <= batch < self.batch_size:
            raise ValueError(f"batch={batch} is outside: expected 0 to {self.batch_size - 1}")

    def _group(self, point: Sequence[int], batch: int, grid: Sequence[int]) -> tuple[int, int]:
        """The group and the index in it of a grid position; the inverse of `layers.positions.to_positions`."""
        if self.attend == "spacetime":
            return batch, _flat(point, grid)
        if self.attend == "space":
            return batch * grid[0] + point[0], _flat(point[1:], grid[1:])
        return batch * grid[1] * grid[2] + _flat(point[1:], grid[1:]), point[0]

    def _spread(self, group: int, index: int, batch: int) -> Tensor:
        return self._embed(self.weights.rows(group, torch.tensor([index]))[0], group, self.geometry.key_grid, batch)

    def _embed(self, values: Tensor, group: int, grid: tuple[int, ...], batch: int) -> Tensor:
        """A group's values on the whole grid, zero outside the group."""
        if self.attend == "spacetime":
            return values.reshape(grid)
        whole = values.new_zeros(grid)
        if self.attend == "space":
            whole[group - batch * grid[0]] = values.reshape(grid[1:])
        else:
            place = group - batch * grid[1] * grid[2]
            whole[:, place // grid[2], place % grid[2]] = values
        return whole


def _flat(point: Sequence[int], grid: Sequence[int]) -> int:
    index = 0
    for value, size in zip(point, grid, strict=True):
        index = index * size + value
    return index


def _regions(row: Tensor, own: Sequence[int], frames: str) -> list[Tensor]:
    """Boolean masks (*grid) of where to choose from."""
    if frames == "all" or row.ndim < 3:
        return [torch.ones_like(row, dtype=torch.bool)]
    if frames == "others":
        region = torch.ones_like(row, dtype=torch.bool)
        region[own[0]] = False
        return [region]
    regions = []
    for frame in range(row.shape[0]):
        if frame != own[0]:
            region = torch.zeros_like(row, dtype=torch.bool)
            region[frame] = True
            regions.append(region)
    return regions


def _strongest(row: Tensor, region: Tensor, k: int) -> list[tuple[int, ...]]:
    available = int(region.sum())
    if not 1 <= k <= available:
        raise ValueError(f"k={k}: expected 1 to {available}, the number of positions to choose from")
    strength = row.abs().masked_fill(~region, -math.inf)
    order = strength.flatten().topk(k).indices
    return [tuple(int(value) for value in place) for place in torch.stack(torch.unravel_index(order, row.shape), dim=1)]
