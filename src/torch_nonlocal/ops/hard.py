"""Hard attention: a query takes the value of its strongest key, or of a drawn one, with a straight-through gradient.

    forward    j = argmax of a row of logits S (+ Gumbel noise)        y_i = g_j
    backward   W = softmax(S / temperature), in a reused tile           dg_j = sum of dy_i over the queries that took j
               dW = dy_tile g^T      dS = W * (dW - rowsum(dW * W)) / temperature, in place
               dtheta_tile = scale dS phi      dphi += scale dS^T theta_tile      dbias += colsum(dS)

This is y = (one_hot - stop_gradient(W) + W) g without the N x M maps. The noise of a tile is drawn again in backward
(`ops.noise`). A query whose largest logit is not finite has no softmax: its output is NaN.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, R rows of a tile, S parts of noise.
Reference: Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017, section 2.2.
"""

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import has_values
from torch_nonlocal.ops import dense, noise, tiled
from torch_nonlocal.ops._flops import announce, flop_formula
from torch_nonlocal.ops._operator import Operator, gradients_like
from torch_nonlocal.ops._second import register_form_gradients


def attend(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
    temperature: float = 1.0,
    seeds_BS: Tensor | None = None,
) -> Tensor:
    """Compute hard attention, as `dense.hard`: (B, N, V). `seeds_BS` are those of `noise.draw_seeds`."""
    announce()
    options = theta_BND, phi_BMD, g_BMV, key_bias_BM, seeds_BS, scale, temperature
    return torch.ops.torch_nonlocal.hard_attention(*options)[0]


@Operator
def _hard_attention(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    key_bias: Tensor | None,
    seeds: Tensor | None,
    scale: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return y and the numbers of the selected keys."""
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    y_BNV, index_BN = _outputs(theta, g)
    if not B * N:
        return y_BNV, index_BN
    rows, buffer = _tiles(theta, N, M)
    for b in range(B):
        query, key, bias = tiled._ready(theta[b], phi[b], tiled._of_clip(key_bias, b))
        for part in tiled._parts(N, rows):
            tile = buffer[: part.stop - part.start]
            _logits_(tile, query[part], key, bias, scale, None if seeds is None else seeds[b], part)
            top_R, index_R = tile.max(1)
            index_BN[b, part] = index_R
            y_BNV[b, part] = g[b].index_select(0, index_R) + (top_R - top_R).unsqueeze(1)  # NaN if not finite
    return y_BNV, index_BN


@_hard_attention.register_fake
def _(theta, phi, g, key_bias, seeds, scale, temperature):
    return _outputs(theta, g)


@Operator
def _hard_attention_backward(
    dy: Tensor,
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    key_bias: Tensor | None,
    seeds: Tensor | None,
    index: Tensor,
    scale: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, N, M = theta.shape[0], theta.shape[1], phi.shape[1]
    dtheta, dphi, dg, dbias = gradients_like(theta, phi, g, key_bias)
    if not B * N:
        return dtheta.zero_(), dphi.zero_(), dg.zero_(), dbias
    rows, buffer = _tiles(theta, N, M)
    gradient = torch.empty_like(buffer)
    for b in range(B):
        query, key, value, bias, dout = tiled._ready(theta[b], phi[b], g[b], tiled._of_clip(key_bias, b), dy[b])
        dkey, dvalue = tiled._sums_like(key), tiled._sums_like(value)
        for part in tiled._parts(N, rows):
            tile, dtile = buffer[: part.stop - part.start], gradient[: part.stop - part.start]
            _logits_(tile, query[part], key, bias, scale, None if seeds is None else seeds[b], part)
            torch.softmax(tile.div_(temperature), -1, out=tile)
            tiled._scores_(dtile, dout[part], value)
            tiled._softmax_backward_(dtile, tile)
            dtile.div_(temperature)
            tiled._product_(dtheta[b, part], dtile, key, scale)
            tiled._accumulate_(dkey, dtile.mT, query[part], scale)
            if key_bias is not None:
                dbias[b] += dtile.sum(0)
        dvalue.index_add_(0, index[b], dout.to(dvalue.dtype))
        dphi[b], dg[b] = dkey, dvalue
    return dtheta, dphi, dg, dbias


@_hard_attention_backward.register_fake
def _(dy, theta, phi, g, key_bias, seeds, index, scale, temperature):
    return gradients_like(theta, phi, g, key_bias)


def _setup(ctx, inputs, output):
    theta, phi, g, key_bias, seeds, ctx.scale, ctx.temperature = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(theta, phi, g, key_bias, seeds, output[1])


def _gradients(ctx, dy, _):
    if dy is None:
        return (None,) * 7
    saved = ctx.saved_tensors  # once: a checkpoint computes them when asked
    found = torch.ops.torch_nonlocal.hard_attention_backward(dy, *saved, ctx.scale, ctx.temperature)
    dtheta, dphi, dg, dbias = found
    return dtheta, dphi, dg, None if saved[3] is None else dbias, None, None, None


def _hard_form(inputs, part, theta, phi, g, bias):
    """The definition for a part of the queries, with the noise of forward."""
    seeds_BS, scale, temperature = inputs[5], inputs[7], inputs[8]
    noise_BRM = None
    if seeds_BS is not None:
        first = part.start // noise.ROWS
        noise_BRM = noise.whole_noise(seeds_BS[:, first:], theta, phi)
    return dense.hard(theta, phi, g, scale=scale, key_bias_BM=bias, temperature=temperature, noise_BNM=noise_BRM)


_hard_attention.register_autograd(_gradients, setup_context=_setup)
register_form_gradients(_hard_attention_backward, _hard_form, rows=noise.ROWS)


def _outputs(theta: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    size = theta.shape[:2]
    return g.new_empty((*size, g.shape[2])), theta.new_empty(size, dtype=torch.int64)


def _tiles(theta: Tensor, queries: int, keys: int) -> tuple[int, Tensor]:
    """As those of the tiled algorithm, with whole parts of noise."""
    rows, buffer = tiled._tiles(theta, queries, keys)
    return (rows, buffer) if rows == queries else (rows - rows % noise.ROWS, buffer)


def _logits_(
    tile_RM: Tensor,
    query_RD: Tensor,
    key_MD: Tensor,
    bias_M: Tensor | None,
    scale: float,
    seeds_S: Tensor | None,
    part: slice,
) -> None:
    """Write the logits, with their noise, into the tile."""
    tiled._logits_(tile_RM, query_RD, key_MD, bias_M, scale)
    if seeds_S is not None and has_values(seeds_S):
        noise.add_noise_(tile_RM, seeds_S, part.start)


@flop_formula(torch.ops.torch_nonlocal.hard_attention)
def _flops(theta, phi, *_, out_shape=None, **__):
    return tiled._products(theta, phi, phi, of_theta=1, of_g=0)


@flop_formula(torch.ops.torch_nonlocal.hard_attention_backward)
def _backward_flops(_dy, theta, phi, g, *_, out_shape=None, **__):
    return tiled._products(theta, phi, g, of_theta=3, of_g=1)
