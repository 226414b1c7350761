"""Softmax over keys with PyTorch's fused attention kernels, in memory linear in N + M.

On CPUs, an operator of this package calls the flash kernel. PyTorch's public function silently builds the N x M map if
a last axis is strided, and FLOP counters do not see the kernel. The kernel needs token-major memory, (B, N, D) with
contiguous D; channel-major inputs are copied. On CUDA, the public function chooses among its kernels, with its fallback
to the N x M map disabled.

Shapes: B batch, N query positions, M key positions, D width of theta, phi and g.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from torch_nonlocal._common.tracing import has_values
from torch_nonlocal.ops import kernels, tiled
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator
from torch_nonlocal.ops._second import register_second_gradients

_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
_LINEAR_MEMORY = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

WIDE = 512
"""Smallest width D at which tiles that keep their weights, and on CUDA all tiles, are faster than the kernel."""

MOST_HEADS = 4
"""Largest number of heads that the queries are split into. In backward, each head holds gradients of all keys."""


def can_run(device: torch.device, dtype: torch.dtype, width: int, values: int) -> bool:
    """Return whether PyTorch's kernel supports the inputs and has passed its check (`ops.kernels`)."""
    return kernels.why_not(KERNEL, device, dtype, width, values, training=True) is None


def _cannot_run(device: torch.device, dtype: torch.dtype, width: int, values: int) -> str | None:
    """Return why no kernel with linear memory supports the inputs, or None.

    All need equal widths. On CUDA, the width must be a multiple of 8, and float64 is not supported.
    """
    if width != values:
        return "the widths differ"
    if device.type == "cpu":
        return "this version of PyTorch lacks it" if _FLASH is None or _FLASH_BACKWARD is None else None
    if device.type != "cuda":
        return f"it has no kernel for {device.type}"
    return "float64 is not supported" if dtype == torch.float64 else "D is not a multiple of 8" if width % 8 else None


def _wins(device: torch.device, width: int) -> bool:
    """Return whether the kernel is at least as fast as the tiled algorithm.

    On CPUs it is, as measured at widths 64 to 512. On CUDA (H100, docs/benchmark.md) it is up to a width of 256; for
    wider heads PyTorch uses a kernel that is slower than tiles.
    """
    return device.type == "cpu" or width < WIDE


def _run(*inputs: Tensor, scale: float) -> Tensor:
    return softmax(*inputs, scale=scale)


KERNEL = kernels.Kernel("PyTorch's fused attention kernel", _cannot_run, _run, _wins)
kernels.register(KERNEL)


def softmax(theta_BND: Tensor, phi_BMD: Tensor, g_BMD: Tensor, *, scale: float = 1.0) -> Tensor:
    """Compute the softmax forms over keys, as `dense.softmax`: (B, N, D)."""
    # Copied outside the operator, so that autograd keeps the copies for backward.
    theta_BND, phi_BMD, g_BMD = (tensor.contiguous() for tensor in (theta_BND, phi_BMD, g_BMD))
    if theta_BND.device.type == "cpu":
        announce()
        return torch.ops.torch_nonlocal.softmax_flash(theta_BND, phi_BMD, g_BMD, scale)[0]
    if not theta_BND.numel():  # the kernels refuse empty tensors
        return tiled.softmax(theta_BND, phi_BMD, g_BMD, scale=scale)
    query, key, value = (tensor.unsqueeze(1) for tensor in (theta_BND, phi_BMD, g_BMD))
    with sdpa_kernel(_LINEAR_MEMORY):
        y = F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1)
    if not y.requires_grad or torch.compiler.is_compiling():
        return y
    return _TwiceDifferentiable.apply(y, theta_BND, phi_BMD, g_BMD, scale)


class _TwiceDifferentiable(torch.autograd.Function):
    """The identity of an output of PyTorch's kernels, which have no second derivative.

    If a graph of the gradients is asked for, they are those of the tiled algorithm and the kernel has none.
    """

    @staticmethod
    def forward(ctx, y, theta, phi, g, scale):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(theta, phi, g)
        ctx.scale = scale
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        if not torch.is_grad_enabled():
            return dy, None, None, None, None
        inputs = ctx.saved_tensors
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        y = tiled.softmax(*inputs, scale=ctx.scale)
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
        return None, *(next(found) if tensor.requires_grad else None for tensor in inputs), None


