"""One clip's theta and phi as maps, laid out as the page keeps them, and what can be computed from them.

Shapes: T', H', W' of a grid (1 where a map has no such axis), P = T' H' W' its positions, D inner width, G groups that
attend among themselves, N queries and M keys in a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.weights import PairWeights

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Maps:
    """What one block compares in one clip.

    Attributes:
        query: theta (P, D) in raster order, or a (P, 1) for concatenation.
        key: phi, or b, likewise.
        grid: of the queries.
        key_grid: of the keys.
        attend: who sees whom, as in `torch_nonlocal.layers.groups`.
        weights: the form and its options; its tensors are not used.
    """

    query: Tensor
    key: Tensor
    grid: Grid
    key_grid: Grid
    attend: str
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
        group, index = self._place(position)
        return pairs.rows(group, torch.tensor([index]))[0]

    def log_sums(self) -> Tensor | None:
        """Logarithms of the softmax's sums in raster order, a query (normalized over keys) or a key; else None."""
        if not self.weights.is_softmax:
            return None
        pairs = self.pairs()
        sums_GN = torch.stack([pairs.log_sum(group) for group in range(len(pairs.query))])
        return (sums_GN.T if self.attend == "time" else sums_GN).reshape(-1)

    def _grouped(self, map_PD: Tensor, grid: Grid) -> Tensor:
        if self.attend == "spacetime":
            return map_PD[None]
        frames = map_PD.reshape(grid[0], grid[1] * grid[2], -1)
        return frames if self.attend == "space" else frames.transpose(0, 1)

    def _place(self, position: int) -> tuple[int, int]:
        if self.attend == "spacetime":
            return 0, position
        frame, pixel = divmod(position, self.grid[1] * self.grid[2])
        return (frame, pixel) if self.attend == "space" else (pixel, frame)


def maps_of(record: BlockRecord, batch: int) -> Maps:
    """The part of a record that belongs to one clip of the batch."""
    grid, key_grid = _as_grid(record.geometry.grid), _as_grid(record.geometry.key_grid)
    groups = {"spacetime": 1, "space": grid[0], "time": grid[1] * grid[2]}[record.attend]
    chosen = slice(batch * groups, (batch + 1) * groups)

    def positions(grouped: Tensor) -> Tensor:
        values = grouped[chosen].detach().float().cpu()
        if values.ndim == 2:  # a and b of concatenation
            values = values[..., None]
        if record.attend == "time":
            values = values.transpose(0, 1)
        return values.reshape(-1, values.shape[-1]).contiguous()

    weights = record.weights
    return Maps(positions(weights.query), positions(weights.key), grid, key_grid, record.attend, weights)


def coarse_distance(fine: Maps, coarse: Maps, factor: int, positions: list[int]) -> float:
    """How far the coarser grid's rows are from the exact ones: mean total variation distance, in [0, 1].

    The exact row of a coarse cell is the mean of the rows of the queries in it, summed over the keys of each cell.
    """
    exact, approximate = fine.pairs(), coarse.pairs()
    distances = []
    for position in positions:
        t, rest = divmod(position, coarse.grid[1] * coarse.grid[2])
        y, x = divmod(rest, coarse.grid[2])
        rows = [
            fine.row(exact, (t * fine.grid[1] + fy) * fine.grid[2] + fx)
            for fy in range(y * factor, min((y + 1) * factor, fine.grid[1]))
            for fx in range(x * factor, min((x + 1) * factor, fine.grid[2]))
        ]
        row = torch.stack(rows).mean(0)
        if fine.attend == "time":  # the keys of the cells' own pixels: summed over time they stay apart
            summed = row
        else:
            frames = 1 if fine.attend == "space" else fine.key_grid[0]
            cells = row.reshape(frames, 1, *fine.key_grid[1:])
            size = (math.ceil(fine.key_grid[1] / factor), math.ceil(fine.key_grid[2] / factor))
            padded = F.pad(cells, (0, size[1] * factor - cells.shape[3], 0, size[0] * factor - cells.shape[2]))
            summed = F.avg_pool2d(padded, factor).reshape(-1) * factor**2
        found = coarse.row(approximate, position)
        total = summed.abs().sum() + found.abs().sum()
        distances.append(float((summed - found).abs().sum() / total) if total > 0 else 0.0)
    return sum(distances) / len(distances)


def _as_grid(sizes: tuple[int, ...]) -> Grid:
    frames, height, width = (1,) * (3 - len(sizes)) + tuple(sizes)
    return frames, height, width


def _pooled(map_PD: Tensor, grid: Grid, factor: int) -> tuple[Tensor, Grid]:
    map_TDHW = map_PD.reshape(*grid, -1).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(map_TDHW, factor, ceil_mode=True)
    size = (grid[0], pooled.shape[2], pooled.shape[3])
    return pooled.permute(0, 2, 3, 1).reshape(-1, map_PD.shape[1]).contiguous(), size
