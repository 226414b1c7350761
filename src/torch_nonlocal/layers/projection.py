"""Several 1x1 convolutions of one map as one matrix product.

theta, phi and g have the same input. One product with their stacked weights reads it once. Children that are not
ordinary (`layers.ordinary`) are called instead.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tracing import needs_plain_operations
from torch_nonlocal.layers.ordinary import convolution_weights, is_fixed_norm, is_untouched


class Linear(NamedTuple):
    """The weight (D, C) and the bias (D,) of a 1x1 convolution."""

    weight: Tensor
    bias: Tensor


def project(x: Tensor, modules: Sequence[nn.Module], *, contiguous: bool = False) -> list[Tensor]:
    """Return the outputs of the modules for a map x (B, C, *size), each (B, D, *size).

    Args:
        x: the map.
        modules: 1x1 convolutions, or modules that take their places.
        contiguous: give modules that are called a contiguous map. Code in their hooks may not expect other strides,
            such as the per-sample gradients of Opacus.
    """
    if needs_plain_operations(x):
        return [module(x) for module in modules]
    plain = linears(modules, x)
    if plain is not None:
        return apply(x, plain)
    x = x.contiguous() if contiguous else x
    return [module(x) for module in modules]


def apply(x: Tensor, linears: Sequence[Linear]) -> list[Tensor]:
    """Apply linear maps to the channels of x (B, C, *size) in one product, each (B, D, *size)."""
    weight_DC = torch.cat([one.weight for one in linears]) if len(linears) > 1 else linears[0].weight
    bias_D = torch.cat([one.bias for one in linears]) if len(linears) > 1 else linears[0].bias
    batch, size = x.shape[0], x.shape[2:]
    stacked = torch.baddbmm(bias_D[None, :, None], weight_DC.expand(batch, -1, -1), x.flatten(2))
    parts = stacked.split([one.weight.shape[0] for one in linears], dim=1)
    return [part.unflatten(2, size) for part in parts]


def linears(modules: Sequence[nn.Module], x: Tensor) -> list[Linear] | None:
    """Return the weights and biases of ordinary 1x1 convolutions with the input x, or None if one is not ordinary."""
    found, dtype, device = [], x.dtype, x.device
    for module in modules:
        weights = convolution_weights(module, dtype, device)
        if weights is None:
            return None
        found.append(Linear(weights[0].flatten(1), weights[1]))
    return found


def with_norm(module: nn.Module, norm: Any, x: Tensor) -> Linear | None:
    """Merge a 1x1 convolution with the input x and the batch norm after it in eval mode.

    None if the norm depends on its input, or if one of the two is not ordinary.
    """
    if norm.training:
        return None
    plain = linears([module], x)
    if plain is None:
        return None
    conv = plain[0]
    if is_fixed_norm(norm, conv.weight):
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return Linear(conv.weight * factor[:, None], (conv.bias - norm.running_mean) * factor + norm.bias)
    return conv if type(norm) is nn.Identity and is_untouched(norm) else None
