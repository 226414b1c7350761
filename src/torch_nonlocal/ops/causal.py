"""Attention that is causal over frames, without a mask: `CausalFrames` says which keys a query sees.

| form          | algorithm       | computation                                                                    |
|---------------|-----------------|--------------------------------------------------------------------------------|
| softmax       | tiled, fused    | one unmasked call per frame; its keys are a prefix (a window), which is a view |
| dot product   | reassociated    | theta_t S_t, where S_t is the running sum of phi^T g over the frames           |
| concatenation | sorted          | sums over O(T) pairs of runs of frames in which every query sees every key     |

The operators here call those of one frame, or of one pair of runs, and add up gradients in place: autograd's gradients
of slices would be as large as their sources. For a causal softmax over T frames, they take half the products of the
whole map.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, T frames.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import without_autocast
from torch_nonlocal.ops import dense, fused, reassociated, sorted, tiled
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator, gradients_like
from torch_nonlocal.ops._second import register_second_gradients
from torch_nonlocal.ops.frames import CausalFrames, visible

_OURS = torch.ops.torch_nonlocal

KEYS = 1024
"""Keys of a part in the backward pass of the fused kernel."""


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    frames: CausalFrames,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
    flash: bool = False,
) -> Tensor:
    """Compute the softmax forms, as `dense.softmax`: (B, N, V). `flash` uses PyTorch's fused kernels."""
    if flash:
        theta_BND, phi_BMD, g_BMV = (tensor.contiguous() for tensor in (theta_BND, phi_BMD, g_BMV))
        if theta_BND.device.type != "cpu":
            return _frame_by_frame(theta_BND, phi_BMD, g_BMV, frames, scale)
    announce()
    options = scale, frames.count, frames.window, flash
    return _OURS.softmax_causal(theta_BND, phi_BMD, g_BMV, key_bias_BM, *options)[0]


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, frames: CausalFrames) -> Tensor:
    """Compute the dot product form, as `dense.dot_product`: (B, N, V).

    It consists of ordinary operations. Half types are computed in float32, as by `reassociated.dot_product`.
    """
    dtype = g_BMV.dtype
    if dtype in (torch.float16, torch.bfloat16):
        with without_autocast(g_BMV.device):
            return _running_sums(theta_BND.float(), phi_BMD.float(), g_BMV.float(), frames).to(dtype)
    return _running_sums(theta_BND, phi_BMD, g_BMV, frames)


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor, frames: CausalFrames) -> Tensor:
    """Compute the concatenation form, as `dense.concatenation`: (B, N, V)."""
    announce()
    keep = torch.is_grad_enabled() and a_BN.requires_grad
    return _OURS.ramp_sum_causal(a_BN, b_BM, g_BMV, frames.count, frames.window, keep)[0]


# --- softmax ---------------------------------------------------------------------------------------------------------


