"""Which positions of a group a position attends to, where it does not attend to all: in windows, and in a cross.

A block computes only the weights that it needs (`layers.windows`, `layers.criss_cross`). What shows weights numbers the
positions of whole groups, and asks here which of their pairs have a weight.

Shapes: N queries and M keys of a group, Q some of the queries, K some of the keys.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.layers.groups import Groups

Labels = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Visibility:
    """Pairs of queries and keys, by a label for each index of each axis.

    A query sees a key if their labels are equal on every axis or, in a cross, on one of its axes.

    Attributes:
        query_labels: for each axis of the map, a label for each index of the queries.
        key_labels: the same for the keys.
        axes: the axes of the map that a group has.
        is_cross: whether one equal label is enough.
        within: where a position attends, such as "its window (7 x 7)".
    """

    query_labels: Labels
    key_labels: Labels
    axes: tuple[int, ...]
    is_cross: bool
    within: str

    def visible(self, index_Q: Tensor, index_K: Tensor) -> Tensor:
        """Whether queries see keys, (Q, K), from their numbers in the group."""
        queries, keys = self._labels(self.query_labels, index_Q), self._labels(self.key_labels, index_K)
        equal = [query[:, None] == key for query, key in zip(queries, keys, strict=True)]
        found = equal[0]
        for one in equal[1:]:
            found = found | one if self.is_cross else found & one
        return found

    def seen_keys(self, index_Q: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        """The number of keys that queries see, (Q,); with `axes`, of those that differ from one key on these axes."""
        return self._seen(self.query_labels, index_Q, self.key_labels, axes)

    def seen_queries(self, index_Q: Tensor) -> Tensor:
        """The number of queries that see the same keys as some queries, (Q,)."""
        return self._seen(self.query_labels, index_Q, self.query_labels, None)

    def coarser(self, factors: Sequence[int]) -> "Visibility":
        """The same on a grid that is coarser by a factor per axis: a cell has the label of its middle index."""

        def thinned(labels: Labels) -> Labels:
            return tuple(
                tuple(line[min(start + factor // 2, len(line) - 1)] for start in range(0, len(line), factor))
                for line, factor in zip(labels, factors, strict=True)
            )

        return replace(self, query_labels=thinned(self.query_labels), key_labels=thinned(self.key_labels))

    def on_axes(self, count: int) -> "Visibility":
        """The same for maps of more axes, with one position on each axis before."""
        added = count - len(self.query_labels)
        before: Labels = ((0,),) * added
        axes = tuple(axis + added for axis in self.axes)
        return replace(self, query_labels=before + self.query_labels, key_labels=before + self.key_labels, axes=axes)

    def _seen(self, labels: Labels, index_Q: Tensor, others: Labels, axes: Sequence[int] | None) -> Tensor:
        if self.is_cross:
            return torch.full_like(index_Q, sum(len(others[axis]) for axis in self.axes) - 1)
        counts = []
        for axis, label_Q in zip(self.axes, self._labels(labels, index_Q), strict=True):
            if axes is None or axis in axes:
                other = torch.tensor(others[axis], device=index_Q.device)
                counts.append((label_Q[:, None] == other).sum(1))
        return torch.stack(counts).prod(0) if counts else torch.ones_like(index_Q)

    def _labels(self, labels: Labels, index: Tensor) -> list[Tensor]:
        """The labels on the axes of the group."""
        lines = [torch.tensor(labels[axis], device=index.device) for axis in self.axes]
        places = torch.unravel_index(index, [len(line) for line in lines])
        return [line[place] for line, place in zip(lines, places, strict=True)]


def visibility(options: Any, grid: Sequence[int]) -> Visibility | None:
    """Return which pairs of a group have a weight; None for all.

    Args:
        options: a `NonLocal` or a `Computed`.
        grid: the size of the map of queries, and of the map that the keys are computed from.
    """
    groups: Groups = options.groups
    windows = groups.window_sizes
    if windows is None and not groups.is_cross:
        return None
    factors = options.subsample or (1,) * groups.dims
    query = tuple(_axis_labels(groups, axis, size) for axis, size in enumerate(grid))
    key = tuple(
        tuple(line[min(index * factor, len(line) - 1)] for index in range(count))
        for line, count, factor in zip(query, options.key_grid(grid), factors, strict=True)
    )
    return Visibility(query, key, groups.axes, groups.is_cross, groups.within)


def _axis_labels(groups: Groups, axis: int, size: int) -> tuple[int, ...]:
    if groups.is_cross:
        return tuple(range(size))
    window = (groups.window_sizes or (None,) * groups.dims)[axis]
    if window is None or window >= size:
        return (0,) * size
    count = math.ceil(size / window)
    return tuple(index % count if groups.interlaced else index // window for index in range(size))


def why_no_rows(options: Any, grid: Sequence[int] | None = None, source: Sequence[int] | None = None) -> str:
    """Return why the weights of a block are not those of positions of its grid; "" if they are.

    Args:
        options: a `NonLocal` or a `Computed`.
        grid: the size of the map of queries; None for any.
        source: the size of the map that the keys are computed from, if it is another map.
    """
    if options.groups.mixes_channels:
        return "weights among channels, none over positions"
    if options.keys == "pyramid":
        return "weights over the regions of a pyramid, which overlap, none over single positions"
    if source is not None and grid is not None and tuple(source) != tuple(grid):
        return f"keys of another map, of size {tuple(source)}, which is not that of its own grid, {tuple(grid)}"
    return ""
