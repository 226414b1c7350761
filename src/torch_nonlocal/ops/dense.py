"""The definition, written plainly: builds the N x M map, so memory grows with N * M.

Every other algorithm is tested against this one, forward and backward. Any floating dtype, float64 included;
differentiable any number of times and in forward mode, because it is made of ordinary tensor operations.

Shapes: B batch, N query positions, M key positions, D inner width, V value width.
Source: Wang, Girshick, Gupta, He, Non-local Neural Networks, CVPR 2018, eq. 1 to 5.
"""

import torch
from torch import Tensor

from torch_nonlocal.ops.names import Normalize


def softmax_weights(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """exp(scale * theta_i . phi_j + bias_j) / sum, the sum over keys j (eq. 2 and 3) or over queries i: (B, N, M)."""
    logits_BNM = theta_BND @ phi_BMD.transpose(-1, -2) * scale
    if key_bias_BM is not None:
        logits_BNM = logits_BNM + key_bias_BM[..., None, :]
    return torch.softmax(logits_BNM, dim=-1 if normalize == "keys" else -2)


def dot_product_weights(theta_BND: Tensor, phi_BMD: Tensor) -> Tensor:
    """theta_i . phi_j / M (eq. 4, C(x) the number of positions summed over): (B, N, M), signed."""
    return theta_BND @ phi_BMD.transpose(-1, -2) / phi_BMD.shape[-2]


def concatenation_weights(a_BN: Tensor, b_BM: Tensor) -> Tensor:
    """ReLU(a_i + b_j) / M (eq. 5 with w_f split into its theta and phi halves): (B, N, M), not negative."""
    return torch.relu(a_BN[..., :, None] + b_BM[..., None, :]) / b_BM.shape[-1]


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Gaussian (theta = phi = x) and embedded gaussian: (B, N, V)."""
    return softmax_weights(theta_BND, phi_BMD, scale=scale, normalize=normalize, key_bias_BM=key_bias_BM) @ g_BMV


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    """Dot product: (B, N, V)."""
    return dot_product_weights(theta_BND, phi_BMD) @ g_BMV


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor) -> Tensor:
    """Concatenation: (B, N, V)."""
    return concatenation_weights(a_BN, b_BM) @ g_BMV
