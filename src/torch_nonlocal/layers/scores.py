"""The scores a_i and b_j of the concatenation form from its linear map w_f = [w_theta, w_phi].

w_f . [theta_i, phi_j] + bias = a_i + b_j, where a_i = w_theta . theta_i + bias and b_j = w_phi . phi_j.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from torch_nonlocal._common.tracing import needs_plain_operations
from torch_nonlocal.layers.ordinary import is_linear
from torch_nonlocal.layers.projection import Linear


def pair_scores(score: nn.Module, theta_BND: Tensor, phi_BMD: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return a (B', N) and b (B', M).

    Args:
        score: w_f, a linear map from 2D channels to 1. If it is not an ordinary linear layer, it is called, once.
        theta_BND: queries, (B', N, D).
        phi_BMD: keys, (B', M, D).
        groups: groups per batch item, B' / B. A call gets one row of positions per batch item.
    """
    queries, keys, width = theta_BND.shape[1], phi_BMD.shape[1], theta_BND.shape[2]
    if is_linear(score, theta_BND, recorded=needs_plain_operations(theta_BND)):
        weight, bias = _weights(score)
        # A sum instead of a matrix-vector product, which onnxruntime fuses wrongly with the transpose before it.
        w_theta, w_phi = weight[0].split([width, phi_BMD.shape[2]])
        return _plus((theta_BND * w_theta).sum(-1), bias), (phi_BMD * w_phi).sum(-1)
    # The score of [theta_i, 0] is a_i, that of [0, phi_j] is b_j + bias, and that of zeros is the bias.
    theta_BNE, phi_BME = pad(theta_BND, (0, phi_BMD.shape[2])), pad(phi_BMD, (width, 0))
    rows_BRE = torch.cat([theta_BNE, phi_BME, torch.zeros_like(theta_BNE[:, :1])], dim=1)
    scores_BR1: Tensor = score(rows_BRE.unflatten(0, (-1, groups)).flatten(1, 2))
    scores_BR = scores_BR1.squeeze(-1).unflatten(1, (groups, -1)).flatten(0, 1)
    a_BN, b_BM, bias_B1 = scores_BR.split([queries, keys, 1], dim=1)
    return a_BN, b_BM - bias_B1


def folded_scores(score: nn.Module, theta: Linear, phi: Linear) -> tuple[Linear, Linear]:
    """Return the maps from x to a and to b, one channel each, from an ordinary linear layer."""
    weight, bias = _weights(score)
    w_theta, w_phi = weight.split([theta.weight.shape[0], phi.weight.shape[0]], dim=1)
    a = Linear(_times(w_theta, theta.weight), _plus(w_theta @ theta.bias, bias))
    return a, Linear(_times(w_phi, phi.weight), w_phi @ phi.bias)


def _times(row_1D: Tensor, weight: Tensor) -> Tensor:
    """Return the weight of one channel, (1, C), with the axes of size 1 of a weight (D, C, ...)."""
    return (row_1D @ weight.flatten(1)).view(1, *weight.shape[1:])


def _weights(score: Any) -> tuple[Tensor, Tensor | None]:
    return score.weight, score.bias


def _plus(score: Tensor, bias: Tensor | None) -> Tensor:
    return score if bias is None else score + bias
