"""Softmax over the k strongest keys of each query, in O(N K) memory.

Forward finds the keys in tiles of logits, as the tiled algorithm computes them. Their numbers and weights, (N, K), are
kept, so that backward takes no logits: it sums over the selected pairs alone, in O(N K D) time.

    forward    index, w = k largest logits of a row, softmax        y_i = sum_k w_ik g[index_ik]
    backward   dw_ik = dy_i . g[index_ik]                           dS = scale * w * (dw - rowsum(dw * w))
               dtheta_i = sum_k dS_ik phi[index_ik]                 dphi_j = sum of dS_ik theta_i with index_ik = j
               dg_j = sum of w_ik dy_i with index_ik = j            dbias_j = sum of dS_ik / scale with index_ik = j

These sums are those of `embedding_bag`, which gathers and adds rows without a copy of them. For sums over queries, the
pairs are sorted by key: every sum is added in the same order each time, also on CUDA.

Half types are computed in float32 or, for logits on CUDA, with float32 sums.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, K selected keys, R rows of a tile.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal._common.top_indices import top_indices
from torch_nonlocal.ops import dense, tiled
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator, gradients_like
from torch_nonlocal.ops._second import register_form_gradients


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Compute the softmax forms over the k strongest keys, as `dense.softmax` with `top_k`: (B, N, V)."""
    announce()
    return torch.ops.torch_nonlocal.softmax_top_k(theta_BND, phi_BMD, g_BMV, key_bias_BM, scale, k)[0]


