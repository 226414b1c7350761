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

import torch
from torch import Tensor

from torch_nonlocal.ops._errors import refuse_second_derivative
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
    y_BVN, flat_BVN, g_BVM = y.mT, flat.mT, g.mT
    for batch in range(g.shape[0]):
        active = _Active(a[batch], b[batch], g.shape[1])
        for part in _slices(g):
            flat_SN, ramp_SN = active.sums(g_BVM[batch, part])
            y_BVN[batch, part] = active.ramp(flat_SN, ramp_SN)
            if keep:
                flat_BVN[batch, part] = flat_SN
    return y, flat


@_ramp_sum.register_fake
def _(a, b, g, keep):
    return _like_channels(g, a.shape[1]), _kept(g, a.shape[1], keep)


@Operator
def _ramp_sum_backward(dy: Tensor, a: Tensor, b: Tensor, g: Tensor, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dg, keys = _like_channels(g, g.shape[1]), g.shape[1]
    dg_BVM, dy_BVN, g_BVM, flat_BVN = dg.mT, dy.mT, g.mT, flat.mT
    da, db = torch.zeros_like(a, dtype=torch.float64), torch.zeros_like(b, dtype=torch.float64)
    for batch in range(g.shape[0]):
        active = _Active(b[batch], a[batch], keys)
        for part in _slices(g):
            g_SM, dy_SN = g_BVM[batch, part], dy_BVN[batch, part]
            if flat.shape[1]:
                da[batch] += (flat_BVN[batch, part] * dy_SN).sum(0, dtype=torch.float64)
            flat_SM, ramp_SM = active.sums(dy_SN)
            dg_BVM[batch, part] = active.ramp(flat_SM, ramp_SM)
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
    da, db, dg = torch.ops.torch_nonlocal.ramp_sum_backward(dy, a, b, g, flat)
    return da, db, dg, None


_ramp_sum.register_autograd(_gradients, setup_context=_setup)
refuse_second_derivative(_ramp_sum_backward)


class _Active:
    """Sums over the j with x_i + z_j > 0, for each x_i: the first `count_i` elements of z in descending order."""

    def __init__(self, x_N: Tensor, z_M: Tensor, total: int) -> None:
        order = torch.sort(z_M, descending=True)
        # A leading element, whose value `sums` sets to zero, is the prefix sum over no keys.
        self.order = torch.nn.functional.pad(order.indices, (1, 0))
        self.z = torch.nn.functional.pad(order.values.double() / total, (1, 0))
        self.x = x_N.double() / total
        # -z ascends along the sorted axis; the count of -z_j < x_i involves exact comparisons only.
        self.count = torch.searchsorted(-order.values, x_N.contiguous(), right=False)

    def sums(self, v_SM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of v_j and of z_j v_j / total over the active j, each (S, N), float64."""
        v_SM = _columns(v_SM, self.order).double()
        v_SM[:, 0] = 0
        prefix_SM = torch.cumsum(v_SM, 1)
        flat_SN = _columns(prefix_SM, self.count)
        torch.cumsum(v_SM.mul_(self.z), 1, out=prefix_SM)
        return flat_SN, _columns(prefix_SM, self.count)

    def ramp(self, flat_SN: Tensor, ramp_SN: Tensor) -> Tensor:
        """Return the sums of (x_i + z_j) v_j / total from the two results of `sums`. Overwrites the second."""
        return ramp_SN.addcmul_(flat_SN, self.x)


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
    return like_BMV.new_empty(like_BMV.shape[0], like_BMV.shape[2], positions).transpose(1, 2)


def _kept(g_BMV: Tensor, positions: int, keep: bool) -> Tensor:
    """Return an empty tensor for S[k_i], at least float32: sums over all keys exceed the range of half types."""
    wide = g_BMV.new_empty(0, dtype=torch.promote_types(g_BMV.dtype, torch.float32))
    return wide.new_empty(g_BMV.shape[0], g_BMV.shape[2], positions if keep else 0).transpose(1, 2)


@flop_formula(torch.ops.torch_nonlocal.ramp_sum)
def _flops(a, b, g, *_, out_shape=None, **__):
    """Count two prefix sums over keys, one product, and one multiply-add per query; there is no matrix product."""
    return g[0] * g[2] * (3 * b[1] + 2 * a[1])


@flop_formula(torch.ops.torch_nonlocal.ramp_sum_backward)
def _backward_flops(_dy, a, b, g, _flat, *_, out_shape=None, **__):
    return g[0] * g[2] * (5 * a[1] + 4 * b[1])
