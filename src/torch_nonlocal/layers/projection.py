"""Several 1x1 convolutions of one map as one matrix product.

theta, phi and g have the same input. One product with their stacked weights reads it once. Children that are not
ordinary (`layers.ordinary`) are called instead.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.onednn import convolution_1x1, is_faster_by_name
from torch_nonlocal._common.tracing import needs_plain_operations
from torch_nonlocal.layers.ordinary import convolution_weights, is_fixed_norm, is_untouched

LARGE = 2**17
"""Number of elements from which memory traffic costs more than calling a few more operations."""

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
FULL = (torch.float32, torch.float64)


class Linear(NamedTuple):
    """The weight (D, C), which may have axes of size 1 after them, and the bias (D,) of a 1x1 convolution."""

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
    """Apply linear maps to the channels of x (B, C, *size), each (B, D, *size)."""
    if len(linears) == 1:
        return [_product(x, *linears[0])]
    widths = [one.weight.shape[0] for one in linears]
    outputs = sum(widths)
    weights, values = outputs * x.shape[1], outputs * x.shape[0] * math.prod(x.shape[2:])
    if weights > LARGE and 4 * weights > values:  # copying them to stack them takes longer than reading x several times
        return [_product(x, *one) for one in linears]
    stacked = _product(x, torch.cat([one.weight for one in linears]), torch.cat([one.bias for one in linears]))
    return list(stacked.split_with_sizes(widths, dim=1))


def _product(x: Tensor, weight: Tensor, bias_D: Tensor) -> Tensor:
    """Return weight @ x + bias for the channels of x (B, C, *size): (B, D, *size).

    A batched product has one gradient of the weight per batch item. A convolution has a single one, and so has a
    product of all positions.
    """
    (batch, channels, *size), width = x.shape, weight.shape[0]
    if is_faster_by_name(x, weight):
        return convolution_1x1(x, weight.view(width, channels, *(1,) * len(size)), bias_D)
    if _convolves(x):
        return CONVOLUTIONS[len(size) - 1](x, weight.view(width, channels, *(1,) * len(size)), bias_D)
    weight_DC, positions = weight.view(width, channels), x.flatten(2)
    if batch > 1 and weight.numel() > (channels + width) * positions.shape[2]:
        return F.linear(positions.mT, weight_DC, bias_D).mT.unflatten(2, size)
    return torch.baddbmm(bias_D.view(1, width, 1), weight_DC.expand(batch, -1, -1), positions).unflatten(2, size)


def _convolves(x: Tensor) -> bool:
    """Whether the product is computed as a convolution, which CPUs run at least as fast for batches.

    The gradient of a product takes more operations, which small maps wait for. With several threads, PyTorch leaves
    convolutions of large maps to oneDNN.
    """
    if x.device.type != "cpu" or x.dtype not in FULL:
        return False
    several = x.shape[0] > 1 or (x.numel() >= LARGE and torch.get_num_threads() > 1)
    return several or (torch.is_grad_enabled() and x.numel() < LARGE)


def linears(modules: Sequence[nn.Module], x: Tensor) -> list[Linear] | None:
    """Return the weights and biases of ordinary 1x1 convolutions with the input x, or None if one is not ordinary."""
    found, dtype, device = [], x.dtype, x.device
    for module in modules:
        weights = convolution_weights(module, dtype, device)
        if weights is None:
            return None
        found.append(Linear(*weights))
    return found


def with_norm(module: nn.Module, norm: Any, x: Tensor) -> Linear | None:
    """Merge a 1x1 convolution with the input x and the batch norm after it in eval mode.

    None if the norm depends on its input, if one of the two is not ordinary, or if the norm of a small map is cheaper.
    """
    if norm.training or (x.numel() < LARGE and norm._buffers):
        return None
    plain = linears([module], x)
    if plain is None:
        return None
    conv = plain[0]
    if is_fixed_norm(norm, conv.weight):
        if x.numel() < conv.weight.numel():
            return None
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return Linear(conv.weight.flatten(1) * factor[:, None], (conv.bias - norm.running_mean) * factor + norm.bias)
    return conv if type(norm) is nn.Identity and is_untouched(norm) else None
