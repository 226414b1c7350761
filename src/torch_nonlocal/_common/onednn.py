"""Convolutions by oneDNN, called by name.

With one thread, PyTorch computes most convolutions of fewer than 16 images with kernels of its own. On CPUs with
AVX-512, those of oneDNN take half the time. With more threads, PyTorch calls oneDNN itself.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_plain_call

_LEAST = 2**23  # multiply-adds from which the call of oneDNN costs little
_LEAST_POSITIONS = 96  # in training; for fewer, copies of the weight take longer than its gradient
_NARROW = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")  # values of ONEDNN_MAX_CPU_ISA, below AVX-512


def is_faster_by_name(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN called by name computes a 1x1 convolution of x (B, C, *size) faster than `torch.nn.functional`.

    False for calls that are recorded, transformed or observed, and for dtypes and devices that it does not support.
    """
    return (
        x.dtype == torch.float32
        and x.shape[0] < 16
        and x.device.type == "cpu"
        and x.numel() * weight.shape[0] >= _LEAST
        and (x.numel() >= _LEAST_POSITIONS * x.shape[1] or not torch.is_grad_enabled())
        and torch.get_num_threads() == 1
        and _is_wide()
        and is_plain_call(x)
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0  # pyright: ignore[reportAttributeAccessIssue] FLOP counters
    )


def convolution_1x1(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a 1x1 convolution of x (B, C, *size) with a weight (D, C, 1, ...): (B, D, *size)."""
    axes = x.dim() - 2
    return convolution(x, weight, bias, [0] * axes, [1] * axes, [1] * axes, 1)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Compute a convolution in float32 on a CPU by oneDNN, as `torch.nn.functional.conv3d` and its kind do.

    It has derivatives of any order, but none in forward mode. The gradient of x is a convolution by oneDNN, too, if the
    stride is 1.
    """
    return _Convolution.apply(x, weight, bias, padding, stride, dilation, groups)  # pyright: ignore[reportReturnType]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return torch.mkldnn_convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        found: list[Tensor | None] = [
            _gradient_of_x(grad, weight, *ctx.geometry) if of_x else None,
            _gradient_of_weight(grad, x, weight, *ctx.geometry) if of_weight else None,
            grad.sum((0, *range(2, grad.dim()))) if of_bias else None,
        ]
        rest = of_x and found[0] is None, of_weight and found[1] is None, False
        if any(rest):
            padding, stride, dilation, groups = ctx.geometry
            others = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, rest
            )
            found = [other if missing else one for one, other, missing in zip(found, others, rest, strict=True)]
        return *found, None, None, None, None


def _gradient_of_x(
    grad: Tensor, weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor | None:
    """The gradient of the input as a convolution with the flipped weight; None if it is not one."""
    kernel = weight.shape[2:]
    margins = [gap * (size - 1) - pad for gap, size, pad in zip(dilation, kernel, padding, strict=True)]
    if groups != 1 or max(stride) > 1 or min(margins) < 0:
        return None
    flipped = weight.transpose(0, 1)
    if max(kernel) > 1:
        flipped = flipped.flip(*range(2, weight.dim()))
    return convolution(grad, flipped.contiguous(), None, margins, stride, dilation, 1)


def _gradient_of_weight(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """The gradient of the weight of a 1x1 convolution as a product by oneDNN; None otherwise.

    The product has no derivative of its own, so None if the gradient is differentiated.
    """
    one = max(weight.shape[2:]) == max(stride) == groups == 1 and not any(padding)
    if not one or torch.is_grad_enabled() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    grad_DP, x_CP = (given.transpose(0, 1).flatten(1).contiguous() for given in (grad, x))
    return torch.ops.mkldnn._linear_pointwise(grad_DP, x_CP, None, "none", [], "").view(weight.shape)


def _is_wide() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in _NARROW
    )
