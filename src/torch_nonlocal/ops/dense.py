"""The definition of each form. It builds the N x M map, so that memory grows with N * M.

The tests compare every other algorithm with this one, forward and backward. It supports all floating dtypes, higher
derivatives and forward-mode differentiation, since it consists of ordinary tensor operations.

Attention that is causal over frames has a mask, `visible_NM`: whether a query sees a key (`CausalFrames.visible`). The
weights of other keys are zero, and C(x) = M becomes the number of keys that the query sees.

Shapes: B batch, N query positions, M key positions, D inner width, V value width.
Reference: Wang et al., Non-local Neural Networks, CVPR 2018, eq. 1 to 5.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_exported
from torch_nonlocal.ops.names import Normalize


def softmax_weights(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
    visible_NM: Tensor | None = None,
) -> Tensor:
    """Return the weights exp(scale * theta_i . phi_j + bias_j) / sum, (B, N, M).

    The sum runs over the keys j (eq. 2 and 3), or over the queries i with normalize="queries".
    """
    logits_BNM = logits(theta_BND, phi_BMD, scale, key_bias_BM)
    if visible_NM is not None:
        logits_BNM = logits_BNM.masked_fill(~visible_NM, -torch.inf)
    return torch.softmax(logits_BNM, dim=-1 if normalize == "keys" else -2)


def logits(theta_BND: Tensor, phi_BMD: Tensor, scale: float, key_bias_BM: Tensor | None) -> Tensor:
    """Return scale * theta_i . phi_j + bias_j, (B, N, M)."""
    logits_BNM = torch.bmm(theta_BND, phi_BMD.transpose(1, 2))
    if scale != 1.0:
        logits_BNM = logits_BNM * scale
    return logits_BNM if key_bias_BM is None else logits_BNM + key_bias_BM.unsqueeze(-2)


def dot_product_weights(theta_BND: Tensor, phi_BMD: Tensor, visible_NM: Tensor | None = None) -> Tensor:
    """Return the weights theta_i . phi_j / M (eq. 4 with C(x) = M), (B, N, M), signed."""
    return _mean_over_keys(torch.bmm(theta_BND, phi_BMD.transpose(1, 2)), visible_NM)


def concatenation_weights(a_BN: Tensor, b_BM: Tensor, visible_NM: Tensor | None = None) -> Tensor:
    """Return the weights ReLU(a_i + b_j) / M (eq. 5, w_f split for theta and phi), (B, N, M), non-negative."""
    return _mean_over_keys(torch.relu(a_BN.unsqueeze(-1) + b_BM.unsqueeze(-2)), visible_NM)


def _mean_over_keys(pairs_BNM: Tensor, visible_NM: Tensor | None) -> Tensor:
    """Divide by the number of keys that a query sees."""
    if visible_NM is None:
        return pairs_BNM / pairs_BNM.shape[-1]
    return pairs_BNM.masked_fill(~visible_NM, 0.0) / visible_NM.sum(-1, keepdim=True)


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
    visible_NM: Tensor | None = None,
) -> Tensor:
    """Compute the embedded Gaussian form, or with theta = phi = x the Gaussian form: (B, N, V)."""
    options: dict[str, Any] = {"normalize": normalize, "key_bias_BM": key_bias_BM, "visible_NM": visible_NM}
    return _weighted_sum(softmax_weights(theta_BND, phi_BMD, scale=scale, **options), g_BMV)


def top_k(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Compute the softmax forms over the k largest logits of each query, which are renormalized: (B, N, V)."""
    logits_BNM = logits(theta_BND, phi_BMD, scale, key_bias_BM)
    logits_BNK, index_BNK = logits_BNM.topk(k, dim=-1)
    weights_BNK = torch.softmax(logits_BNK, dim=-1)
    weights_BNM = torch.zeros_like(logits_BNM, dtype=weights_BNK.dtype).scatter(-1, index_BNK, weights_BNK)
    return _weighted_sum(weights_BNM, g_BMV)


def hard(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
    temperature: float = 1.0,
    noise_BNM: Tensor | None = None,
) -> Tensor:
    """Compute y_i = g_j of the largest logit j, with the gradient of softmax(logits / temperature): (B, N, V).

    The noise is added to the logits.
    """
    logits_BNM = logits(theta_BND, phi_BMD, scale, key_bias_BM)
    if noise_BNM is not None:
        logits_BNM = logits_BNM + noise_BNM
    soft_BNM = torch.softmax(logits_BNM / temperature, dim=-1)
    one_hot_BNM = torch.zeros_like(soft_BNM).scatter(-1, logits_BNM.argmax(-1, keepdim=True), 1.0)
    return _weighted_sum(one_hot_BNM + (soft_BNM - soft_BNM.detach()), g_BMV)


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, visible_NM: Tensor | None = None) -> Tensor:
    """Compute the dot product form: (B, N, V)."""
    return _weighted_sum(dot_product_weights(theta_BND, phi_BMD, visible_NM), g_BMV)


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor, visible_NM: Tensor | None = None) -> Tensor:
    """Compute the concatenation form: (B, N, V)."""
    return _weighted_sum(concatenation_weights(a_BN, b_BM, visible_NM), g_BMV)


def _weighted_sum(weights_BNM: Tensor, g_BMV: Tensor) -> Tensor:
    """Return weights g, (B, N, V).

    In inference, channel-major values give a channel-major sum. Its gradient would be a transposed map, and copied.
    """
    if not torch.is_grad_enabled() and not is_exported(g_BMV) and g_BMV.stride(-2) == 1 and g_BMV.stride(-1) > 1:
        return torch.bmm(g_BMV.mT, weights_BNM.mT).mT
    return torch.bmm(weights_BNM, g_BMV)
