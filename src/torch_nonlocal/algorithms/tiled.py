"""Softmax forms without the N x M map: query tiles, softmax in place in a reused buffer, recomputed in backward.

One tile of R rows at a time, each step a matrix product or one fused pass over the tile:

    forward    W = softmax(scale theta_tile phi^T + bias)      y_tile = W g
    backward   W again                                         dg += W^T dy_tile
               dW = dy_tile g^T                                 dS = W * (dW - rowsum(dW * W)), in place
               dtheta_tile = scale dS phi                       dphi += scale dS^T theta_tile      dbias += colsum(dS)

Normalisation over queries is the same computation with the roles of queries and keys exchanged: a tile holds keys, its
rows are softmaxed over the queries, and y accumulates. Small maps may be kept instead of recomputed (`keep`), which
saves one of five products in backward.

Matrix products take any stride, so the channel-major output of a convolution needs no copy. Half types are computed in
float32. Memory: two tiles, the outputs, and for half types float32 copies of the inputs.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, R rows of a tile.
Source of the recomputation: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from torch_nonlocal.algorithms._errors import refuse_second_derivative

# Bytes of one tile. Measured: smaller tiles stay in the caches, larger ones feed the matrix products better.
TILE_BYTES = 12 * 2**20
MIN_ROWS, MAX_ROWS = 64, 512


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: str = "keys",
    key_bias_BM: Tensor | None = None,
    keep: bool = False,
) -> Tensor:
    """The softmax forms, as `dense.softmax`: (B, N, V). `keep` holds the weights for backward: N * M again."""
    if normalize == "queries":
        y_BNV, _ = torch.ops.torch_nonlocal.softmax_columns(theta_BND, phi_BMD, g_BMV, scale, keep)
    else:
        y_BNV, _ = torch.ops.torch_nonlocal.softmax_rows(theta_BND, phi_BMD, g_BMV, key_bias_BM, scale, keep)
    return y_BNV


# --- rows: each query's weights sum to one -----------------------------------------------------------------------


@torch.library.custom_op("torch_nonlocal::softmax_rows", mutates_args=())
def _rows(
    theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    B, N, M, V = theta.shape[0], theta.shape[1], phi.shape[1], g.shape[2]
    y_BNV, kept_BNM = _like_channels(g, N, V), _kept(theta, N, M, keep)
    theta, phi, values, bias = _wide(theta), _wide(phi), _wide(g), _wide(key_bias)
    rows, buffer = _tiles(theta, N, M)
    for b in range(B):
        for start in range(0, N, rows):
            part = slice(start, min(start + rows, N))
            tile = kept_BNM[b, part] if keep else buffer[: part.stop - start]
            _weights_(tile, theta[b, part], phi[b], None if bias is None else bias[b], scale)
            _product_(y_BNV[b, part], tile, values[b])
    return y_BNV, kept_BNM


@_rows.register_fake
def _(theta, phi, g, key_bias, scale, keep):
    return _like_channels(g, theta.shape[1], g.shape[2]), _kept(theta, theta.shape[1], phi.shape[1], keep)


@torch.library.custom_op("torch_nonlocal::softmax_rows_backward", mutates_args=())
def _rows_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    keep = kept.shape[1] > 0
    dtheta, half = _like_channels(theta, N, theta.shape[2]), theta.dtype
    dy, theta, phi, g, bias = _wide(dy), _wide(theta), _wide(phi), _wide(g), _wide(key_bias)
    dphi, dg = _like_channels(phi, M, phi.shape[2]).zero_(), _like_channels(g, M, g.shape[2]).zero_()
    dbias = phi.new_zeros(B, M if bias is not None else 0)
    rows, buffer = _tiles(theta, N, M)
    gradient = torch.empty_like(buffer)
    for b in range(B):
        for start in range(0, N, rows):
            part = slice(start, min(start + rows, N))
            tile, dtile = buffer[: part.stop - start], gradient[: part.stop - start]
            if keep:
                tile = kept[b, part]
            else:
                _weights_(tile, theta[b, part], phi[b], None if bias is None else bias[b], scale)
            dg[b].addmm_(tile.mT, dy[b, part])
            torch.mm(dy[b, part], g[b].mT, out=dtile)
            _softmax_backward_(dtile, tile)
            _product_(dtheta[b, part], dtile, phi[b], scale)
            dphi[b].addmm_(dtile.mT, theta[b, part], alpha=scale)
            if bias is not None:
                dbias[b] += dtile.sum(0)
    return dtheta, dphi.to(half), dg.to(half), dbias.to(half)


@_rows_backward.register_fake
def _(dy, theta, phi, g, key_bias, kept, scale):
    dbias = phi.new_empty(phi.shape[0], 0 if key_bias is None else phi.shape[1])
    return (
        _like_channels(theta, *theta.shape[1:]),
        _like_channels(phi, *phi.shape[1:]),
        _like_channels(g, *g.shape[1:]),
        dbias,
    )


def _rows_setup(ctx, inputs, output):
    theta, phi, g, key_bias, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros the size of the kept weights
    ctx.save_for_backward(theta, phi, g, key_bias, output[1])


def _rows_gradients(ctx, dy, _dkept):
    if dy is None:
        return (None,) * 6
    theta, phi, g, key_bias, kept = ctx.saved_tensors
    gradients = torch.ops.torch_nonlocal.softmax_rows_backward(dy, theta, phi, g, key_bias, kept, ctx.scale)
    dtheta, dphi, dg, dbias = gradients
    return dtheta, dphi, dg, None if key_bias is None else dbias, None, None


_rows.register_autograd(_rows_gradients, setup_context=_rows_setup)
refuse_second_derivative(_rows_backward)


# --- columns: each key's weights sum to one; tiles of keys, softmaxed over the queries ----------------------------


@torch.library.custom_op("torch_nonlocal::softmax_columns", mutates_args=())
def _columns(theta: Tensor, phi: Tensor, g: Tensor, scale: float, keep: bool) -> tuple[Tensor, Tensor]:
    B, N, M, V = theta.shape[0], theta.shape[1], phi.shape[1], g.shape[2]
    kept_BMN, half = _kept(theta, M, N, keep), g.dtype
    theta, phi, g = _wide(theta), _wide(phi), _wide(g)
    y_BNV = _like_channels(g, N, V).zero_()
    rows, buffer = _tiles(phi, M, N)
    for b in range(B):
        for start in range(0, M, rows):
            part = slice(start, min(start + rows, M))
            tile = kept_BMN[b, part] if keep else buffer[: part.stop - start]
            _weights_(tile, phi[b, part], theta[b], None, scale)
            y_BNV[b].addmm_(tile.mT, g[b, part])
    return y_BNV.to(half), kept_BMN


@_columns.register_fake
def _(theta, phi, g, scale, keep):
    return _like_channels(g, theta.shape[1], g.shape[2]), _kept(theta, phi.shape[1], theta.shape[1], keep)


@torch.library.custom_op("torch_nonlocal::softmax_columns_backward", mutates_args=())
def _columns_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    keep = kept.shape[1] > 0
    dphi, dg, half = _like_channels(phi, M, phi.shape[2]), _like_channels(g, M, g.shape[2]), theta.dtype
    dy, theta, phi, g = _wide(dy), _wide(theta), _wide(phi), _wide(g)
    dtheta = _like_channels(theta, N, theta.shape[2]).zero_()
    rows, buffer = _tiles(phi, M, N)
    gradient = torch.empty_like(buffer)
    for b in range(B):
        for start in range(0, M, rows):
            part = slice(start, min(start + rows, M))
            tile, dtile = buffer[: part.stop - start], gradient[: part.stop - start]
            if keep:
                tile = kept[b, part]
            else:
                _weights_(tile, phi[b, part], theta[b], None, scale)
            _product_(dg[b, part], tile, dy[b])
            torch.mm(g[b, part], dy[b].mT, out=dtile)
            _softmax_backward_(dtile, tile)
            _product_(dphi[b, part], dtile, theta[b], scale)
            dtheta[b].addmm_(dtile.mT, phi[b, part], alpha=scale)
    return dtheta.to(half), dphi, dg


@_columns_backward.register_fake
def _(dy, theta, phi, g, kept, scale):
    return tuple(_like_channels(tensor, *tensor.shape[1:]) for tensor in (theta, phi, g))


def _columns_setup(ctx, inputs, output):
    theta, phi, g, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros the size of the kept weights
    ctx.save_for_backward(theta, phi, g, output[1])


def _columns_gradients(ctx, dy, _dkept):
    if dy is None:
        return (None,) * 5
    theta, phi, g, kept = ctx.saved_tensors
    gradients = torch.ops.torch_nonlocal.softmax_columns_backward(dy, theta, phi, g, kept, ctx.scale)
    return *gradients, None, None


_columns.register_autograd(_columns_gradients, setup_context=_columns_setup)
refuse_second_derivative(_columns_backward)


# --- the pieces --------------------------------------------------------------------------------------------------


def _weights_(tile_RM: Tensor, query_RD: Tensor, key_MD: Tensor, bias_M: Tensor | None, scale: float) -> None:
    """softmax over the last axis of scale * query . key + bias, into the tile."""
    if bias_M is None:
        torch.addmm(tile_RM, query_RD, key_MD.mT, beta=0, alpha=scale, out=tile_RM)
    else:
        torch.addmm(bias_M, query_RD, key_MD.mT, alpha=scale, out=tile_RM)
    torch.softmax(tile_RM, -1, out=tile_RM)


def _softmax_backward_(dtile_RM: Tensor, weights_RM: Tensor) -> None:
    """In place, the gradient of the weights becomes the gradient of the logits: one pass."""
    backward = torch.ops.aten._softmax_backward_data.out
    backward(dtile_RM, weights_RM, -1, weights_RM.dtype, grad_input=dtile_RM)


def _product_(out: Tensor, one: Tensor, other: Tensor, scale: float = 1.0) -> None:
    """out = scale * one @ other, where `out` may be of a half type."""
    if out.dtype == one.dtype:
        torch.addmm(out, one, other, beta=0, alpha=scale, out=out)
    else:
        out.copy_((one @ other).mul_(scale))


def _like_channels(like: Tensor, positions: int, width: int) -> Tensor:
    """An empty (B, positions, width), channel-major in memory as a convolution's output is."""
    return like.new_empty(like.shape[0], width, positions).transpose(1, 2)


