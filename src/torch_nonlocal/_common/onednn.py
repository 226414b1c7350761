"""Convolutions by oneDNN, called by name.

With one thread, PyTorch computes most convolutions of fewer than 16 images with kernels of its own. On CPUs with
AVX-512, those of oneDNN take half the time. With more threads, PyTorch calls oneDNN itself.
"""

import os

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import autocast_dtype
from torch_nonlocal._common.tracing import needs_plain_operations

_LEAST = 2**23  # multiply-adds from which the call of oneDNN costs little
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
        and torch.get_num_threads() == 1
        and _is_wide()
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not needs_plain_operations(x)
        and torch.autograd.forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0  # pyright: ignore[reportAttributeAccessIssue] FLOP counters
        and autocast_dtype(x.device) is None
    )


def convolution_1x1(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a 1x1 convolution of x (B, C, *size) with a weight (D, C, 1, ...): (B, D, *size)."""
    axes = x.dim() - 2
    return torch.mkldnn_convolution(x, weight, bias, [0] * axes, [1] * axes, [1] * axes, 1)


def _is_wide() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in _NARROW
    )
