"""Softmax forms without the N x M map: tiles of queries in a reused buffer, recomputed in backward.

Each step processes one tile of R rows with a matrix product or one fused pass:

    forward    W = softmax(scale theta_tile phi^T + bias)      y_tile = W g
    backward   W again                                         dg += W^T dy_tile
               dW = dy_tile g^T                                 dS = W * (dW - rowsum(dW * W)), in place
               dtheta_tile = scale dS phi                       dphi += scale dS^T theta_tile      dbias += colsum(dS)

With normalize="queries", queries and keys exchange their roles: a tile holds keys, the softmax of its rows runs over
the queries, and y accumulates. With `keep`, the weights are kept instead of recomputed, which saves one product of
seven.

Channel-major inputs, such as outputs of convolutions, are used without a copy; this layout was measured to be faster
for the products along D. The rows of a tile that are summed into the gradients of phi and g are copied to
position-major memory, which was measured to be faster there.

Half types are computed in float32 on CPUs. On CUDA their products run on the tensor cores with float32 sums, and the
logits, the softmax and the accumulated gradients are float32, as in the fused kernels. The memory is two tiles, the
outputs, and copies of one batch item if the inputs are half types or position-major.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, R rows of a tile.
Reference for the recomputation: Rabe and Staats, Self-attention Does Not Need O(n^2) Memory, 2021.
"""

from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator, gradients_like
from torch_nonlocal.ops._second import register_second_gradients
from torch_nonlocal.ops.names import Normalize

# Size of a tile. With more rows, the accumulated gradients are read and written less often. Measurements showed no gain
# beyond 512 rows.
TILE_BYTES = 24 * 2**20
MIN_ROWS, MAX_ROWS = 64, 512
# On accelerators a tile must keep thousands of cores busy, and every tile costs a dozen kernel launches.
ACCELERATOR_TILE_BYTES, ACCELERATOR_MAX_ROWS = 128 * 2**20, 8192


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
    keep: bool = False,
) -> Tensor:
    """Compute the softmax forms, as `dense.softmax`: (B, N, V). `keep` keeps the N x M weights for backward."""
    announce()
    if normalize == "queries":
        y_BNV, _ = torch.ops.torch_nonlocal.softmax_columns(theta_BND, phi_BMD, g_BMV, scale, keep)
    else:
        y_BNV, _ = torch.ops.torch_nonlocal.softmax_rows(theta_BND, phi_BMD, g_BMV, key_bias_BM, scale, keep)
    return y_BNV


# --- normalize="keys": rows of tiles are queries ---------------------------------------------------------------------