def _kept(like: Tensor, rows: int, columns: int, keep: bool) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return like.new_empty(like.shape[0], rows if keep else 0, columns, dtype=dtype)


def _wide(tensor: Any) -> Any:
    """At least float32: half types would round the logits."""
    if tensor is None or tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.float()


def _tiles(like: Tensor, count: int, width: int) -> tuple[int, Tensor]:
    """Rows of a tile and the buffer for it."""
    rows = min(max(TILE_BYTES // (like.element_size() * width), MIN_ROWS), MAX_ROWS, count)
    return rows, like.new_empty(rows, width)


@register_flop_formula(torch.ops.torch_nonlocal.softmax_rows)
def _rows_flops(theta, phi, g, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=1, of_g=1)


@register_flop_formula(torch.ops.torch_nonlocal.softmax_columns)
def _columns_flops(theta, phi, g, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=1, of_g=1)


@register_flop_formula(torch.ops.torch_nonlocal.softmax_rows_backward)
def _rows_backward_flops(_dy, theta, phi, g, _bias, kept, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=2 if kept[1] else 3, of_g=2)


@register_flop_formula(torch.ops.torch_nonlocal.softmax_columns_backward)
def _columns_backward_flops(_dy, theta, phi, g, kept, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=2 if kept[1] else 3, of_g=2)


def _products(theta, phi, g, *, of_theta: int, of_g: int) -> int:
    """Two operations a multiply-add, for products as long as D (theta with phi) and V (with g)."""
    (batch, queries, width), keys, values = theta, phi[1], g[2]
    return 2 * batch * queries * keys * (of_theta * width + of_g * values)
