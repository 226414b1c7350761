"""Distances between embeddings, in blocks of queries. Q queries, G gallery rows, E width, B queries of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from torch_nonlocal._common.text import did_you_mean

Metric = Literal["euclidean", "cosine"]
"""Euclidean distance (not its square), or cosine distance, one minus the cosine similarity, in [0, 2]."""

BLOCK = 128
"""Queries of a block by default: at 12,180 gallery rows the distances of a block take 12 MB."""

_CHUNK_BYTES = 2**23
"""Gallery rows are converted to float64 in chunks of this size."""


class DistanceBlock(NamedTuple):
    """Distances of consecutive queries to the whole gallery.

    Attributes:
        start: first query of the block.
        distances: float64 (B, G).
    """

    start: int
    distances: Tensor


class Neighbors(NamedTuple):
    """Nearest gallery rows of each query.

    Attributes:
        distances: float64 (Q, K) on the CPU, ascending; infinite where fewer than K rows remain.
        indices: int64 (Q, K), gallery rows; -1 where fewer than K rows remain.
    """

    distances: Tensor
    indices: Tensor


def distance_blocks(
    query_QE: Any, gallery_GE: Any, *, metric: Metric = "euclidean", block: int = BLOCK
) -> Iterator[DistanceBlock]:
    """Distances between queries and gallery, a block of queries at a time.

    Computed in float64 on the device of the embeddings (on the CPU if the device has no float64), whatever their dtype:
    squares are never negative, and a Euclidean distance is accurate to about 1e-7 of the length of the embeddings.
    Extra memory: block x gallery x 8 bytes and some MB; it does not grow with the number of queries.

    Args:
        query_QE: embeddings (Q, E), tensor or array of any floating dtype.
        gallery_GE: embeddings (G, E).
        metric: see `Metric`.
        block: queries of a block.

    Returns:
        An iterator of blocks in the order of the queries. Embeddings are checked before it is returned.

    Raises:
        TypeError: embeddings are not floating-point.
        ValueError: shapes disagree, a set is empty, an embedding is NaN or infinite, or zero under "cosine", the metric
            is unknown, or `block` is below 1.
    """
    query_QE, gallery_GE = checked_embeddings(query_QE, gallery_GE, metric=metric)
    if block < 1:
        raise ValueError(f"block is {block}, expected at least one query")
    return _blocks(query_QE, gallery_GE, metric, block)


def nearest(
    query_QE: Any,
    gallery_GE: Any,
    k: int,
    *,
    exclude: Callable[[int, int], Any] | None = None,
    metric: Metric = "euclidean",
    block: int = BLOCK,
) -> Neighbors:
    """The k nearest gallery rows of each query, nearest first; of equally near rows the first in the gallery.

    Args:
        query_QE: embeddings (Q, E).
        gallery_GE: embeddings (G, E).
        k: rows per query; at most G are returned.
        exclude: called with the first query of a block and the one after its last; returns a boolean mask (B, G), True
            where a row is left out, such as `Labels.junk`.
        metric: see `Metric`.
        block: queries of a block.

    Raises:
        TypeError: see `distance_blocks`.
        ValueError: `k` is below 1, or see `distance_blocks`.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least one neighbor")
    blocks = distance_blocks(query_QE, gallery_GE, metric=metric, block=block)
    values_QK = torch.empty(len(query_QE), min(k, len(gallery_GE)), dtype=torch.float64)
    indices_QK = torch.empty(values_QK.shape, dtype=torch.int64)
    for start, distances_BG in blocks:
        stop = start + len(distances_BG)
        if exclude is not None:
            mask_BG = torch.as_tensor(exclude(start, stop), device=distances_BG.device)
            distances_BG.masked_fill_(mask_BG, torch.inf)
        values_QK[start:stop], indices_QK[start:stop] = smallest(distances_BG, values_QK.shape[1])
    return Neighbors(values_QK, indices_QK.masked_fill(values_QK.isinf(), -1))


def smallest(distances_BG: Tensor, k: int) -> Neighbors:
    """The k smallest values of each row, ascending, and their columns; of equal values the first columns."""
    values_BK, indices_BK = distances_BG.topk(k, dim=1, largest=False)
    within_BG = distances_BG <= values_BK[:, -1:]
    for row in (within_BG.sum(1) > k).nonzero().flatten().tolist():  # topk chose among equal values at the boundary
        candidates = within_BG[row].nonzero().flatten()
        order = distances_BG[row, candidates].argsort(stable=True)[:k]
        indices_BK[row] = candidates[order]
    indices_BK = indices_BK.sort(1).values
    values_BK = distances_BG.gather(1, indices_BK)
    order_BK = values_BK.argsort(dim=1, stable=True)
    return Neighbors(values_BK.gather(1, order_BK), indices_BK.gather(1, order_BK))


