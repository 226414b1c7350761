"""One clip's theta and phi as maps, laid out as the page keeps them, and what can be computed from them.

Shapes: T', H', W' of a grid (1 where a map has no such axis), P = T' H' W' its positions, D inner width, G groups that
attend among themselves, N queries and M keys in a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.groups import Groups, flat_index

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Maps:
    """What one block compares in one clip.

    Attributes:
        query: theta (P, D) in raster order, or a (P, 1) for concatenation.
        key: phi, or b, likewise.
        grid: of the queries.
        key_grid: of the keys.
        groups: which positions attend to which, on three axes.
        weights: the form and its options; its tensors are not used.
    """

    query: Tensor
    key: Tensor
    grid: Grid
    key_grid: Grid
    groups: Groups
    weights: PairWeights

    @property
    def is_shared(self) -> bool:
        """Whether queries and keys are the same numbers (gaussian form), so that the page carries them once."""
        return self.query.shape == self.key.shape and torch.equal(self.query, self.key)

    def centered(self) -> Maps:
        """The same weights from smaller numbers, which quantize better.

        A softmax over keys does not change when every phi moves by the same vector c (each logit of query i moves by
        theta_i . c), one over queries not when every theta does.
        """
        if not self.weights.is_softmax or self.is_shared:
            return self
        if self.weights.normalize == "keys":
            return replace(self, key=self.key - self.key.mean(0))
        return replace(self, query=self.query - self.query.mean(0))

    def coarser(self, factor: int) -> Maps:
        """An approximation on a coarser grid: theta and phi averaged over `factor` x `factor` cells of each frame."""
        query, grid = _pooled(self.query, self.grid, factor)
        key, key_grid = _pooled(self.key, self.key_grid, factor)
        return replace(self, query=query, key=key, grid=grid, key_grid=key_grid)

    def pairs(self) -> PairWeights:
        """The weights in groups, as the block computes them."""
        query, key = self._grouped(self.query, self.grid), self._grouped(self.key, self.key_grid)
        if self.weights.pairwise == "concatenation":
            query, key = query[..., 0], key[..., 0]
        return PairWeights(self.weights.pairwise, query, key, self.weights.scale, self.weights.normalize)

    def row(self, pairs: PairWeights, position: int) -> Tensor:
        """Weights of one query of `pairs()` over the keys of its group: (M,)."""
        group, index = self.groups.locate(_point(position, self.grid), self.grid)
        return pairs.rows(group, torch.tensor([index]))[0]

    def log_sums(self) -> Tensor | None:
        """Logarithms of the softmax's sums in raster order, a query (normalized over keys) or a key; else None."""
        if not self.weights.is_softmax:
            return None
        pairs = self.pairs()
        sums_GN = torch.stack([pairs.log_sum(group) for group in range(len(pairs.query))])
        grid = self.grid if self.weights.normalize == "keys" else self.key_grid
        return self.groups.to_map(sums_GN[..., None], grid).flatten()

    def _grouped(self, map_PD: Tensor, grid: Grid) -> Tensor:
        return self.groups.to_positions(map_PD.T.reshape(1, -1, *grid))


def maps_of(record: BlockRecord, batch: int) -> Maps:
    """The part of a record that belongs to one clip of the batch."""
    grid, key_grid = _as_grid(record.geometry.grid), _as_grid(record.geometry.key_grid)
    groups = Groups(record.attend, 3)
    count = groups.count(grid)

    def raster(grouped: Tensor, size: Grid) -> Tensor:
        values = grouped[batch * count : (batch + 1) * count].detach().float().cpu()
        if values.ndim == 2:  # a and b of concatenation
            values = values[..., None]
        return groups.to_map(values, size)[0].flatten(1).T.contiguous()

    weights = record.weights
    return Maps(raster(weights.query, grid), raster(weights.key, key_grid), grid, key_grid, groups, weights)


def coarse_distance(fine: Maps, coarse: Maps, factor: int, positions: list[int]) -> float:
    """How far the coarser grid's rows are from the exact ones: mean total variation distance, in [0, 1].

    The exact row of a coarse cell is the mean of the rows of the queries in it, summed over the keys of each cell.
    """
    exact, approximate = fine.pairs(), coarse.pairs()
    distances = []
    for position in positions:
        t, y, x = _point(position, coarse.grid)
        rows = [
            fine.row(exact, flat_index((t, fy, fx), fine.grid))
            for fy in range(y * factor, min((y + 1) * factor, fine.grid[1]))
            for fx in range(x * factor, min((x + 1) * factor, fine.grid[2]))
        ]
        row = torch.stack(rows).mean(0)
        cells_T1HW = row.reshape(fine.groups.shape(fine.key_grid))[:, None]
        padding = [-size % factor for size in cells_T1HW.shape[2:]]
        padded = F.pad(cells_T1HW, (0, padding[1], 0, padding[0]))
        summed = F.avg_pool2d(padded, factor, divisor_override=1).reshape(-1)
        found = coarse.row(approximate, position)
        total = summed.abs().sum() + found.abs().sum()
        distances.append(float((summed - found).abs().sum() / total) if total > 0 else 0.0)
    return sum(distances) / len(distances)


def _as_grid(sizes: tuple[int, ...]) -> Grid:
    frames, height, width = (1,) * (3 - len(sizes)) + tuple(sizes)
    return frames, height, width


def _point(position: int, grid: Grid) -> Grid:
    """The point of a flat index."""
    frame, pixel = divmod(position, grid[1] * grid[2])
    return (frame, *divmod(pixel, grid[2]))


def _pooled(map_PD: Tensor, grid: Grid, factor: int) -> tuple[Tensor, Grid]:
    map_TDHW = map_PD.reshape(*grid, -1).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(map_TDHW, factor, ceil_mode=True)
    size = (grid[0], pooled.shape[2], pooled.shape[3])
    return pooled.permute(0, 2, 3, 1).reshape(-1, map_PD.shape[1]).contiguous(), size