@Operator
def _softmax_flash(theta: Tensor, phi: Tensor, g: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Run the kernel with the queries split into heads: the kernel divides its work among threads by head."""
    batch, queries, _ = theta.shape
    if not theta.numel():  # the kernel divides by the sizes
        return _empty_outputs(theta, g)
    heads = _head_count(batch)
    keys = _expand_heads(heads, phi, g)
    y, log_sum = _FLASH(_split_heads(theta, heads), *keys, scale=scale)  # pyright: ignore[reportOptionalCall]
    y_BND, log_sum_BN = _join_heads(y, queries), _join_heads(log_sum.unsqueeze(3), queries).squeeze(2)
    _restore_nan_(y_BND, log_sum_BN, theta, phi)
    return y_BND, log_sum_BN


@_softmax_flash.register_fake
def _(theta, phi, g, scale):
    return _empty_outputs(theta, g)


@Operator
def _softmax_flash_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, y: Tensor, log_sum: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, _ = theta.shape
    if not dy.numel():
        return torch.zeros_like(theta), torch.zeros_like(phi), torch.zeros_like(g)
    heads = _head_count(batch)
    dy, theta, y, log_sum = (_split_heads(tensor, heads) for tensor in (dy, theta, y, log_sum.unsqueeze(2)))
    arguments = dy, theta, *_expand_heads(heads, phi, g), y, log_sum.squeeze(3), 0.0, False
    dtheta, *of_keys = _FLASH_BACKWARD(*arguments, scale=scale)  # pyright: ignore[reportOptionalCall]
    dg, dphi = (of_keys.pop().sum(1) for _ in range(2))  # summed over heads, one tensor at a time to limit memory
    return _join_heads(dtheta, queries), dphi, dg


@_softmax_flash_backward.register_fake
def _(dy, theta, phi, g, y, log_sum, scale):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (theta, phi, g))


def _empty_outputs(theta: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    log_sum = theta.new_empty(theta.shape[:2], dtype=torch.promote_types(theta.dtype, torch.float32))
    return theta.new_empty((theta.shape[0], theta.shape[1], g.shape[2])), log_sum


def _restore_nan_(y_BND: Tensor, log_sum_BN: Tensor, theta_BND: Tensor, phi_BMD: Tensor) -> None:
    """Write NaN where the definition has it.

    If all logits of a query are NaN or -inf, the kernel returns zeros and the log sum 0. If one is +inf, its log sum is
    +inf, and outputs and gradients may be finite.
    """
    if not has_values(log_sum_BN):
        return
    flat = log_sum_BN.flatten()
    if math.isfinite(flat.dot(flat.reciprocal())):  # one operation finds zeros, infinities and NaN
        return
    first_logit_BN = (theta_BND * phi_BMD[:, :1]).sum(2)
    missed_BN = (log_sum_BN == 0) & ~first_logit_BN.isfinite() & (y_BND == 0).all(2)
    log_sum_BN.masked_fill_(missed_BN | (log_sum_BN == torch.inf), torch.nan)
    y_BND.masked_fill_(log_sum_BN.isnan().unsqueeze(2), torch.nan)


def _head_count(batch: int) -> int:
    return max(1, min(MOST_HEADS, torch.get_num_threads() // batch))


def _split_heads(tensor_BNC: Tensor, heads: int) -> Tensor:
    """Split queries into heads, (B, N, C) -> (B, heads, N / heads, C); head h gets the queries h, h + heads, ...

    Zeros pad the last query of a head; they contribute nothing to gradients. The result is token-major, since the
    kernel silently misreads other strides of the last axis. The kernel writes its outputs as (B, N / heads, heads, C),
    so that `_join_heads` needs no copy.
    """
    missing = -tensor_BNC.shape[1] % heads
    padded = F.pad(tensor_BNC, (0, 0, 0, missing)) if missing else tensor_BNC
    return padded.contiguous().unflatten(1, (-1, heads)).transpose(1, 2)


def _expand_heads(heads: int, *tensors_BMC: Tensor) -> list[Tensor]:
    """Expand keys to all heads without a copy, (B, M, C) -> (B, heads, M, C), token-major.

    The kernel takes any strides of batch items and positions, such as those of a part of the keys.
    """
    token_major = [tensor if tensor.stride(2) == 1 else tensor.contiguous() for tensor in tensors_BMC]
    return [tensor.unsqueeze(1).expand(-1, heads, -1, -1) for tensor in token_major]


def _join_heads(tensor_BHNC: Tensor, positions: int) -> Tensor:
    """Join the heads and drop the padding, (B, heads, N / heads, C) -> (B, N, C)."""
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
register_second_gradients(_softmax_flash_backward, normalize="keys")


@flop_formula(torch.ops.torch_nonlocal.softmax_flash)
def _flops(theta, phi, g, *_, out_shape=None, **__):
    return 4 * theta[0] * theta[1] * phi[1] * theta[2]


@flop_formula(torch.ops.torch_nonlocal.softmax_flash_backward)
def _backward_flops(_dy, theta, phi, *_, out_shape=None, **__):
    """Count five products, one of which recomputes the logits."""
    return 10 * theta[0] * theta[1] * phi[1] * theta[2]
