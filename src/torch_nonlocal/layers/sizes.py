"""The sizes of a block's sums for an input, without running it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm, CausalFrames
from torch_nonlocal.layers.inputs import check_key_size
from torch_nonlocal.layers.windows import runs


@dataclass(frozen=True)
class Sizes:
    """The sizes of a sum, and what it runs over.

    Attributes:
        groups: B', the number of sums with the most queries and keys: batch times groups times windows.
        queries: N, the number of queries.
        keys: M, the number of keys that a query sees, unless it is causal over frames. With `top_k` and `hard`, those
            that it selects from.
        width: D, the width of theta and phi.
        values: V, the width of g.
        pairs: the number of weights of all sums.
        smaller: whether other windows are smaller.
    """

    groups: int
    queries: int
    keys: int
    width: int
    values: int
    pairs: int
    smaller: bool = False

    @property
    def five(self) -> tuple[int, int, int, int, int]:
        """(B', N, M, D, V)."""
        return self.groups, self.queries, self.keys, self.width, self.values


def counted(five: tuple[int, int, int, int, int]) -> Sizes:
    """Return the sizes (B', N, M, D, V) of a sum over all keys."""
    groups, queries, keys, width, values = five
    return Sizes(groups, queries, keys, width, values, pairs=groups * queries * keys)


def sizes_of(block: Any, shape: Sequence[int]) -> Sizes:
    """Return the sizes of a `NonLocal` for a map (B, C, *size).

    Raises:
        ValueError: if the map is smaller than the pools of its keys.
    """
    batch, grid, groups = shape[0], tuple(shape[2:]), block.groups
    check_key_size(block, grid, grid)
    key_grid = block.key_grid(grid)
    width, values = block.embedding_channels, block.inner_channels
    if groups.mixes_channels:
        positions = groups.size(grid)
        return counted((batch, width, values, positions, positions))
    count, queries = batch * groups.count(grid), groups.size(grid)
    if block.regions is not None:
        return counted((count, queries, block.regions, width, values))
    if groups.is_cross:
        return counted((count, queries, grid[-1] + grid[-2] - 1, width, values))
    if groups.window_sizes is None:
        return counted((count, queries, groups.size(key_grid), width, values))
    parts = [(batch, 1, 1)]
    for along in runs(groups, grid, key_grid, block.subsample):
        parts = [(number * query.count, n * query.size, m * key.size) for number, n, m in parts for query, key in along]
    largest = max(parts, key=lambda part: part[1] * part[2])
    pairs = sum(number * n * m for number, n, m in parts)
    return Sizes(*largest, width, values, pairs, len(parts) > 1)


def algorithm_of(
    options: Any, algorithm: Algorithm, sizes: Sizes, frames: CausalFrames | None, **run: Any
) -> tuple[str, str]:
    """Return the algorithm of a block for an input, and the reason.

    Args:
        options: a `NonLocal` or a `Computed`.
        algorithm: the option `algorithm` of the block.
        sizes: the sizes of its sums.
        frames: which frames a query sees, if the block is causal.
        **run: `device`, `dtype` and `training`, as for `functional.choice`.
    """
    if options.groups.mixes_channels:
        return "dense", f"the map of {sizes.queries} x {sizes.keys} channels is small"
    if options.groups.is_cross and algorithm == "auto":
        return "criss_cross", f"a query has {sizes.keys} keys, those of its row and its column"
    selected = {"frames": frames, "selection": options.selection}
    choice = functional.choice(
        options.pairwise, sizes.five, algorithm=algorithm, normalize=options.normalize, **selected, **run
    )
    return choice.algorithm, choice.why
