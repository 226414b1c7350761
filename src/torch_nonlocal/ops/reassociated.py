"""Dot product form without the N x M map: (theta phi^T) g = theta (phi^T g).

Without a softmax between them, the two products can be computed in either order. theta (phi^T g) takes (N + M) D V
multiply-adds and a D x V matrix. (theta phi^T) g takes N M (D + V) multiply-adds and an N x M matrix; it is cheaper
only if that matrix is smaller than theta and g. The products of backward have the same two costs, so that the cheaper
order of forward is also the cheaper order of backward.

It consists of ordinary operations: torch.compile, export, FLOP counters and higher derivatives work without formulas.

Shapes: B batch, N query positions, M key positions, D inner width, V value width.
"""

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import without_autocast
from torch_nonlocal.ops import dense


def map_is_cheaper(queries: int, keys: int, width: int, values: int) -> bool:
    """Return whether N M (D + V) multiply-adds are fewer than (N + M) D V."""
    return queries * keys * (width + values) < (queries + keys) * width * values


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    """Compute the dot product form, as `dense.dot_product`: (B, N, V).

    Half types are computed in float32, since the entries of phi^T g are sums over all positions.
    """
    dtype = g_BMV.dtype
    if dtype in (torch.float16, torch.bfloat16):
        with without_autocast(g_BMV.device):
            return _in_order(theta_BND.float(), phi_BMD.float(), g_BMV.float()).to(dtype)
    return _in_order(theta_BND, phi_BMD, g_BMV)


def _in_order(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    if map_is_cheaper(theta_BND.shape[1], phi_BMD.shape[1], theta_BND.shape[2], g_BMV.shape[2]):
        return dense.dot_product(theta_BND, phi_BMD, g_BMV)
    return theta_BND @ (phi_BMD.mT @ g_BMV / phi_BMD.shape[1])
