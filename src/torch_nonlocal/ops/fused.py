"""Softmax over keys by PyTorch's fused attention kernels: linear memory, tiles in the caches.

On CPU the flash kernel is called directly, inside an operator of our own: the public function would fall back to the
N x M map without a word where a last axis is strided, and FLOP counters see nothing of it. It needs token-major
memory, (B, N, D) with D contiguous, so channel-major inputs are copied. On CUDA the public function chooses among its
kernels, and its fall-back to the map is switched off.

Shapes: B batch, N query positions, M key positions, D width of theta, phi and g alike.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from torch_nonlocal.ops._errors import refuse_second_derivative
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator

_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
_LINEAR_MEMORY = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

MOST_HEADS = 4
"""Shares that the queries are cut into: in backward, each has its own gradients of all keys, added up at the end."""


def can_run(device: torch.device, dtype: torch.dtype, width: int, values: int) -> bool:
    """Whether a kernel of linear memory takes these inputs: equal widths; on CUDA no float64 and a multiple of 8."""
    if width != values:
        return False
    if device.type == "cpu":
        return _FLASH is not None and _FLASH_BACKWARD is not None
    return device.type == "cuda" and dtype != torch.float64 and width % 8 == 0


def softmax(theta_BND: Tensor, phi_BMD: Tensor, g_BMD: Tensor, *, scale: float = 1.0) -> Tensor:
    """Softmax over keys, as `dense.softmax`: (B, N, D)."""
    # copied here, not in the operator: autograd then keeps the copies for backward instead of making them again
    theta_BND, phi_BMD, g_BMD = (tensor.contiguous() for tensor in (theta_BND, phi_BMD, g_BMD))
    if theta_BND.device.type == "cpu":
        announce()
        return torch.ops.torch_nonlocal.softmax_flash(theta_BND, phi_BMD, g_BMD, scale)[0]
    query, key, value = (tensor.unsqueeze(1) for tensor in (theta_BND, phi_BMD, g_BMD))
    with sdpa_kernel(_LINEAR_MEMORY):
        return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1)


@Operator
def _softmax_flash(theta: Tensor, phi: Tensor, g: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The kernel's work is even over its heads, and has but one here: each thread gets one, a share of the queries."""
    batch, queries, _ = theta.shape
    heads = _head_count(batch)
    keys = _for_all(heads, phi, g)
    y, log_sum = _FLASH(_shares(theta, heads), *keys, scale=scale)  # pyright: ignore[reportOptionalCall]
    return _together(y, queries), _together(log_sum.unsqueeze(3), queries).squeeze(2)


@_softmax_flash.register_fake
def _(theta, phi, g, scale):
    log_sum = theta.new_empty(theta.shape[:2], dtype=torch.promote_types(theta.dtype, torch.float32))
    return theta.new_empty(theta.shape[0], theta.shape[1], g.shape[2]), log_sum


@Operator
def _softmax_flash_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, y: Tensor, log_sum: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, _ = theta.shape
    heads = _head_count(batch)
    dy, theta, y, log_sum = (_shares(tensor, heads) for tensor in (dy, theta, y, log_sum.unsqueeze(2)))
    arguments = dy, theta, *_for_all(heads, phi, g), y, log_sum.squeeze(3), 0.0, False
    dtheta, *of_keys = _FLASH_BACKWARD(*arguments, scale=scale)  # pyright: ignore[reportOptionalCall]
    dg, dphi = (of_keys.pop().sum(1) for _ in range(2))  # each share has its own: one at a time, for memory
    return _together(dtheta, queries), dphi, dg


@_softmax_flash_backward.register_fake
def _(dy, theta, phi, g, y, log_sum, scale):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (theta, phi, g))


def _head_count(batch: int) -> int:
    return max(1, min(MOST_HEADS, torch.get_num_threads() // batch))


def _shares(tensor_BNC: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N / heads, C), every heads-th query; zeros fill up the last and add nothing to gradients.

    Token-major: the kernel reads another last stride wrongly, without an error. Its own outputs lie in memory as
    (B, N / heads, heads, C), so that queries dealt out this way need no copy to be together again.
    """
    missing = -tensor_BNC.shape[1] % heads
    padded = F.pad(tensor_BNC, (0, 0, 0, missing)) if missing else tensor_BNC
    return padded.contiguous().unflatten(1, (-1, heads)).transpose(1, 2)


def _for_all(heads: int, *tensors_BMC: Tensor) -> list[Tensor]:
    """(B, M, C) -> (B, heads, M, C), token-major, the same memory for all heads."""
    return [tensor.contiguous().unsqueeze(1).expand(-1, heads, -1, -1) for tensor in tensors_BMC]


def _together(tensor_BHNC: Tensor, positions: int) -> Tensor:
    """(B, heads, N / heads, C) -> (B, N, C): the shares back in one, without what filled up the last."""
    return tensor_BHNC.transpose(1, 2).flatten(1, 2)[:, :positions].contiguous()


def _setup(ctx, inputs, output):
    theta, phi, g, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(theta, phi, g, *output)


def _gradients(ctx, dy, _dlog_sum):
    if dy is None:
        return (None,) * 4
    return *torch.ops.torch_nonlocal.softmax_flash_backward(dy, *ctx.saved_tensors, ctx.scale), None


_softmax_flash.register_autograd(_gradients, setup_context=_setup)
refuse_second_derivative(_softmax_flash_backward)


@flop_formula(torch.ops.torch_nonlocal.softmax_flash)
def _flops(theta, phi, g, *_, out_shape=None, **__):
    return 4 * theta[0] * theta[1] * phi[1] * theta[2]


@flop_formula(torch.ops.torch_nonlocal.softmax_flash_backward)
def _backward_flops(_dy, theta, phi, *_, out_shape=None, **__):
    """Five products, one of them the recomputed logits."""
    return 10 * theta[0] * theta[1] * phi[1] * theta[2]
