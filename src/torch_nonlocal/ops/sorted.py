"""Concatenation without the N x M map: sort b, prefix sums, one gather.

    y_i = 1 / M sum_j ReLU(a_i + b_j) g_j = (a_i S[k_i] + T[k_i]) / M

With b sorted downwards, the keys that are active for query i (b_j > -a_i) are the first k_i; S and T are the prefix
sums of g and of b g. The gradients have the same shape with queries and keys exchanged:

    dg_j = (b_j U[l_j] + W[l_j]) / M       U, W: prefix sums of dy and of a dy over a sorted downwards
    db_j = g_j . U[l_j] / M                l_j: how many a_i > -b_j
    da_i = dy_i . S[k_i] / M

O((N + M) (log N + V)) time. Prefix sums run in float64, whatever the inputs: in float32 a sum over 10^5 positions loses
the digits that a_i S and T cancel. They are held for a slice of the value channels at a time, so the extra memory is a
few slices. Ties and equality are the definition's: a_i + b_j = 0 is not active, as ReLU's gradient is 0 there.

The same sorting evaluates ReLU(q_i - k_j) kernels in sliced attention (arXiv 2512.11411).

Shapes: B batch, N query positions, M key positions, V value width, S channels of a slice.
"""

import torch
from torch import Tensor

from torch_nonlocal.ops._errors import refuse_second_derivative
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator

SLICE_BYTES = 1 * 2**20  # of one float64 prefix sum: small enough to stay in the caches between the passes


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor) -> Tensor:
    """The concatenation form, as `dense.concatenation`: (B, N, V)."""
    announce()
    keep = torch.is_grad_enabled() and a_BN.requires_grad
    return torch.ops.torch_nonlocal.ramp_sum(a_BN, b_BM, g_BMV, keep)[0]


@Operator
def _ramp_sum(a: Tensor, b: Tensor, g: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """y and, with `keep`, S[k_i], the gradient of M y by a."""
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
    """For each x_i of one clip, sums over the j with x_i + z_j > 0: the first `count_i` of z sorted downwards."""

    def __init__(self, x_N: Tensor, z_M: Tensor, total: int) -> None:
        order = torch.sort(z_M, descending=True)
        # a place in front, whose value is made zero: the prefix sum over none of the keys
        self.order = torch.nn.functional.pad(order.indices, (1, 0))
        self.z = torch.nn.functional.pad(order.values.double() / total, (1, 0))
        self.x = x_N.double() / total
        # -z rises along the sorted axis; how many -z_j < x_i, each comparison exact
        self.count = torch.searchsorted(-order.values, x_N.contiguous(), right=False)

    def sums(self, v_SM: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of v_j and of z_j v_j / total over the active j: each (S, N), float64."""
        v_SM = _columns(v_SM, self.order).double()
        v_SM[:, 0] = 0
        prefix_SM = torch.cumsum(v_SM, 1)
        flat_SN = _columns(prefix_SM, self.count)
        torch.cumsum(v_SM.mul_(self.z), 1, out=prefix_SM)
        return flat_SN, _columns(prefix_SM, self.count)

    def ramp(self, flat_SN: Tensor, ramp_SN: Tensor) -> Tensor:
        """Sum of (x_i + z_j) v_j / total, from the two sums; in the place of the second."""
        return ramp_SN.addcmul_(flat_SN, self.x)


def _columns(v_SM: Tensor, index_N: Tensor) -> Tensor:
    """The chosen columns; with `gather`, which is parallel where `index_select` of float64 is not (4x here)."""
    return v_SM.gather(1, index_N.expand(v_SM.shape[0], -1))


def _slices(g_BMV: Tensor) -> list[slice]:
    """Value channels a slice at a time, so that one prefix sum stays within SLICE_BYTES."""
    channels = max(1, SLICE_BYTES // (8 * g_BMV.shape[1]))
    return [slice(start, start + channels) for start in range(0, g_BMV.shape[2], channels)]


def _like_channels(like_BMV: Tensor, positions: int) -> Tensor:
    """An empty (B, positions, V), channel-major in memory as a convolution's output is."""
    return like_BMV.new_empty(like_BMV.shape[0], like_BMV.shape[2], positions).transpose(1, 2)


def _kept(g_BMV: Tensor, positions: int, keep: bool) -> Tensor:
    """Room for S[k_i]: sums over all keys, which a half type could neither hold nor tell apart."""
    wide = g_BMV.new_empty(0, dtype=torch.promote_types(g_BMV.dtype, torch.float32))
    return wide.new_empty(g_BMV.shape[0], g_BMV.shape[2], positions if keep else 0).transpose(1, 2)


@flop_formula(torch.ops.torch_nonlocal.ramp_sum)
def _flops(a, b, g, *_, out_shape=None, **__):
    """Two prefix sums over keys with one product, a multiply-add a query: no matrix products at all."""
    return g[0] * g[2] * (3 * b[1] + 2 * a[1])


@flop_formula(torch.ops.torch_nonlocal.ramp_sum_backward)
def _backward_flops(_dy, a, b, g, _flat, *_, out_shape=None, **__):
    return g[0] * g[2] * (5 * a[1] + 4 * b[1])