@Operator
def _softmax_top_k(
    theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None, scale: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the numbers of the selected keys and their weights."""
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    y_BNV, index_BNK, weights_BNK = _outputs(theta, g, k)
    if not B * N:
        return y_BNV, index_BNK, weights_BNK
    rows, buffer = tiled._tiles(theta, N, M)
    for b in range(B):
        query, key, bias = tiled._ready(theta[b], phi[b], tiled._of_clip(key_bias, b))
        for part in tiled._parts(N, rows):
            tile = buffer[: part.stop - part.start]
            tiled._logits_(tile, query[part], key, bias, scale)
            index_BNK[b, part] = index = top_indices(tile, k)
            weights_BNK[b, part] = torch.softmax(tile.gather(1, index), 1)
        y_BNV[b] = _sum_of_rows(index_BNK[b], weights_BNK[b], _rows_of(g[b]))
    return y_BNV, index_BNK, weights_BNK


@_softmax_top_k.register_fake
def _(theta, phi, g, key_bias, scale, k):
    return _outputs(theta, g, k)


@Operator
def _softmax_top_k_backward(
    dy: Tensor,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    key_bias: Tensor | None,
    index: Tensor,
    weights: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    dtheta, dphi, dg, dbias = gradients_like(theta, phi, g, key_bias)
    if not B * N:
        return dtheta.zero_(), dphi.zero_(), dg.zero_(), dbias
    for b in range(B):
        index_NK, w_NK = index[b], weights[b]
        query, key, value, dout = (_rows_of(tensor[b]) for tensor in (theta, phi, g, dy))
        dw_NK = _products_of_pairs(dout, value, index_NK)
        ds_NK = w_NK * (dw_NK - (dw_NK * w_NK).sum(1, keepdim=True))
        by_key = _sorted_by_key(index_NK, M)
        dg[b] = _sum_over_queries(by_key, w_NK, dout)
        if key_bias is not None:
            dbias[b] = _sum_over_queries(by_key, ds_NK, ds_NK.new_ones((N, 1))).squeeze(1)
        ds_NK.mul_(scale)
        dtheta[b] = _sum_of_rows(index_NK, ds_NK, key)
        dphi[b] = _sum_over_queries(by_key, ds_NK, query)
    return dtheta, dphi, dg, dbias


@_softmax_top_k_backward.register_fake
def _(dy, theta, phi, g, key_bias, index, weights, scale):
    return gradients_like(theta, phi, g, key_bias)


def _setup(ctx, inputs, output):
    theta, phi, g, key_bias, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(theta, phi, g, key_bias, *output[1:])


def _gradients(ctx, dy, *_):
    if dy is None:
        return (None,) * 6
    saved = ctx.saved_tensors  # once: a checkpoint computes them when asked
    dtheta, dphi, dg, dbias = torch.ops.torch_nonlocal.softmax_top_k_backward(dy, *saved, ctx.scale)
    return dtheta, dphi, dg, None if saved[3] is None else dbias, None, None


def _selected_form(inputs, part, theta, phi, g, bias):
    """The definition for a part of the queries, with the keys that forward selected."""
    index_BNK, scale = inputs[5], inputs[7]
    index_BRK = index_BNK[:, part]
    selected_BRM = theta.new_zeros((*index_BRK.shape[:2], phi.shape[1]), dtype=torch.bool).scatter(2, index_BRK, True)
    return dense.softmax(theta, phi, g, scale=scale, key_bias_BM=bias, visible_NM=selected_BRM)


_softmax_top_k.register_autograd(_gradients, setup_context=_setup)
register_form_gradients(_softmax_top_k_backward, _selected_form)


def _outputs(theta: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    size = (theta.shape[0], theta.shape[1], k)
    weights = theta.new_empty(size, dtype=torch.promote_types(theta.dtype, torch.float32))
    return g.new_empty((*size[:2], g.shape[2])), theta.new_empty(size, dtype=torch.int64), weights


def _rows_of(tensor_PW: Tensor) -> Tensor:
    """Return position-major features in at least float32."""
    return tensor_PW.to(torch.promote_types(tensor_PW.dtype, torch.float32)).contiguous()


def _sum_of_rows(index_NK: Tensor, weights_NK: Tensor, rows_MW: Tensor) -> Tensor:
    """Return sum_k weights_ik rows[index_ik], (N, W)."""
    if not rows_MW.shape[1]:
        return rows_MW.new_zeros((len(index_NK), 0))
    return F.embedding_bag(index_NK, rows_MW, per_sample_weights=weights_NK, mode="sum")


def _products_of_pairs(one_NW: Tensor, other_MW: Tensor, index_NK: Tensor) -> Tensor:
    """Return one_i . other[index_ik], (N, K)."""
    if not one_NW.shape[1]:
        return one_NW.new_zeros(index_NK.shape)
    count, k = index_NK.shape
    query_P = torch.arange(count, device=index_NK.device).repeat_interleave(k)
    starts_N = torch.arange(0, count * k, k, device=index_NK.device)
    product = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return product(one_NW, other_MW, index_NK.flatten(), starts_N, query_P, 0).view(count, k)


def _sorted_by_key(index_NK: Tensor, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the pairs by key: the order (N K,), their queries (N K,), and the first pair of each key (M,)."""
    index_P = index_NK.flatten()
    sorted_P, order_P = index_P.sort(stable=True)
    starts_M = torch.searchsorted(sorted_P, torch.arange(keys, device=index_P.device))
    return order_P, order_P // index_NK.shape[1], starts_M


def _sum_over_queries(by_key: tuple[Tensor, Tensor, Tensor], weights_NK: Tensor, rows_NW: Tensor) -> Tensor:
    """Return the sum over index_ik = j of weights_ik rows_i, (M, W)."""
    order_P, query_P, starts_M = by_key
    if not rows_NW.shape[1]:
        return rows_NW.new_zeros((len(starts_M), 0))
    weights_P = weights_NK.flatten()[order_P]
    return F.embedding_bag(query_P, rows_NW, starts_M, per_sample_weights=weights_P, mode="sum")


@flop_formula(torch.ops.torch_nonlocal.softmax_top_k)
def _flops(theta, phi, g, _bias, _scale, k, *_, out_shape=None, **__):
    return 2 * theta[0] * theta[1] * (phi[1] * theta[2] + k * g[2])


@flop_formula(torch.ops.torch_nonlocal.softmax_top_k_backward)
def _backward_flops(_dy, theta, _phi, g, _bias, index, *_, out_shape=None, **__):
    return 4 * theta[0] * theta[1] * index[2] * (theta[2] + g[2])
