"""Several 1x1 convolutions of one map as one matrix product.

theta, phi and g have the same input. One product with their stacked weights reads it once. Modules with hooks,
parametrizations or adapters, and modules of other classes, are called instead.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tracing import needs_plain_operations

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Linear(NamedTuple):
    """The weight (D, C) and the bias (D,) of a 1x1 convolution."""

    weight: Tensor
    bias: Tensor


def project(x: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return the outputs of the modules for a map x (B, C, *size), each (B, D, *size)."""
    plain = [linear(module) for module in modules]
    if needs_plain_operations(x) or any(one is None for one in plain):
        return [module(x) for module in modules]
    return apply(x, [one for one in plain if one is not None])


def apply(x: Tensor, linears: Sequence[Linear]) -> list[Tensor]:
    """Apply linear maps to the channels of x (B, C, *size) in one product, each (B, D, *size)."""
    weight_DC = torch.cat([one.weight for one in linears]) if len(linears) > 1 else linears[0].weight
    bias_D = torch.cat([one.bias for one in linears]) if len(linears) > 1 else linears[0].bias
    batch, size = x.shape[0], x.shape[2:]
    stacked = torch.baddbmm(bias_D[None, :, None], weight_DC.expand(batch, -1, -1), x.flatten(2))
    parts = stacked.split([one.weight.shape[0] for one in linears], dim=1)
    return [part.unflatten(2, size) for part in parts]


def linear(module: nn.Module) -> Linear | None:
    """Return the weight and bias of an ordinary 1x1 convolution, or None for other modules."""
    if type(module) not in _CONVS or _has_hooks(module) or module.bias is None:
        return None
    return Linear(module.weight.flatten(1), module.bias)  # pyright: ignore[reportArgumentType, reportCallIssue]


def with_norm(module: nn.Module, norm: Any) -> Linear | None:
    """Merge a 1x1 convolution and the batch norm after it in eval mode. None if the norm depends on its input."""
    conv = linear(module)
    if conv is None or norm.training or _has_hooks(norm):
        return None
    if type(norm) is nn.Identity:
        return conv
    if type(norm) not in _BATCH_NORMS or norm.running_mean is None or norm.weight is None:
        return None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return Linear(conv.weight * factor[:, None], (conv.bias - norm.running_mean) * factor + norm.bias)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
