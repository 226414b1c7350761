"""The sums of a block over what its options name: whole groups, windows, rows and columns, or channels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.criss_cross import criss_cross
from torch_nonlocal.layers.weighted_sum import weighted_sum
from torch_nonlocal.layers.windows import sum_in_windows


def arranged_sum(
    block: Any, operands: tuple[Tensor, Tensor, Tensor], grid: Sequence[int], source: Sequence[int]
) -> Tensor:
    """Return the weighted sums of a block as a map (B, V, *grid).

    Args:
        block: a `NonLocal`.
        operands: theta, phi and g of the groups without windows, or a, b and g of the form "concatenation".
        grid: the size of the map of queries.
        source: the size of the map that the keys are computed from.
    """
    groups, algorithm = block.groups, group_algorithm(block)
    query, key, g_BMV = operands
    frames = grid[0] if groups.causal else None
    if groups.window_sizes is not None:

        def compute(query: Tensor, key: Tensor, g_BMV: Tensor) -> Tensor:
            return weighted_sum(block, query, key, g_BMV, frames, algorithm)

        return sum_in_windows(compute, operands, groups, (grid, block.key_grid(source)), block.subsample)
    if groups.is_cross:
        y_BNV = criss_cross(block, query, key, g_BMV, (grid[-2], grid[-1]), dense=algorithm == "dense")
    else:
        y_BNV = weighted_sum(block, query, key, g_BMV, frames, algorithm)
    return groups.to_map(y_BNV, grid)


def group_algorithm(block: Any) -> Algorithm:
    """Return the algorithm of the sums of a group.

    Weights among channels are few: their map is built. The order of a dot product would need the map of positions.
    """
    return "dense" if block.groups.mixes_channels else block.algorithm