def checked_embeddings(query_QE: Any, gallery_GE: Any, *, metric: str) -> tuple[Tensor, Tensor]:
    """Embeddings as tensors on one device, after checks; see `distance_blocks` for the errors."""
    if metric not in get_args(Metric):
        hint = did_you_mean(metric, get_args(Metric)) or f"expected {' or '.join(map(repr, get_args(Metric)))}"
        raise ValueError(f"unknown metric {metric!r}; {hint}")
    query, gallery = _as_tensor(query_QE), _as_tensor(gallery_GE)
    for name, embeddings in (("query", query), ("gallery", gallery)):
        if embeddings.ndim != 2 or not embeddings.numel():
            raise ValueError(f"{name} embeddings have shape {tuple(embeddings.shape)}, expected (tracklets, width)")
        if not embeddings.is_floating_point():
            raise TypeError(f"{name} embeddings have dtype {embeddings.dtype}, expected floating point")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query embeddings have width {query.shape[1]}, gallery embeddings {gallery.shape[1]}: "
            "expected embeddings of one network"
        )
    for name, embeddings in (("query", query), ("gallery", gallery)):
        for start in range(0, len(embeddings), rows := _chunk_rows(embeddings)):
            _check_values(embeddings[start : start + rows], start, name, metric)
    device = torch.device("cpu") if gallery.device.type == "mps" else gallery.device  # MPS has no float64
    return query.to(device), gallery.to(device)


def _as_tensor(embeddings: Any) -> Tensor:
    if isinstance(embeddings, Tensor):
        return embeddings.detach()
    array = np.asarray(embeddings)
    if array.dtype.kind == "f":  # PyTorch has no read-only tensors, negative strides, other byte orders or long doubles
        array = np.require(array, f"f{min(array.dtype.itemsize, 8)}", ["C", "W"])
    return torch.as_tensor(array)


def _check_values(chunk: Tensor, start: int, name: str, metric: str) -> None:
    broken = (~chunk.isfinite()).any(1).nonzero().flatten()
    if len(broken):
        raise ValueError(f"{name} embedding {start + int(broken[0])} has values that are NaN or infinite")
    if metric == "cosine":
        zero = (chunk == 0).all(1).nonzero().flatten()
        if len(zero):
            raise ValueError(f"{name} embedding {start + int(zero[0])} is zero: the cosine distance needs a direction")


def _blocks(query_QE: Tensor, gallery_GE: Tensor, metric: str, block: int) -> Iterator[DistanceBlock]:
    rows = _chunk_rows(gallery_GE)
    for start in range(0, len(query_QE), block):
        query_BE = prepared(query_QE[start : start + block], metric)
        distances_BG = query_BE.new_empty(len(query_BE), len(gallery_GE))
        for first in range(0, len(gallery_GE), rows):
            gallery_RE = prepared(gallery_GE[first : first + rows], metric)
            _write_distances(distances_BG[:, first : first + rows], query_BE, gallery_RE, metric)
        yield DistanceBlock(start, distances_BG)


def prepared(embeddings: Tensor, metric: str) -> Tensor:
    """Embeddings in float64, under "cosine" normalized to length 1, however short or long they are."""
    wide = embeddings.double()
    if metric == "euclidean":
        return wide
    wide = wide / wide.abs().amax(1, keepdim=True)  # squares of tiny or huge values would leave the range of float64
    return wide / wide.norm(dim=1, keepdim=True)


def _write_distances(out_BR: Tensor, query_BE: Tensor, gallery_RE: Tensor, metric: str) -> None:
    torch.mm(query_BE, gallery_RE.T, out=out_BR)
    if metric == "cosine":
        out_BR.neg_().add_(1).clamp_(0, 2)
        return
    squares_B, squares_R = query_BE.square().sum(1), gallery_RE.square().sum(1)
    out_BR.mul_(-2).add_(squares_B[:, None]).add_(squares_R).clamp_(min=0).sqrt_()


def _chunk_rows(embeddings: Tensor) -> int:
    return max(1, _CHUNK_BYTES // (8 * embeddings.shape[1]))
