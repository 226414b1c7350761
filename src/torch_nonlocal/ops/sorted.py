"""Concatenation form without the N x M map, by sorting, prefix sums and one gather.

    y_i = 1 / M sum_j ReLU(a_i + b_j) g_j = (a_i S[k_i] + T[k_i]) / M

With b in descending order, the active keys of query i (b_j > -a_i) are the first k_i. S and T are the prefix sums of g
and of b g. The gradients have the same form with queries and keys exchanged:

    dg_j = (b_j U[l_j] + W[l_j]) / M       U, W: prefix sums of dy and of a dy, with a in descending order
    db_j = g_j . U[l_j] / M                l_j: the number of i with a_i > -b_j
    da_i = dy_i . S[k_i] / M

The time is O((N + M) (log N + V)). Prefix sums are float64 for all input dtypes: in float32, sums over 10^5 positions
lose the digits that remain after a_i S and T cancel. They are computed for one slice of the value channels at a time,
which limits the extra memory to a few slices. As in the definition, a pair with a_i + b_j = 0 is not active, and the
gradient of ReLU is 0 there.

Sliced attention (arXiv 2512.11411) evaluates ReLU(q_i - k_j) kernels with the same sorting.

Shapes: B batch, N query positions, M key positions, V value width, S channels of a slice.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import has_values
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator

SLICE_BYTES = 1 * 2**20  # of one float64 prefix sum, which then stays in the CPU caches between the passes
ACCELERATOR_SLICE_BYTES = 64 * 2**20  # each slice launches a dozen kernels, so accelerators need few large slices


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor) -> Tensor:
    """Compute the concatenation form, as `dense.concatenation`: (B, N, V)."""
    announce()
    keep = torch.is_grad_enabled() and a_BN.requires_grad
    return torch.ops.torch_nonlocal.ramp_sum(a_BN, b_BM, g_BMV, keep)[0]


@Operator
def _ramp_sum(a: Tensor, b: Tensor, g: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Return y and, with `keep`, S[k_i], the derivative of M y_i with respect to a_i."""
    y, flat = _like_channels(g, a.shape[1]), _kept(g, a.shape[1], keep)
    if not y.numel():
        return y, flat
    y_BVN, flat_BVN, g_BVM = y.mT, flat.mT, g.mT
    sums_over, a, b = _sums_over(a, b, g)
    for batch in range(g.shape[0]):
        active = sums_over(a[batch], b[batch], g.shape[1])
        for part in _slices(g):
            flat_SN, y_BVN[batch, part] = active.sums(g_BVM[batch, part])
            if keep:
                flat_BVN[batch, part] = flat_SN
    return y, flat


@_ramp_sum.register_fake
def _(a, b, g, keep):
    return _like_channels(g, a.shape[1]), _kept(g, a.shape[1], keep)


@Operator
def _ramp_sum_backward(dy: Tensor, a: Tensor, b: Tensor, g: Tensor, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dg, keys = _like_channels(g, g.shape[1]), g.shape[1]
    if not dy.numel():
        return torch.zeros_like(a), torch.zeros_like(b), dg.zero_()
    dg_BVM, dy_BVN, g_BVM, flat_BVN = dg.mT, dy.mT, g.mT, flat.mT
    da, db = torch.zeros_like(a, dtype=torch.float64), torch.zeros_like(b, dtype=torch.float64)
    sums_over, a, b = _sums_over(a, b, dy, g)
    for batch in range(g.shape[0]):
        active = sums_over(b[batch], a[batch], keys)
        for part in _slices(g):
            g_SM, dy_SN = g_BVM[batch, part], dy_BVN[batch, part]
            if flat.shape[1]:
                da[batch] += (flat_BVN[batch, part] * dy_SN).sum(0, dtype=torch.float64)
            flat_SM, dg_BVM[batch, part] = active.sums(dy_SN)
            db[batch] += flat_SM.mul_(g_SM).sum(0)
    return (da / keys).to(a.dtype), (db / keys).to(b.dtype), dg


@_ramp_sum_backward.register_fake
def _(dy, a, b, g, flat):
    return torch.empty_like(a), torch.empty_like(b), _like_channels(g, g.shape[1])


def _setup(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], output[1])


