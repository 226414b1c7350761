"""Dot product without the N x M map: (theta phi^T) g = theta (phi^T g), exactly.

Without a softmax between the two products their order is free. theta (phi^T g) costs (N + M) D V multiply-adds and a
D x V matrix; (theta phi^T) g costs N M (D + V) and an N x M matrix, which is the cheaper order only where that matrix
is smaller than theta and g themselves. Autograd differentiates either order in kind: backward's products have the same
two costs, so the cheaper order of forward is the cheaper one of backward.

Made of ordinary operations: torch.compile, export, FLOP counters and any derivative see plain matrix products.

Shapes: B batch, N query positions, M key positions, D inner width, V value width.
"""

import torch
from torch import Tensor

from torch_nonlocal.ops import dense


def map_is_cheaper(queries: int, keys: int, width: int, values: int) -> bool:
    """Whether N M (D + V) is fewer multiply-adds than (N + M) D V."""
    return queries * keys * (width + values) < (queries + keys) * width * values


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    """The dot product form, as `dense.dot_product`: (B, N, V).

    Half types are summed in float32: phi^T g adds up all positions before 1 / M makes it small again.
    """
    dtype = g_BMV.dtype
    if dtype in (torch.float16, torch.bfloat16):
        with torch.autocast(g_BMV.device.type, enabled=False):
            return _in_order(theta_BND.float(), phi_BMD.float(), g_BMV.float()).to(dtype)
    return _in_order(theta_BND, phi_BMD, g_BMV)


def _in_order(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    if map_is_cheaper(theta_BND.shape[1], phi_BMD.shape[1], theta_BND.shape[2], g_BMV.shape[2]):
        return dense.dot_product(theta_BND, phi_BMD, g_BMV)
    return theta_BND @ (phi_BMD.mT @ g_BMV / phi_BMD.shape[1])
