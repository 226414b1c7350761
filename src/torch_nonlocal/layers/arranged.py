"""The sums of a block over what its options name: whole groups, windows, rows and columns, or channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import without_autocast
from torch_nonlocal._common.tracing import is_exported
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
    elif groups.mixes_channels:
        y_BNV = _channel_sum(block, query, key, g_BMV)
    else:
        y_BNV = weighted_sum(block, query, key, g_BMV, frames, algorithm)
    return groups.to_map(y_BNV, grid)


def _channel_sum(block: Any, theta_BDN: Tensor, phi_BDN: Tensor, g_BDN: Tensor) -> Tensor:
    """Return the sums over channels. Half types are computed in float32: their products sum over all positions."""
    dtype = g_BDN.dtype
    if is_exported(g_BDN) or dtype not in (torch.float16, torch.bfloat16):
        return weighted_sum(block, theta_BDN, phi_BDN, g_BDN, None, "dense")
    with without_autocast(g_BDN.device):
        return weighted_sum(block, theta_BDN.float(), phi_BDN.float(), g_BDN.float(), None, "dense").to(dtype)


def group_algorithm(block: Any) -> Algorithm:
    """Return the algorithm of the sums of a group.

    Weights among channels are few: their map is built. The order of a dot product would need the map of positions.
    """
    return "dense" if block.groups.mixes_channels else block.algorithm