def _gradients(ctx, dy, _dflat):
    if dy is None:
        return (None,) * 4
    a, b, g, flat = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *_differentiable_gradients(dy, a, b, g), None
    return *torch.ops.torch_nonlocal.ramp_sum_backward(dy, a, b, g, flat), None


_ramp_sum.register_autograd(_gradients, setup_context=_setup)


def _differentiable_gradients(dy: Tensor, a: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients as products and sums over active pairs, which have derivatives of any order."""
    step_sum = torch.ops.torch_nonlocal.step_sum
    wide_dy, wide_g, keys = dy.double(), g.double(), g.shape[1]
    lowest = torch.finfo(a.dtype).min  # see `_sums_over`
    a_BN1, b_BM1 = (scores.clamp(min=lowest).double().unsqueeze(2) for scores in (a, b))
    of_keys, of_queries = step_sum(a, b, wide_g), step_sum(b, a, wide_dy)
    da, db = (wide_dy * of_keys).sum(2), (wide_g * of_queries).sum(2)
    dg = b_BM1 * of_queries + step_sum(b, a, a_BN1 * wide_dy)
    return (da / keys).to(a.dtype), (db / keys).to(b.dtype), (dg / keys).to(g.dtype)


@Operator
def _step_sum(x: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Return the sums of v_j over the j with x_i + z_j > 0, (B, N, V). It is linear in v, which is float64."""
    sums = _like_channels(v, x.shape[1])
    if not sums.numel() or not v.numel():
        return sums.zero_()
    sums_BVN, v_BVM = sums.mT, v.mT
    sums_over, x, z = _sums_over(x, z, v)
    for batch in range(v.shape[0]):
        active = sums_over(x[batch], z[batch], 1)
        for part in _slices(v):
            sums_BVN[batch, part] = active.sums(v_BVM[batch, part])[0]
    return sums


@_step_sum.register_fake
def _(x, z, v):
    return _like_channels(v, x.shape[1])


def _step_setup(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:2])


def _step_gradients(ctx, dsums):
    x, z = ctx.saved_tensors
    return None, None, None if dsums is None else torch.ops.torch_nonlocal.step_sum(z, x, dsums)


_step_sum.register_autograd(_step_gradients, setup_context=_step_setup)


# --- sums over active pairs ------------------------------------------------------------------------------------------