@Operator
def _softmax_rows(
    theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None, scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    B, N, M, V = theta.shape[0], theta.shape[1], phi.shape[1], g.shape[2]
    y_BNV, kept_BNM = g.new_empty((B, N, V)), _kept(theta, N, M, keep)
    if not y_BNV.numel():
        return y_BNV, kept_BNM.zero_()
    rows, buffer = _tiles(theta, N, M)
    for b in range(B):
        query, key, value, bias = _ready(theta[b], phi[b], g[b], _of_clip(key_bias, b))
        for part in _parts(N, rows):
            tile = kept_BNM[b, part] if keep else buffer[: part.stop - part.start]
            _weights_(tile, query[part], key, bias, scale)
            _product_(y_BNV[b, part], tile, value)
    return y_BNV, kept_BNM


@_softmax_rows.register_fake
def _(theta, phi, g, key_bias, scale, keep):
    y = g.new_empty((theta.shape[0], theta.shape[1], g.shape[2]))
    return y, _kept(theta, theta.shape[1], phi.shape[1], keep)


@Operator
def _softmax_rows_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, key_bias: Tensor | None, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    keep = kept.shape[1] > 0
    dtheta, dphi, dg, dbias = gradients_like(theta, phi, g, key_bias)
    if not dy.numel():
        return dtheta.zero_(), dphi.zero_(), dg.zero_(), dbias
    rows, gradient = _tiles(theta, N, M)
    buffer = _tiles(theta, 1 if keep else N, M)[1]
    for b in range(B):
        query, key, value, bias, dout = _ready(theta[b], phi[b], g[b], _of_clip(key_bias, b), dy[b])
        dkey, dvalue = _sums_like(key), _sums_like(value)
        for part in _parts(N, rows):
            dtile = gradient[: part.stop - part.start]
            if keep:
                tile = kept[b, part]
            else:
                tile = buffer[: part.stop - part.start]
                _weights_(tile, query[part], key, bias, scale)
            _accumulate_(dvalue, tile.mT, dout[part])
            _scores_(dtile, dout[part], value)
            _softmax_backward_(dtile, tile)
            _product_(dtheta[b, part], dtile, key, scale)
            _accumulate_(dkey, dtile.mT, query[part], scale)
            if key_bias is not None:
                dbias[b] += dtile.sum(0)
        dphi[b], dg[b] = dkey, dvalue
    return dtheta, dphi, dg, dbias


@_softmax_rows_backward.register_fake
def _(dy, theta, phi, g, key_bias, kept, scale):
    return gradients_like(theta, phi, g, key_bias)


def _rows_setup(ctx, inputs, output):
    theta, phi, g, key_bias, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # avoids zeros of the size of the kept weights
    ctx.save_for_backward(theta, phi, g, key_bias, output[1])


def _rows_gradients(ctx, dy, _dkept):
    if dy is None:
        return (None,) * 6
    theta, phi, g, key_bias, kept = ctx.saved_tensors
    gradients = torch.ops.torch_nonlocal.softmax_rows_backward(dy, theta, phi, g, key_bias, kept, ctx.scale)
    dtheta, dphi, dg, dbias = gradients
    return dtheta, dphi, dg, None if key_bias is None else dbias, None, None


_softmax_rows.register_autograd(_rows_gradients, setup_context=_rows_setup)
register_second_gradients(_softmax_rows_backward, normalize="keys")


# --- normalize="queries": rows of tiles are keys ---------------------------------------------------------------------


@Operator
def _softmax_columns(theta: Tensor, phi: Tensor, g: Tensor, scale: float, keep: bool) -> tuple[Tensor, Tensor]:
    B, N, M, V = theta.shape[0], theta.shape[1], phi.shape[1], g.shape[2]
    y_BNV, kept_BMN = g.new_empty((B, N, V)), _kept(theta, M, N, keep)
    if not y_BNV.numel():
        return y_BNV, kept_BMN.zero_()
    rows, buffer = _tiles(phi, M, N)
    for b in range(B):
        query, key, value = _ready(theta[b], phi[b], g[b])
        y_NV = value.new_zeros((N, V), dtype=torch.promote_types(value.dtype, torch.float32))
        for part in _parts(M, rows):
            tile = kept_BMN[b, part] if keep else buffer[: part.stop - part.start]
            _weights_(tile, key[part], query, None, scale)
            _accumulate_(y_NV, tile.mT, value[part])
        y_BNV[b] = y_NV
    return y_BNV, kept_BMN


@_softmax_columns.register_fake
def _(theta, phi, g, scale, keep):
    y = g.new_empty((theta.shape[0], theta.shape[1], g.shape[2]))
    return y, _kept(theta, phi.shape[1], theta.shape[1], keep)


@Operator
def _softmax_columns_backward(
    dy: Tensor, theta: Tensor, phi: Tensor, g: Tensor, kept: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    keep = kept.shape[1] > 0
    dtheta, dphi, dg = (tensor.new_empty(tensor.shape) for tensor in (theta, phi, g))
    if not dy.numel():
        return dtheta.zero_(), dphi.zero_(), dg.zero_()
    rows, gradient = _tiles(phi, M, N)
    buffer = _tiles(phi, 1 if keep else M, N)[1]
    for b in range(B):
        query, key, value, dout = _ready(theta[b], phi[b], g[b], dy[b])
        dquery = _sums_like(query)
        for part in _parts(M, rows):
            dtile = gradient[: part.stop - part.start]
            if keep:
                tile = kept[b, part]
            else:
                tile = buffer[: part.stop - part.start]
                _weights_(tile, key[part], query, None, scale)
            _product_(dg[b, part], tile, dout)
            _scores_(dtile, value[part], dout)
            _softmax_backward_(dtile, tile)
            _product_(dphi[b, part], dtile, query, scale)
            _accumulate_(dquery, dtile.mT, key[part], scale)
        dtheta[b] = dquery
    return dtheta, dphi, dg


@_softmax_columns_backward.register_fake
def _(dy, theta, phi, g, kept, scale):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (theta, phi, g))


def _columns_setup(ctx, inputs, output):
    theta, phi, g, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # avoids zeros of the size of the kept weights
    ctx.save_for_backward(theta, phi, g, output[1])


def _columns_gradients(ctx, dy, _dkept):
    if dy is None:
        return (None,) * 5
    theta, phi, g, kept = ctx.saved_tensors
    gradients = torch.ops.torch_nonlocal.softmax_columns_backward(dy, theta, phi, g, kept, ctx.scale)
    return *gradients, None, None


_softmax_columns.register_autograd(_columns_gradients, setup_context=_columns_setup)
register_second_gradients(_softmax_columns_backward, normalize="queries")


# --- shared functions ------------------------------------------------------------------------------------------------


def _weights_(tile_RM: Tensor, query_RD: Tensor, key_MD: Tensor, bias_M: Tensor | None, scale: float) -> None:
    """Write the softmax over the last axis of scale * query . key + bias into the tile."""
    _logits_(tile_RM, query_RD, key_MD, bias_M, scale)
    torch.softmax(tile_RM, -1, out=tile_RM)


def _logits_(tile_RM: Tensor, query_RD: Tensor, key_MD: Tensor, bias_M: Tensor | None, scale: float) -> None:
    """Write scale * query . key + bias into the tile."""
    if bias_M is not None and query_RD.dtype == tile_RM.dtype:
        torch.addmm(bias_M, query_RD, key_MD.mT, alpha=scale, out=tile_RM)
        return
    _scores_(tile_RM, query_RD, key_MD, scale)
    if bias_M is not None:
        tile_RM.add_(bias_M)


def _scores_(tile_RM: Tensor, one_RD: Tensor, other_MD: Tensor, scale: float = 1.0) -> None:
    """Write scale * one @ other^T into the tile, which is float32 if the factors have a half type."""
    if one_RD.dtype == tile_RM.dtype:
        torch.addmm(tile_RM, one_RD, other_MD.mT, beta=0, alpha=scale, out=tile_RM)
        return
    torch.ops.aten.mm.dtype_out(one_RD, other_MD.mT, tile_RM.dtype, out=tile_RM)
    if scale != 1.0:
        tile_RM.mul_(scale)


def _accumulate_(sums: Tensor, weights: Tensor, factor: Tensor, scale: float = 1.0) -> None:
    """Add scale * weights @ factor to the sums. The weights are rounded to the type of the factor."""
    if factor.dtype == sums.dtype:
        sums.addmm_(weights, factor.contiguous(), alpha=scale)
    else:
        product = torch.ops.aten.mm.dtype(weights.to(factor.dtype), factor, sums.dtype)
        sums.add_(product, alpha=scale)


def _sums_like(tensor: Tensor) -> Tensor:
    return tensor.new_zeros(tensor.shape, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _softmax_backward_(dtile_RM: Tensor, weights_RM: Tensor) -> None:
    """Replace the gradient of the weights by the gradient of the logits, in place."""
    backward = torch.ops.aten._softmax_backward_data.out
    backward(dtile_RM, weights_RM, -1, weights_RM.dtype, grad_input=dtile_RM)


def _product_(out: Tensor, one: Tensor, other: Tensor, scale: float = 1.0) -> None:
    """Write scale * one @ other into `out`, which may have a half type."""
    if out.dtype == one.dtype:
        torch.addmm(out, one, other, beta=0, alpha=scale, out=out)
    elif other.dtype == one.dtype:
        out.copy_((one @ other).mul_(scale))
    else:
        out.copy_(torch.ops.aten.mm.dtype(one.to(other.dtype), other, one.dtype).mul_(scale))


def _kept(like: Tensor, rows: int, columns: int, keep: bool) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return like.new_empty((like.shape[0], rows if keep else 0, columns), dtype=dtype)


def _ready(*tensors: Tensor | None) -> list[Any]:
    """Convert to channel-major (P, W) with contiguous P, and to at least float32: half types would round the logits."""
    return [tensor if tensor is None else _channel_major(_wide(tensor)) for tensor in tensors]


def _channel_major(tensor: Tensor) -> Tensor:
    if tensor.ndim != 2:
        return tensor.contiguous()
    return tensor if tensor.stride(0) == 1 else tensor.mT.contiguous().mT  # BLAS takes any stride of the other axis


def _wide(tensor: Tensor) -> Tensor:
    """Convert half types to float32, except on CUDA, where the tensor cores multiply them with float32 sums."""
    sums_halves = tensor.is_cuda and torch.version.hip is None  # ROCm has no product of halves with float32 output
    return tensor if sums_halves else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _of_clip(key_bias: Tensor | None, b: int) -> Tensor | None:
    return None if key_bias is None else key_bias[b]


def _tiles(like: Tensor, count: int, width: int) -> tuple[int, Tensor]:
    """Return the number of rows of a tile, and a buffer for one tile."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    tile_bytes, most = (
        (TILE_BYTES, MAX_ROWS) if like.device.type == "cpu" else (ACCELERATOR_TILE_BYTES, ACCELERATOR_MAX_ROWS)
    )
    rows = min(max(tile_bytes // (dtype.itemsize * width), MIN_ROWS), most, count)
    return rows, like.new_empty((rows, width), dtype=dtype)


def _parts(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


@flop_formula(torch.ops.torch_nonlocal.softmax_rows)
def _rows_flops(theta, phi, g, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=1, of_g=1)


@flop_formula(torch.ops.torch_nonlocal.softmax_columns)
def _columns_flops(theta, phi, g, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=1, of_g=1)


@flop_formula(torch.ops.torch_nonlocal.softmax_rows_backward)
def _rows_backward_flops(_dy, theta, phi, g, _bias, kept, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=2 if kept[1] else 3, of_g=2)


@flop_formula(torch.ops.torch_nonlocal.softmax_columns_backward)
def _columns_backward_flops(_dy, theta, phi, g, kept, *_, out_shape=None, **__):
    return _products(theta, phi, g, of_theta=2 if kept[1] else 3, of_g=2)


def _products(theta, phi, g, *, of_theta: int, of_g: int) -> int:
    """Count two FLOPs per multiply-add, for products of length D (theta with phi) and of length V (with g)."""
    (batch, queries, width), keys, values = theta, phi[1], g[2]
    return 2 * batch * queries * keys * (of_theta * width + of_g * values)
