"""1x1 convolutions of one map as one matrix product.

theta, phi and g read the same map: stacked, their weights make one product that reads it once. Modules that anybody has
changed (hooks, parametrizations, adapters, another class) are called as they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tracing import needs_plain_operations

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Linear(NamedTuple):
    """A 1x1 convolution as numbers: weight (D, C), bias (D,)."""

    weight: Tensor
    bias: Tensor


def project(x: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """Each module's output for the map x (B, C, *size): (B, D, *size)."""
    plain = [linear(module) for module in modules]
    if needs_plain_operations(x) or any(one is None for one in plain):
        return [module(x) for module in modules]
    return apply(x, [one for one in plain if one is not None])


def apply(x: Tensor, linears: Sequence[Linear]) -> list[Tensor]:
    """Each linear map of x (B, C, *size), in one product: (B, D, *size)."""
    weight_DC = torch.cat([one.weight for one in linears]) if len(linears) > 1 else linears[0].weight
    bias_D = torch.cat([one.bias for one in linears]) if len(linears) > 1 else linears[0].bias
    batch, size = x.shape[0], x.shape[2:]
    stacked = torch.baddbmm(bias_D[None, :, None], weight_DC.expand(batch, -1, -1), x.flatten(2))
    parts = stacked.split([one.weight.shape[0] for one in linears], dim=1)
    return [part.unflatten(2, size) for part in parts]


def linear(module: nn.Module) -> Linear | None:
    """The numbers of an ordinary 1x1 convolution with a bias; None for anything else."""
    if type(module) not in _CONVS or _has_hooks(module) or module.bias is None:
        return None
    return Linear(module.weight.flatten(1), module.bias)  # pyright: ignore[reportArgumentType, reportCallIssue]


def with_norm(module: nn.Module, norm: Any) -> Linear | None:
    """A 1x1 convolution and the norm after it as one, in eval mode; None where the norm depends on its input."""
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
