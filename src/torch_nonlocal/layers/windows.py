"""Windows: sums over the positions of a part of a group.

A window of w positions along an axis of n positions holds

- neighbors: the positions 0 to w - 1, w to 2 w - 1, and so on. If w does not divide n, the last window is smaller;
- interlaced positions: those that are P = ceil(n / w) apart, 0, P, 2 P and so on. If P does not divide n, the last
  windows have one position less.

Windows of one size are computed together. Windows of different sizes are computed one size after the other, without
padding: every pairwise form is exact, also those that are divided by the number of keys.

Shapes: B' batch times groups without windows, N positions of such a group, D width; V width of the values. A run is a
number of windows of one size that follow each other along an axis, with interlaced windows after their positions have
been sorted by window.

References: Huang et al., Interlaced Sparse Self-Attention for Semantic Segmentation, 2019; Ho et al., Axial Attention
in Multidimensional Transformers, 2019 (windows of one position along an axis).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal.layers.groups import Groups

Sum = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Return y (B'', N'', V) for theta, phi and g (a, b and g) of windows."""


class Run(NamedTuple):
    """Windows of one size along an axis: `count` times `size` positions from `start`."""

    start: int
    count: int
    size: int


def runs(
    groups: Groups, grid: Sequence[int], key_grid: Sequence[int], factors: Sequence[int] | None
) -> list[list[tuple[Run, Run]]]:
    """Return the runs along each axis, as pairs of runs in the queries and in the keys.

    Args:
        groups: the groups and their windows.
        grid: the size of the map of queries.
        key_grid: the size of the map of keys.
        factors: positions per key, one per axis; None for 1. A window is a multiple of it.
    """
    windows = groups.window_sizes or (None,) * groups.dims
    found = []
    for axis, (size, keys, window) in enumerate(zip(grid, key_grid, windows, strict=True)):
        if axis in groups.other_axes:
            found.append([(Run(0, size, 1), Run(0, size, 1))])
        elif window is None or window >= size:
            found.append([(Run(0, 1, size), Run(0, 1, keys))])
        elif groups.interlaced:
            found.append([(run, run) for run in _interlaced(size, window)])
        else:
            found.append(_neighbors(size, keys, window, window // (factors[axis] if factors else 1)))
    return found


def most_keys(block: Any, source: Sequence[int]) -> int:
    """Return the number of keys of a query, in the largest window; of channels with attend="channel".

    Args:
        block: a `NonLocal`.
        source: the size of the map that the keys are computed from.
    """
    groups = block.groups
    if groups.mixes_channels:
        return block.embedding_channels
    key_grid = block.key_grid(source)
    if groups.window_sizes is None:
        return groups.size(key_grid)
    count = 1
    for pairs in runs(groups, source, key_grid, block.subsample):
        count = count * max(key.size for _, key in pairs)
    return count


def _interlaced(size: int, window: int) -> list[Run]:
    count = -(-size // window)
    least, longer = divmod(size, count)
    both = Run(0, longer, least + 1), Run(longer * (least + 1), count - longer, least)
    return [run for run in both if run.count]


def _neighbors(size: int, keys: int, window: int, key_window: int) -> list[tuple[Run, Run]]:
    count, rest = divmod(size, window)
    found = [(Run(0, count, window), Run(0, count, key_window))]
    if rest:
        found.append((Run(count * window, 1, rest), Run(count * key_window, 1, keys - count * key_window)))
    return found


def sum_in_windows(
    compute: Sum,
    operands: tuple[Tensor, Tensor, Tensor],
    groups: Groups,
    sizes: tuple[Sequence[int], Sequence[int]],
    factors: Sequence[int] | None,
) -> Tensor:
    """Return the weighted sums of windows as a map (B, V, *grid).

    Args:
        compute: the sum over the positions of a window.
        operands: theta (B', N, D), phi (B', M, D) and g (B', M, V) of the groups without windows; a (B', N) and
            b (B', M) of the concatenation form in place of theta and phi.
        groups: the groups and their windows.
        sizes: the grids of the queries and of the keys.
        factors: as for `runs`.
    """
    grid, key_grid = sizes
    maps = [
        _interlaced_map(groups.to_map(one if one.dim() == 3 else one.unsqueeze(2), size), groups, size)
        for one, size in zip(operands, (grid, key_grid, key_grid), strict=True)
    ]
    scalar = operands[0].dim() == 2
    along = runs(groups, grid, key_grid, factors)

    def parts() -> Iterator[Tensor]:
        for pairs in product(*along):
            queries, keys = zip(*pairs, strict=True)
            query, key, g_BMV = (_cut(one, part) for one, part in zip(maps, (queries, keys, keys), strict=True))
            if scalar:
                query, key = query.squeeze(2), key.squeeze(2)
            yield _whole(compute(query, key, g_BMV), queries)

    joined = _joined(parts(), [len(pairs) for pairs in along], 2)
    return _in_order(joined, groups, grid)


def _cut(map_BCthw: Tensor, part: Sequence[Run]) -> Tensor:
    """Return the windows of a part of a map, (B * count, size, C)."""
    dims = len(part)
    for axis, run in enumerate(part):
        map_BCthw = map_BCthw.narrow(2 + axis, run.start, run.count * run.size)
    for axis, run in reversed(list(enumerate(part))):
        map_BCthw = map_BCthw.unflatten(2 + axis, (run.count, run.size))
    counts, inside = [2 + 2 * axis for axis in range(dims)], [3 + 2 * axis for axis in range(dims)]
    return map_BCthw.permute(0, *counts, *inside, 1).flatten(0, dims).flatten(1, dims)


def _whole(windows_BNC: Tensor, part: Sequence[Run]) -> Tensor:
    """Return a part of a map, (B, C, *size), from its windows: the inverse of `_cut`."""
    dims = len(part)
    split = windows_BNC.unflatten(1, [run.size for run in part]).unflatten(0, (-1, *(run.count for run in part)))
    order = [place for axis in range(dims) for place in (1 + axis, 1 + dims + axis)]
    found = split.permute(0, 1 + 2 * dims, *order)
    for axis in range(dims):
        found = found.flatten(2 + axis, 3 + axis)
    return found


def _joined(parts: Iterator[Tensor], counts: Sequence[int], axis: int) -> Tensor:
    """Join parts of a map, the last axis first."""
    if not counts:
        return next(parts)
    pieces = [_joined(parts, counts[1:], axis + 1) for _ in range(counts[0])]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)


def _interlaced_order(size: int, count: int) -> list[int]:
    """Return the positions of an axis by window, of which there are `count`: each window is a run of neighbors."""
    return [position for first in range(count) for position in range(first, size, count)]


def _interlaced_map(map_BCthw: Tensor, groups: Groups, grid: Sequence[int]) -> Tensor:
    """Sort the positions of interlaced axes by window."""
    for axis, size, count in _interlaced_axes(groups, grid):
        if size % count == 0:
            map_BCthw = map_BCthw.unflatten(2 + axis, (-1, count)).transpose(2 + axis, 3 + axis)
            map_BCthw = map_BCthw.flatten(2 + axis, 3 + axis)
        else:
            order = torch.tensor(_interlaced_order(size, count), device=map_BCthw.device)
            map_BCthw = map_BCthw.index_select(2 + axis, order)
    return map_BCthw


def _in_order(map_BCthw: Tensor, groups: Groups, grid: Sequence[int]) -> Tensor:
    """Return the positions of interlaced axes to their places: the inverse of `_interlaced_map`."""
    for axis, size, count in _interlaced_axes(groups, grid):
        if size % count == 0:
            map_BCthw = map_BCthw.unflatten(2 + axis, (count, -1)).transpose(2 + axis, 3 + axis)
            map_BCthw = map_BCthw.flatten(2 + axis, 3 + axis)
        else:
            order = _interlaced_order(size, count)
            places = torch.tensor(sorted(range(size), key=order.__getitem__), device=map_BCthw.device)
            map_BCthw = map_BCthw.index_select(2 + axis, places)
    return map_BCthw


def _interlaced_axes(groups: Groups, grid: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the axes with interlaced windows, their sizes, and the numbers of their windows."""
    if not groups.interlaced or groups.window_sizes is None:
        return []
    axes = enumerate(zip(grid, groups.window_sizes, strict=True))
    return [(axis, size, -(-size // window)) for axis, (size, window) in axes if window is not None and window < size]
