"""The forms in graphs that are recorded for other programs. They consist of ordinary PyTorch operations.

| form                 | ONNX              | torch.export, fx, torch.jit.trace |
|----------------------|-------------------|-----------------------------------|
| softmax over keys    | loop over queries | scaled_dot_product_attention      |
| softmax over queries | loop over keys    | the N x M map                     |
| dot product          | theta (phi^T g)   | theta (phi^T g)                   |
| concatenation        | loop over queries | the N x M map                     |
| selection of keys    | loop over queries | the N x M map                     |

Forms that are causal over frames are those of each frame with the keys that it sees or, in recorded graphs, where the
number of frames is not known, the definition with its mask. The dot product has running sums (`ops.causal`).

A loop is PyTorch's `scan` operator, which becomes the operator Scan of ONNX. It has no derivative here; programs of
torch.export, which can be trained, contain no loops. ONNX also has an operator Attention, but onnxruntime builds the
map for it. Maps that are known to be small are built instead of a loop: this graph runs everywhere.

Shapes: B batch, N query positions, M key positions, D inner width, V value width, S parts of R positions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal._common.tracing import is_recorded
from torch_nonlocal.ops import dense
from torch_nonlocal.ops.frames import CausalFrames, visible
from torch_nonlocal.ops.names import Normalize

try:
    from torch._higher_order_ops.scan import scan_op as _scan
except ImportError:
    _scan = None

MAP_BYTES = 16 * 2**20
"""Largest map that is built instead of a loop."""

MOST_ROWS = 256
_UNKNOWN = 1024  # positions that are assumed for a dynamic size without an example


def softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    normalize: Normalize = "keys",
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Compute the softmax forms, as `dense.softmax`: (B, N, V)."""
    options: dict[str, Any] = {"scale": scale, "normalize": normalize}
    if normalize == "keys" and not torch.onnx.is_in_onnx_export():
        return _attention(theta_BND, phi_BMD, g_BMV, scale, key_bias_BM)
    if not _loops(theta_BND, phi_BMD):
        return dense.softmax(theta_BND, phi_BMD, g_BMV, **options, key_bias_BM=key_bias_BM)
    if normalize == "queries":
        return _sum_over_keys(theta_BND, phi_BMD, g_BMV, scale)
    if key_bias_BM is None:
        return _over_queries(lambda *parts: dense.softmax(*parts, **options), theta_BND, phi_BMD, g_BMV)
    return _over_queries(
        lambda query, key, value, bias: dense.softmax(query, key, value, **options, key_bias_BM=bias),
        *(theta_BND, phi_BMD, g_BMV, key_bias_BM),
    )


def dot_product(theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor) -> Tensor:
    """Compute the dot product form, as `dense.dot_product`: (B, N, V), in the order theta (phi^T g) for any size.

    g is divided before the product: its sums over all positions may exceed the range of half types.
    """
    return theta_BND @ (phi_BMD.transpose(1, 2) @ (g_BMV / phi_BMD.shape[1]))


def causal_softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    frames: CausalFrames,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Compute the softmax forms over keys, causal over frames, as `dense.softmax`: (B, N, V)."""
    if is_recorded(theta_BND):
        mask_NM = visible(frames, theta_BND, phi_BMD)
        return dense.softmax(theta_BND, phi_BMD, g_BMV, scale=scale, key_bias_BM=key_bias_BM, visible_NM=mask_NM)
    y_of_frames = [
        softmax(
            theta_BND[:, part],
            phi_BMD[:, seen],
            g_BMV[:, seen],
            scale=scale,
            key_bias_BM=None if key_bias_BM is None else key_bias_BM[:, seen],
        )
        for part, seen in frames.parts(theta_BND.shape[1], phi_BMD.shape[1])
    ]
    return torch.cat(y_of_frames, 1)


def concatenation(a_BN: Tensor, b_BM: Tensor, g_BMV: Tensor, frames: CausalFrames | None = None) -> Tensor:
    """Compute the concatenation form, as `dense.concatenation`: (B, N, V)."""
    if frames is not None and is_recorded(a_BN):
        return dense.concatenation(a_BN, b_BM, g_BMV, visible(frames, a_BN, b_BM))
    if frames is not None:
        parts = frames.parts(a_BN.shape[1], b_BM.shape[1])
        return torch.cat([concatenation(a_BN[:, part], b_BM[:, seen], g_BMV[:, seen]) for part, seen in parts], 1)
    if not _loops(a_BN, b_BM):
        return dense.concatenation(a_BN, b_BM, g_BMV)
    return _over_queries(dense.concatenation, a_BN, b_BM, g_BMV)


def in_parts(form: Callable[..., Tensor], theta_BND: Tensor, *keys: Tensor) -> Tensor:
    """Compute a form of theta, phi, g and others per key, each query by itself: (B, N, V). A loop if the map is large.

    The graph for other programs than ONNX holds the map.
    """
    return _over_queries(form, theta_BND, *keys) if _loops(theta_BND, keys[0]) else form(theta_BND, *keys)


def strongest(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BMV: Tensor,
    *,
    scale: float = 1.0,
    key_bias_BM: Tensor | None = None,
) -> Tensor:
    """Compute the values of `dense.hard`, which ONNX needs no gradient of: (B, N, V)."""
    index_BN1 = dense.logits(theta_BND, phi_BMD, scale, key_bias_BM).argmax(-1, keepdim=True)
    return g_BMV.gather(1, index_BN1.expand(-1, -1, g_BMV.shape[2]))


def _attention(theta: Tensor, phi: Tensor, g: Tensor, scale: float, key_bias: Tensor | None) -> Tensor:
    """Call PyTorch's attention. It builds the map for features that are not contiguous, or if D is not V."""
    narrow = 0
    if not is_recorded(theta):
        width, values = theta.shape[2], g.shape[2]
        theta, phi = (F.pad(features, (0, max(values - width, 0))) for features in (theta, phi))
        narrow, g = values, F.pad(g, (0, max(width - values, 0)))
    query, key, value = (features.contiguous().unsqueeze(1) for features in (theta, phi, g))
    mask = None if key_bias is None else key_bias.to(query.dtype).unsqueeze(1).unsqueeze(1)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).squeeze(1)
    return y[..., :narrow] if narrow else y