@Operator
def _softmax_causal(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    key_bias: Tensor | None,
    scale: float,
    frames: int,
    window: int | None,
    flash: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and, for the flash kernel, the log sums of the queries."""
    y_BNV, log_sum_BN = g.new_empty((theta.shape[0], theta.shape[1], g.shape[2])), _log_sums(theta, flash)
    for part, seen in CausalFrames(frames, window).parts(theta.shape[1], phi.shape[1]):
        query, key, value = theta[:, part], phi[:, seen], g[:, seen]
        if flash:
            y_BNV[:, part], log_sum_BN[:, part] = _OURS.softmax_flash(query, key, value, scale)
        else:
            bias = None if key_bias is None else key_bias[:, seen]
            y_BNV[:, part] = _OURS.softmax_rows(query, key, value, bias, scale, False)[0]
    return y_BNV, log_sum_BN


@_softmax_causal.register_fake
def _(theta, phi, g, key_bias, scale, frames, window, flash):
    return g.new_empty((theta.shape[0], theta.shape[1], g.shape[2])), _log_sums(theta, flash)


@Operator
def _softmax_causal_backward(
    dy: Tensor,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    key_bias: Tensor | None,
    y: Tensor,
    log_sum: Tensor,
    scale: float,
    frames: int,
    window: int | None,
    flash: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtheta = theta.new_empty(theta.shape)
    dphi, dg = _sums_like(phi), _sums_like(g)
    dbias = _sums_like(phi[..., 0]) if key_bias is not None else phi.new_zeros((phi.shape[0], 0))
    for part, seen in CausalFrames(frames, window).parts(theta.shape[1], phi.shape[1]):
        if flash:
            dtheta[:, part] = _flash_gradients_(dphi, dg, (dy, theta, phi, g, y, log_sum), part, seen, scale)
            continue
        bias = None if key_bias is None else key_bias[:, seen]
        inputs = dy[:, part], theta[:, part], phi[:, seen], g[:, seen], bias, tiled._kept(theta, 0, 0, False)
        found = _OURS.softmax_rows_backward(*inputs, scale)
        dtheta[:, part] = found[0]
        for total, part_of_it in zip((dphi, dg, dbias), found[1:], strict=False):
            if part_of_it.shape[1]:
                total[:, seen] += part_of_it
    return dtheta, dphi.to(phi.dtype), dg.to(g.dtype), dbias.to(phi.dtype)


def _flash_gradients_(
    dphi: Tensor, dg: Tensor, inputs: tuple[Tensor, ...], part: slice, seen: slice, scale: float
) -> Tensor:
    """Add the gradients of the keys and values that a frame sees, and return that of its queries.

    With the log sums of the queries, the kernel takes any part of the keys. It returns gradients of keys for each of
    its heads, which are small for a part.
    """
    dy, theta, phi, g, y, log_sum = inputs
    query = dy[:, part], theta[:, part]
    result = y[:, part], log_sum[:, part]
    dquery = _sums_like(query[1])
    for start in range(seen.start, seen.stop, KEYS):
        keys = slice(start, min(start + KEYS, seen.stop))
        dquery_part, dkey, dvalue = _OURS.softmax_flash_backward(*query, phi[:, keys], g[:, keys], *result, scale)
        dquery += dquery_part
        dphi[:, keys] += dkey
        dg[:, keys] += dvalue
    return dquery


@_softmax_causal_backward.register_fake
def _(dy, theta, phi, g, key_bias, y, log_sum, scale, frames, window, flash):
    return gradients_like(theta, phi, g, key_bias)


def _softmax_setup(ctx, inputs, output):
    *tensors, ctx.scale, ctx.frames, ctx.window, ctx.flash = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _softmax_gradients(ctx, dy, _dlog_sum):
    if dy is None:
        return (None,) * 8
    theta, phi, g, key_bias, y, log_sum = ctx.saved_tensors
    options = ctx.scale, ctx.frames, ctx.window, ctx.flash
    gradients = _OURS.softmax_causal_backward(dy, theta, phi, g, key_bias, y, log_sum, *options)
    return *gradients[:3], None if key_bias is None else gradients[3], *(None,) * 4


_softmax_causal.register_autograd(_softmax_gradients, setup_context=_softmax_setup)
register_second_gradients(_softmax_causal_backward, normalize="keys", scale_at=7)


def _frame_by_frame(theta: Tensor, phi: Tensor, g: Tensor, frames: CausalFrames, scale: float) -> Tensor:
    """Call PyTorch's kernels for each frame. Used on CUDA, where they are no operators of this package."""
    parts = frames.parts(theta.shape[1], phi.shape[1])
    return torch.cat([fused.softmax(theta[:, p], phi[:, seen], g[:, seen], scale=scale) for p, seen in parts], 1)


def _log_sums(theta: Tensor, flash: bool) -> Tensor:
    size = (theta.shape[0], theta.shape[1] if flash else 0)
    return theta.new_empty(size, dtype=torch.promote_types(theta.dtype, torch.float32))


# --- dot product -----------------------------------------------------------------------------------------------------


def _running_sums(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, frames: CausalFrames) -> Tensor:
    queries, keys = theta_BND.shape[1], phi_BMD.shape[1]
    if reassociated.map_is_cheaper(queries, keys, theta_BND.shape[2], g_BMV.shape[2]):
        return dense.dot_product(theta_BND, phi_BMD, g_BMV, visible(frames, theta_BND, phi_BMD))
    theta_BTnD, phi_BTmD, g_BTmV = (t.unflatten(1, (frames.count, -1)) for t in (theta_BND, phi_BMD, g_BMV))
    per_frame_BTDV = phi_BTmD.mT @ (g_BTmV / (keys // frames.count))
    if frames.window is None:
        sum_BTDV = per_frame_BTDV.cumsum(1)
    else:  # not a difference of two running sums, in which the digits of a small window would cancel
        sum_BTDV = per_frame_BTDV.clone()
        for delay in range(1, min(frames.window, frames.count)):
            sum_BTDV[:, delay:] += per_frame_BTDV[:, :-delay]
    seen_T = frames.seen_keys(torch.arange(frames.count, device=g_BMV.device), frames.count, frames.count)
    return (theta_BTnD @ (sum_BTDV / seen_T[:, None, None])).flatten(1, 2)


# --- concatenation ---------------------------------------------------------------------------------------------------


@Operator
def _ramp_sum_causal(
    a: Tensor, b: Tensor, g: Tensor, frames: int, window: int | None, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y and, with `keep`, its derivative with respect to a_i."""
    causal = CausalFrames(frames, window)
    y_BNV = _wide_zeros(g, (g.shape[0], a.shape[1], g.shape[2]))
    flat_BNV = _wide_zeros(g, (g.shape[0], a.shape[1] if keep else 0, g.shape[2]))
    for part, seen, share_R1 in _shares(causal, a, b):
        y, flat = _OURS.ramp_sum(a[:, part], b[:, seen], g[:, seen], keep)
        y_BNV[:, part].addcmul_(y, share_R1)
        if keep:
            flat_BNV[:, part].addcmul_(flat, share_R1 / (seen.stop - seen.start))
    return y_BNV.to(g.dtype), flat_BNV


@_ramp_sum_causal.register_fake
def _(a, b, g, frames, window, keep):
    flat = g.new_empty((g.shape[0], a.shape[1] if keep else 0, g.shape[2]), dtype=_wide(g))
    return g.new_empty((g.shape[0], a.shape[1], g.shape[2])), flat


@Operator
def _ramp_sum_causal_backward(
    dy: Tensor, a: Tensor, b: Tensor, g: Tensor, flat: Tensor, frames: int, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    da = (flat * dy).sum(2) if flat.shape[1] else torch.zeros_like(a)
    db, dg = _sums_like(b), _sums_like(g)
    for part, seen, share_R1 in _shares(CausalFrames(frames, window), a, b):
        weighted = (dy[:, part] * share_R1).to(dy.dtype)
        _, db_part, dg_part = _OURS.ramp_sum_backward(weighted, a[:, part], b[:, seen], g[:, seen], flat[:, :0])
        db[:, seen] += db_part
        dg[:, seen] += dg_part
    return da.to(a.dtype), db.to(b.dtype), dg.to(g.dtype)


@_ramp_sum_causal_backward.register_fake
def _(dy, a, b, g, flat, frames, window):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (a, b, g))


def _ramp_setup(ctx, inputs, output):
    *tensors, ctx.frames, ctx.window, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _ramp_gradients(ctx, dy, _dflat):
    if dy is None:
        return (None,) * 6
    a, b, g, flat = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_differentiable_gradients(dy, a, b, g, CausalFrames(ctx.frames, ctx.window)), *(None,) * 3
    return *_OURS.ramp_sum_causal_backward(dy, a, b, g, flat, ctx.frames, ctx.window), *(None,) * 3


_ramp_sum_causal.register_autograd(_ramp_gradients, setup_context=_ramp_setup)


def _differentiable_gradients(dy: Tensor, a: Tensor, b: Tensor, g: Tensor, frames: CausalFrames) -> tuple[Any, ...]:
    """Return the gradients as those of the sums over pairs of runs, which have derivatives of any order."""
    sources = [tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in (a, b, g)]
    a, b, g = sources
    y = g.new_zeros(dy.shape, dtype=_wide(g))
    for part, seen, share_R1 in _shares(frames, a, b):
        y[:, part] += sorted.concatenation(a[:, part], b[:, seen], g[:, seen]) * share_R1
    return torch.autograd.grad(y, sources, dy.to(y.dtype), create_graph=True)


def _shares(frames: CausalFrames, a_BN: Tensor, b_BM: Tensor) -> list[tuple[slice, slice, Tensor]]:
    """Pairs of runs, and the share of the run in the keys that each query of it sees, (R, 1).

    The sums of one pair of runs are divided by its number of keys, so that they do not exceed the range of half types.
    """
    queries, keys = a_BN.shape[1], b_BM.shape[1]
    seen_N = frames.seen_keys(torch.arange(queries, device=a_BN.device), queries, keys)
    share_N1 = 1 / seen_N.to(_wide(a_BN)).unsqueeze(1)
    return [(p, seen, share_N1[p] * (seen.stop - seen.start)) for p, seen in frames.rectangles(queries, keys)]


# --- shared functions ------------------------------------------------------------------------------------------------


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wide_zeros(like: Tensor, size: tuple[int, ...]) -> Tensor:
    return like.new_zeros(size, dtype=_wide(like))


def _sums_like(tensor: Tensor) -> Tensor:
    return _wide_zeros(tensor, tuple(tensor.shape))


@flop_formula(_OURS.softmax_causal)
def _softmax_flops(theta, phi, g, _bias, _scale, frames, window, *_, out_shape=None, **__):
    return _products(theta, phi, g, frames, window, of_theta=1, of_g=1)


@flop_formula(_OURS.softmax_causal_backward)
def _softmax_backward_flops(_dy, theta, phi, g, _bias, _y, _sums, _scale, frames, window, *_, out_shape=None, **__):
    return _products(theta, phi, g, frames, window, of_theta=3, of_g=2)


@flop_formula(_OURS.ramp_sum_causal)
def _ramp_flops(a, b, g, frames, window, *_, out_shape=None, **__):
    runs = CausalFrames(frames, window).rectangles(a[1], b[1])
    return g[0] * g[2] * sum(3 * _length(seen) + 2 * _length(part) for part, seen in runs)


@flop_formula(_OURS.ramp_sum_causal_backward)
def _ramp_backward_flops(_dy, a, b, g, _flat, frames, window, *_, out_shape=None, **__):
    runs = CausalFrames(frames, window).rectangles(a[1], b[1])
    return g[0] * g[2] * sum(5 * _length(part) + 4 * _length(seen) for part, seen in runs)


def _products(theta, phi, g, frames, window, *, of_theta: int, of_g: int) -> int:
    pairs = CausalFrames(frames, window).pairs(theta[1], phi[1])
    return 2 * theta[0] * pairs * (of_theta * theta[2] + of_g * g[2])


def _length(run: slice) -> int:
    return run.stop - run.start
