"""Theta and phi of one clip in the layout of the page, and the weights computed from them.

Shapes: T', H', W' of a grid (1 for an axis that the map does not have), P = T' H' W' its positions, D inner width, G
groups, N queries and M keys per group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.groups import Groups, flat_index

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Maps:
    """Theta and phi of one block in one clip.

    Attributes:
        query: theta (P, D) in row-major order, or a (P, 1) for concatenation.
        key: phi (P, D), or b (P, 1) for concatenation.
        grid: size of the grid of queries.
        key_grid: size of the grid of keys.
        groups: which positions attend to which, on three axes.
        weights: form and options of the block; its tensors are not used.
    """

    query: Tensor
    key: Tensor
    grid: Grid
    key_grid: Grid
    groups: Groups
    weights: PairWeights

    @property
    def is_shared(self) -> bool:
        """True if queries and keys are equal (Gaussian form); the page then stores them once."""
        return self.query.shape == self.key.shape and torch.equal(self.query, self.key)

    def centered(self) -> Maps:
        """Return maps with the same weights and smaller values, which lose less in quantization.

        A softmax over keys is invariant to adding a vector c to every phi, which adds theta_i . c to all logits of
        query i; a softmax over queries is invariant to adding a vector to every theta.
        """
        if not self.weights.is_softmax or self.is_shared:
            return self
        if self.weights.normalize == "keys":
            return replace(self, key=self.key - self.key.mean(0))
        return replace(self, query=self.query - self.query.mean(0))

    def coarser(self, factor: int) -> Maps:
        """Return an approximation on a coarser grid, with theta and phi averaged over `factor` x `factor` cells."""
        query, grid = _pooled(self.query, self.grid, factor)
        key, key_grid = _pooled(self.key, self.key_grid, factor)
        weights, sees, regions = self.weights, self.weights.sees, self.weights.regions
        if sees is not None:
            weights = replace(weights, sees=sees.coarser((1, factor, factor)))
        if regions is not None:
            selected_P1 = self.groups.to_map(regions[..., None].float(), self.key_grid)[0].flatten()[:, None]
            cells_PD, _ = _pooled(selected_P1, self.key_grid, factor)
            weights = replace(weights, regions=self._grouped(cells_PD, key_grid)[..., 0] > 0)
        return replace(self, query=query, key=key, grid=grid, key_grid=key_grid, weights=weights)

    def pairs(self) -> PairWeights:
        """Return the weights by group, as the block computes them."""
        query, key = self._grouped(self.query, self.grid), self._grouped(self.key, self.key_grid)
        if self.weights.pairwise == "concatenation":
            query, key = query[..., 0], key[..., 0]
        return replace(self.weights, query=query, key=key, _log_sums={})

    def row(self, pairs: PairWeights, position: int) -> Tensor:
        """Return the weights of one query over the keys of its group, (M,); `pairs` is the result of `pairs()`."""
        group, index = self.groups.locate(_point(position, self.grid), self.grid)
        return pairs.rows(group, torch.tensor([index]))[0]

    def log_sums(self) -> Tensor | None:
        """Logs of the softmax denominators in row-major order, per query or per key (normalize="queries"), or None."""
        if not self.weights.is_softmax:
            return None
        pairs = self.pairs()
        sums_GN = torch.stack([pairs.log_sum(group) for group in range(len(pairs.query))])
        grid = self.grid if self.weights.normalize == "keys" else self.key_grid
        return self.groups.to_map(sums_GN[..., None], grid).flatten()

    def lowest_logits(self) -> Tensor:
        """The lowest logit of each query that has a weight, in row-major order."""
        pairs = self.pairs()
        lowest_GN = torch.stack([pairs.lowest_logits(group) for group in range(len(pairs.query))])
        return self.groups.to_map(lowest_GN[..., None], self.grid).flatten()

    def region_keys(self) -> dict[str, Any] | None:
        """The keys that all queries of a group share, as JSON values: their number, and their row-major indices."""
        regions = self.weights.regions
        if regions is None:
            return None
        selected_P = self.groups.to_map(regions[..., None], self.key_grid).flatten()
        return {"count": int(regions[0].sum()), "keys": selected_P.nonzero().flatten().tolist()}

    def _grouped(self, map_PD: Tensor, grid: Grid) -> Tensor:
        return self.groups.to_positions(map_PD.T.reshape(1, -1, *grid))


def maps_of(record: BlockRecord, batch: int) -> Maps:
    """Return the maps of one clip of a record."""
    grid, key_grid = _as_grid(record.geometry.grid), _as_grid(record.geometry.key_grid)
    groups = Groups(record.attend, 3)
    count = groups.count(grid)

    def raster(grouped: Tensor, size: Grid) -> Tensor:
        values = grouped[batch * count : (batch + 1) * count].detach().float().cpu()
        if values.ndim == 2:  # a and b of concatenation
            values = values[..., None]
        return groups.to_map(values, size)[0].flatten(1).T.contiguous()

    weights = record.weights
    if weights.sees is not None:
        weights = replace(weights, sees=weights.sees.on_axes(3))
    if weights.regions is not None:
        weights = replace(weights, regions=weights.regions[batch * count : (batch + 1) * count].cpu())
    return Maps(raster(weights.query, grid), raster(weights.key, key_grid), grid, key_grid, groups, weights)


def coarse_distance(fine: Maps, coarse: Maps, factor: int, positions: list[int]) -> float:
    """Return the mean total variation distance, in [0, 1], of rows on a coarser grid from the exact ones.

    The exact row of a coarse cell is the mean over the rows of its queries, summed over the keys of each coarse cell.
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
    """Return the point (t, y, x) of a row-major index."""
    frame, pixel = divmod(position, grid[1] * grid[2])
    return (frame, *divmod(pixel, grid[2]))


def _pooled(map_PD: Tensor, grid: Grid, factor: int) -> tuple[Tensor, Grid]:
    map_TDHW = map_PD.reshape(*grid, -1).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(map_TDHW, factor, ceil_mode=True)
    size = (grid[0], pooled.shape[2], pooled.shape[3])
    return pooled.permute(0, 2, 3, 1).reshape(-1, map_PD.shape[1]).contiguous(), size