def _loops(query: Tensor, key: Tensor) -> bool:
    """Whether a loop is possible, and the map is large or of unknown size."""
    if _scan is None or not torch.onnx.is_in_onnx_export() or is_recorded(query):
        return False
    if torch.compiler.is_dynamo_compiling():  # strict export, which takes the public `scan` only
        return False
    queries, keys = query.shape[1], key.shape[1]
    if not (isinstance(queries, int) and isinstance(keys, int)):
        return True
    return 4 * _example(query.shape[0]) * queries * keys > MAP_BYTES


def _over_queries(form: Callable[..., Tensor], query: Tensor, *keys: Tensor) -> Tensor:
    """Apply the form to parts of the queries: (B, N, V)."""
    count, rows = query.shape[1], _rows(query.shape[1])

    def step(unused: Tensor, index_R: Tensor, query: Tensor, *keys: Tensor) -> list[Tensor]:
        return [unused.clone(), form(query.index_select(1, index_R), *keys)]

    # Reshaping parts of a dynamic size would restrict it. Therefore, the parts are selected, and so is their result.
    _, y_SBRV = _scan(  # pyright: ignore[reportOptionalCall]
        step, [torch.zeros(1)], [_existing(_numbers(count, rows, query.device), count)], _copies(query, *keys)
    )
    place_N = torch.arange(count, device=query.device)
    return y_SBRV[place_N // rows, :, place_N % rows].movedim(0, 1)


def _sum_over_keys(theta: Tensor, phi: Tensor, g: Tensor, scale: float) -> Tensor:
    """Sum the form over parts of the keys, which are independent if the softmax runs over the queries: (B, N, V)."""
    count, rows = phi.shape[1], _rows(phi.shape[1])
    number_SR = _numbers(count, rows, phi.device)
    once_SR = (number_SR < count).to(g.dtype)

    def step(y: Tensor, index_R: Tensor, once_R: Tensor, theta: Tensor, phi: Tensor, g: Tensor) -> list[Tensor]:
        key, value = phi.index_select(1, index_R), g.index_select(1, index_R) * once_R.unsqueeze(1)
        return [y + dense.softmax(theta, key, value, scale=scale, normalize="queries"), index_R.clone()]

    zeros = g.new_zeros((g.shape[0], theta.shape[1], g.shape[2]))
    y_BNV, _ = _scan(step, [zeros], [_existing(number_SR, count), once_SR], _copies(theta, phi, g))  # pyright: ignore[reportOptionalCall]
    return y_BNV


def _copies(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy the inputs of a loop, which must not share memory and have no derivative."""
    return tuple(tensor.detach().clone() for tensor in tensors)


def _rows(count: Any) -> int:
    """Return the positions of a part: fewer for small maps, since up to a part more than needed is computed."""
    return max(1, min(MOST_ROWS, _example(count) // 4))


def _numbers(count: Any, rows: int, device: torch.device) -> Tensor:
    """Return the numbers of the positions of each part, (S, R), S >= 2. The last parts go beyond the last position."""
    start_S1 = torch.arange(0, count + rows, rows, device=device).unsqueeze(1)
    return start_S1 + torch.arange(rows, device=device)


def _existing(number_SR: Tensor, count: Any) -> Tensor:
    """Replace numbers beyond the last position by that of the last."""
    return torch.minimum(number_SR, torch.full((), count - 1, device=number_SR.device))


def _example(size: Any) -> int:
    """Return a size or, if it is dynamic, that of the example input."""
    if isinstance(size, int):
        return size
    hint = getattr(getattr(size, "node", None), "hint", None)
    return _UNKNOWN if hint is None else int(hint)
