"""Theta, phi and g of a block from its maps.

Shapes: B' batch times groups, N queries, M keys, D inner width, V value width.
"""

from typing import Any

from torch import Tensor

from torch_nonlocal._common.tracing import needs_plain_operations
from torch_nonlocal.layers.ordinary import is_identity, is_linear
from torch_nonlocal.layers.projection import apply, linears, project
from torch_nonlocal.layers.scores import folded_scores

Operands = tuple[Tensor, Tensor, Tensor]


def embedded(block: Any, x: Tensor, keys_from: Tensor | None) -> Operands:
    """Return theta (B', N, D), phi (B', M, D) and g (B', M, V), as `NonLocal.embed`."""
    if block.pools_first:
        source = x if keys_from is None else keys_from
        (theta,), (phi, g) = project(x, [block.theta]), project(block.pool(source), [block.phi, block.g])
    elif keys_from is not None:
        (theta,), (phi, g) = project(x, [block.theta]), project(keys_from, [block.phi, block.g])
        phi, g = block.pool(phi), block.pool(g)
    else:
        theta, phi, g = project(x, [block.theta, block.phi, block.g])
        phi, g = block.pool(phi), block.pool(g)
    return block.groups.to_positions(theta), block.groups.to_positions(phi), block.groups.to_positions(g)


def with_folded_scores(block: Any, x: Tensor, keys_from: Tensor | None) -> Operands | None:
    """Return a, b and g of the concatenation form, with w_f folded into theta and phi: one channel each, not D.

    None if the result would differ, since phi is pooled before w_f, or if the modules are not ordinary.
    """
    if block.score is None or needs_plain_operations(x) or (block.pools_keys and not block.pools_first):
        return None
    source = x if keys_from is None else keys_from
    query, keys = linears([block.theta], x), linears([block.phi, block.g], source)
    if query is None or keys is None or not is_linear(block.score, x):
        return None
    if not block.pools_keys and not is_identity(block.pool):
        return None
    (theta,), (phi, g) = query, keys
    a, b = folded_scores(block.score, theta, phi)
    if block.pools_keys or keys_from is not None:
        (a_map,), (b_map, g_map) = apply(x, [a]), apply(block.pool(source), [b, g])
    else:
        a_map, b_map, g_map = apply(x, [a, b, g])
    a_BN1, b_BM1, g_BMV = map(block.groups.to_positions, (a_map, b_map, g_map))
    return a_BN1.squeeze(2), b_BM1.squeeze(2), g_BMV
