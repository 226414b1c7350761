"""Blocks on small maps, for which the calls between the layers of this package take longer than the arithmetic.

The operations are those of the general path with algorithm="dense": one product for theta, phi and g, the weights, one
product for out, the norm and the residual. They are called here directly: through `projection.apply`, a block of 64
channels on 14 x 14 positions takes 7 % longer. A call that is unusual in any way takes the general path, which treats
every case: other options and layouts, hooks and adapters on children, observers, streams, transforms, recording,
autocast, half types and other devices.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_dual, is_plain_call
from torch_nonlocal.functional import concatenation, dot_product, embedded_gaussian, is_small
from torch_nonlocal.layers.observed import is_observed
from torch_nonlocal.layers.ordinary import convolution_weights, is_identity, is_linear
from torch_nonlocal.layers.projection import CONVOLUTIONS, FULL, LARGE, Linear
from torch_nonlocal.layers.scores import folded_scores
from torch_nonlocal.layers.streamed import stream_of_blocks


def small_forward(block: Any, x: Tensor) -> Tensor | None:
    """Return z of a `NonLocal` for a small map (B, C, *size), or None if the call takes the general path."""
    if (
        not is_plain_call(x)
        or x.dim() < 3
        or not 0 < x.numel() < LARGE
        or x.device.type != "cpu"
        or x.dtype not in FULL
        or is_dual(x)
        or is_observed()
        or stream_of_blocks() is not None
        or not _is_usual(block, x)
    ):
        return None
    out = convolution_weights(block.out, x.dtype, x.device)
    operands = None if out is None else _operands(block, x)
    if out is None or operands is None:
        return None
    y = _response(block, *operands)
    return x + block.norm(_product(y.reshape(x.shape[0], -1, *x.shape[2:]), Linear(*out)))


def _is_usual(block: Any, x: Tensor) -> bool:
    """Whether the block has usual options, and the map of all weights is small."""
    batch, channels = x.shape[:2]
    positions = x.numel() // (batch * channels)
    return (
        block.algorithm in ("auto", "dense")
        and (block.pairwise == "dot_product" or is_small(block.pairwise, batch, positions, positions, x.dtype))
        and block.layout == "channels_first"
        and block.normalize == "keys"
        and block.groups.is_whole
        and is_identity(block.pool)
        and not (block.pools_keys or block.checkpoint or block.selects_keys)
    )


def _operands(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return theta, phi and g as (B, D, N). In place of theta and phi, the concatenation form has a and b, D = 1."""
    dtype, device = x.dtype, x.device
    g = convolution_weights(block.g, dtype, device)
    if g is None or g[0].dim() != x.dim() or g[0].shape[1] != x.shape[1]:
        return None
    if block.pairwise == "gaussian":
        if not (is_identity(block.theta) and is_identity(block.phi)):
            return None
        x_BCN = x.flatten(2)
        return x_BCN, x_BCN, _product(x, Linear(*g)).flatten(2)
    theta, phi = convolution_weights(block.theta, dtype, device), convolution_weights(block.phi, dtype, device)
    if theta is None or phi is None or theta[0].numel() + phi[0].numel() + g[0].numel() > LARGE:
        return None  # `projection.apply` does not copy large weights
    if block.pairwise == "concatenation":
        if not is_linear(block.score, x):
            return None
        theta, phi = folded_scores(block.score, Linear(*theta), Linear(*phi))
    stacked = Linear(torch.cat([theta[0], phi[0], g[0]]), torch.cat([theta[1], phi[1], g[1]]))
    maps = _product(x, stacked).flatten(2)
    theta_BDN, phi_BDN, g_BVN = maps.split_with_sizes([theta[0].shape[0], phi[0].shape[0], g[0].shape[0]], dim=1)
    return theta_BDN, phi_BDN, g_BVN


def _response(block: Any, theta_BDN: Tensor, phi_BDN: Tensor, g_BVN: Tensor) -> Tensor:
    """Return y (B, V, N)."""
    if block.pairwise == "concatenation":
        return concatenation(theta_BDN[:, 0], phi_BDN[:, 0], g_BVN.mT, algorithm="dense").mT
    if block.pairwise == "dot_product":
        return dot_product(theta_BDN.mT, phi_BDN.mT, g_BVN.mT, algorithm=block.algorithm).mT
    return embedded_gaussian(theta_BDN.mT, phi_BDN.mT, g_BVN.mT, scale=block.scale, algorithm="dense").mT


def _product(x: Tensor, linear: Linear) -> Tensor:
    """Return weight @ x + bias for the channels of x (B, C, *size): (B, D, *size)."""
    weight, bias = linear
    if x.shape[0] > 1:
        return CONVOLUTIONS[x.dim() - 3](x, weight, bias)
    width, channels = weight.shape[:2]
    y = torch.baddbmm(bias.view(1, width, 1), weight.view(1, width, channels), x.flatten(2))
    return y.view(1, width, *x.shape[2:])