class _Sorted:
    """Sums over the j with x_i + z_j > 0, for each x_i: the first `count_i` elements of z in descending order.

    `first` is added to all sums: 0 or NaN.
    """

    def __init__(self, x_N: Tensor, z_M: Tensor, total: int, first: Tensor | float = 0.0) -> None:
        order = torch.sort(z_M, descending=True)
        # A leading element, whose value `sums` sets to `first`, is the prefix sum over no keys.
        self.order = torch.nn.functional.pad(order.indices, (1, 0))
        self.z = torch.nn.functional.pad(order.values.double() / total, (1, 0))
        self.x = x_N.double() / total
        self.first = first
        # -z ascends along the sorted axis; the count of -z_j < x_i involves exact comparisons only.
        self.count = torch.searchsorted(-order.values, x_N.contiguous(), right=False)

    def sums(self, v_SM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of v_j and of (x_i + z_j) v_j / total over the active j, each (S, N), float64."""
        v_SM = _columns(v_SM, self.order).double()
        v_SM[:, 0] = self.first
        prefix_SM = torch.cumsum(v_SM, 1)
        flat_SN = _columns(prefix_SM, self.count)
        torch.cumsum(v_SM.mul_(self.z), 1, out=prefix_SM)
        return flat_SN, _columns(prefix_SM, self.count).addcmul_(flat_SN, self.x)


class _Pairs:
    """The sums of `_Sorted` from all pairs, in parts, as the definition: for values whose order or sums are NaN."""

    def __init__(self, x_N: Tensor, z_M: Tensor, total: int) -> None:
        self.x, self.z, self.total = x_N.double(), z_M.double(), total

    def sums(self, v_SM: Tensor) -> tuple[Tensor, Tensor]:
        v_MS = v_SM.double().mT
        parts = []
        for x_R in self.x.split(max(2**20 // len(self.z), 1)):
            pairs_RM = x_R[:, None] + self.z
            active_RM = (pairs_RM <= 0).logical_not_()  # NaN is active, as in the gradient of ReLU
            parts.append((active_RM.double() @ v_MS, pairs_RM.relu_().div_(self.total) @ v_MS))
        flat_NS, ramp_NS = (torch.cat(part) for part in zip(*parts, strict=True))
        return flat_NS.mT, ramp_NS.mT


def _sums_over(a: Tensor, b: Tensor, *factors: Tensor) -> tuple[Callable[..., _Sorted | _Pairs], Tensor, Tensor]:
    """Return how to sum over the active pairs, and the scores for it.

    A score of -inf, which is in no active pair, becomes the lowest finite number, which is in none either: -inf times
    a sum of zero would be NaN. Scores of NaN or +inf, and factors that are not finite, are left to the definition.
    Accelerators would have to wait for this decision; there, the sums are NaN.
    """
    is_cpu = a.device.type == "cpu"
    if not has_values(a) or (is_cpu and all(math.isfinite(tensor.sum()) for tensor in (a, b, *factors))):
        return _Sorted, a, b
    usual = (a.amax() < torch.inf) & (b.amax() < torch.inf)
    for factor in factors:
        usual = usual & factor.sum(dtype=torch.float64).isfinite()
    if is_cpu and not usual:
        return _Pairs, a, b
    lowest = torch.finfo(a.dtype).min
    first = 0.0 if is_cpu else torch.where(usual, 0.0, torch.nan)
    return partial(_Sorted, first=first), a.clamp(min=lowest), b.clamp(min=lowest)


def _columns(v_SM: Tensor, index_N: Tensor) -> Tensor:
    """Select columns. `gather` is parallel for float64, unlike `index_select`, and measured 4 times as fast."""
    return v_SM.gather(1, index_N.expand(v_SM.shape[0], -1))


def _slices(g_BMV: Tensor) -> list[slice]:
    """Return slices of the value channels such that one prefix sum takes at most SLICE_BYTES."""
    slice_bytes = SLICE_BYTES if g_BMV.device.type == "cpu" else ACCELERATOR_SLICE_BYTES
    channels = max(1, slice_bytes // (8 * g_BMV.shape[1]))
    return [slice(start, start + channels) for start in range(0, g_BMV.shape[2], channels)]


def _like_channels(like_BMV: Tensor, positions: int) -> Tensor:
    """Return an empty tensor (B, positions, V), channel-major in memory like the output of a convolution."""
    return like_BMV.new_empty((like_BMV.shape[0], like_BMV.shape[2], positions)).transpose(1, 2)


def _kept(g_BMV: Tensor, positions: int, keep: bool) -> Tensor:
    """Return an empty tensor for S[k_i], at least float32: sums over all keys exceed the range of half types."""
    size = (g_BMV.shape[0], g_BMV.shape[2], positions if keep else 0)
    return g_BMV.new_empty(size, dtype=torch.promote_types(g_BMV.dtype, torch.float32)).transpose(1, 2)


@flop_formula(torch.ops.torch_nonlocal.ramp_sum)
def _flops(a, b, g, *_, out_shape=None, **__):
    """Count two prefix sums over keys, one product, and one multiply-add per query; there is no matrix product."""
    return g[0] * g[2] * (3 * b[1] + 2 * a[1])


@flop_formula(torch.ops.torch_nonlocal.step_sum)
def _step_flops(x, z, v, *_, out_shape=None, **__):
    return v[0] * v[2] * (2 * z[1] + x[1])


@flop_formula(torch.ops.torch_nonlocal.ramp_sum_backward)
def _backward_flops(_dy, a, b, g, _flat, *_, out_shape=None, **__):
    return g[0] * g[2] * (5 * a[1] + 4 * b[1])
