"""k-reciprocal re-ranking in bounded memory. N items are queries and gallery together, E the width of embeddings.

Two tracklets are close if they share neighbors that are neighbors of each other. Zhong et al., Re-ranking Person
Re-identification with k-reciprocal Encoding, CVPR 2017. Where the paper and the program of its authors differ, this
follows the program: a candidate's neighbors are added if *more* than two thirds of them are known (eq. 5 has "at
least"), and distances are squares divided by the largest of their row.

Encodings have a few hundred values other than zero per item and are stored as sparse rows. Distances between all items
exist for a block at a time, so that memory grows with N, not with N x N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_nonlocal.tasks.reid.distances import (
    BLOCK,
    DistanceBlock,
    Metric,
    checked_embeddings,
    distance_blocks,
    prepared,
    smallest,
)
from torch_nonlocal.tasks.reid.labels import Array, checked_index

_COMPARED = 2**21
"""Neighbors of neighbors are compared at a time: 16 MB of them, whatever k1 is."""

_SAME = 1e-3
"""Embeddings of one tracklet, computed in other batches, differ by less than this share of their length."""


def reranked_blocks(
    query_QE: Any,
    gallery_GE: Any,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    query_index: Any = None,
    metric: Metric = "euclidean",
    block: int = BLOCK,
) -> Iterator[DistanceBlock]:
    """Re-ranked distances between queries and gallery, a block of queries at a time, for `evaluate_blocks`.

    Args:
        query_QE: embeddings (Q, E), tensor or array.
        gallery_GE: embeddings (G, E).
        k1: number of neighbors that may be k-reciprocal.
        k2: number of neighbors whose encodings are averaged; 1 averages none.
        lambda_value: weight of the original distance, in [0, 1]; the Jaccard distance has the rest.
        query_index: (Q,) the gallery row of each query, whose embedding is then used for both. None if the gallery does
            not hold the queries; otherwise each query would be its own nearest neighbor twice.
        metric: "euclidean", or "cosine" for embeddings normalized to length 1.
        block: items of a block.

    Returns:
        An iterator of blocks in the order of the queries; distances are in [0, 1]. Most of the work is done before the
        first block.

    Raises:
        TypeError: see `distance_blocks` and `checked_index`.
        ValueError: `k1` or `k2` is below 1, `lambda_value` is outside [0, 1], an embedding of `query_index` is not
            that of its query, or see `distance_blocks` and `checked_index`.
    """
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 is {k1}, k2 is {k2}: expected at least 1")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}, expected 0 to 1")
    query_QE, gallery_GE = checked_embeddings(query_QE, gallery_GE, metric=metric)
    if metric == "cosine":
        query_QE, gallery_GE = prepared(query_QE, metric), prepared(gallery_GE, metric)
    if query_index is None:
        dtype = torch.promote_types(query_QE.dtype, gallery_GE.dtype)
        items_NE = torch.cat([query_QE.to(dtype), gallery_GE.to(dtype)])
        query_items, gallery_items = np.arange(len(query_QE)), slice(len(query_QE), None)
    else:
        items_NE, gallery_items = gallery_GE, slice(None)
        query_items = _checked_index(query_index, query_QE, gallery_GE)
    return _reranked(items_NE, query_items, gallery_items, k1, k2, lambda_value, block)


def _checked_index(query_index: Any, query_QE: Tensor, gallery_GE: Tensor) -> Array:
    index = checked_index(query_index, len(query_QE), len(gallery_GE))
    for query, row in enumerate(index.tolist()):
        own_E, other_E = query_QE[query].double(), gallery_GE[row].to(query_QE.device).double()
        if (own_E - other_E).norm() > _SAME * own_E.norm():
            raise ValueError(f"query_index[{query}]: the embedding of gallery row {row} is not that of query {query}")
    return index


class _SparseRows(NamedTuple):
    """A matrix by its values other than zero: those of row i are at starts[i]:starts[i + 1]."""

    starts: Array
    columns: Array
    values: Array

    def row(self, number: int) -> tuple[Array, Array]:
        part = slice(self.starts[number], self.starts[number + 1])
        return self.columns[part], self.values[part]

    def transposed(self) -> _SparseRows:
        """The square matrix by its columns."""
        order = np.argsort(self.columns, kind="stable")
        size = len(self.starts) - 1
        rows = np.repeat(np.arange(size, dtype=np.int32), np.diff(self.starts))
        counts = np.bincount(self.columns, minlength=size)
        return _SparseRows(np.append(0, np.cumsum(counts)), rows[order], self.values[order])


def _sparse_rows(rows: Iterable[tuple[Array, Array]]) -> _SparseRows:
    columns, values = zip(*((columns.astype(np.int32), values) for columns, values in rows), strict=True)
    starts = np.append(0, np.cumsum([len(one) for one in columns]))
    return _SparseRows(starts, np.concatenate(columns), np.concatenate(values))


def _reranked(
    items_NE: Tensor, query_items: Array, gallery_items: slice, k1: int, k2: int, lambda_value: float, block: int
) -> Iterator[DistanceBlock]:
    neighbors_NK, largest_N = _neighbors(items_NE, max(k1 + 1, k2), block)
    rows = _sparse_rows(_encodings(items_NE, neighbors_NK[:, : k1 + 1], largest_N, k1))
    if k2 > 1:
        rows = _sparse_rows(_averaged(rows, neighbors_NK[:, :k2]))
    columns = rows.transposed()
    query_QE = items_NE[torch.as_tensor(query_items, device=items_NE.device)]
    for start, distances_BG in distance_blocks(query_QE, items_NE[gallery_items], block=block):
        for item, distances_G in zip(query_items[start : start + len(distances_BG)], distances_BG, strict=True):
            jaccard_G = torch.from_numpy(_jaccard(rows, columns, item)[gallery_items]).to(distances_G.device)
            distances_G.square_().mul_(lambda_value / float(largest_N[item])).add_(jaccard_G, alpha=1 - lambda_value)
        yield DistanceBlock(start, distances_BG)


def _neighbors(items_NE: Tensor, most: int, block: int) -> tuple[Array, Array]:
    """The nearest items of each item, itself among them, and its largest squared distance (1 if that is 0)."""
    count = len(items_NE)
    neighbors_NK = np.empty((count, min(most, count)), np.int64)
    largest_N = np.empty(count)
    for start, distances_BN in distance_blocks(items_NE, items_NE, block=block):
        stop = start + len(distances_BN)
        neighbors_NK[start:stop] = smallest(distances_BN, neighbors_NK.shape[1]).indices.cpu().numpy()
        largest_N[start:stop] = distances_BN.amax(1).square().cpu().numpy()
    largest_N[largest_N == 0] = 1
    return neighbors_NK, largest_N


def _encodings(items_NE: Tensor, neighbors_NK: Array, largest_N: Array, k1: int) -> Iterator[tuple[Array, Array]]:
    """Columns and values of each item's k-reciprocal encoding: Gaussian weights of its expanded set (eq. 7)."""
    mutual_NK = _mutual(neighbors_NK)
    half_NH = neighbors_NK[:, : round(k1 / 2) + 1]
    mutual_half_NH = _mutual(half_NH)
    inside_N = np.zeros(len(neighbors_NK), bool)
    for item, (near_K, mutual_K) in enumerate(zip(neighbors_NK, mutual_NK, strict=True)):
        reciprocal = near_K[mutual_K]
        inside_N[reciprocal] = True
        candidates_RH, valid_RH = half_NH[reciprocal], mutual_half_NH[reciprocal]
        known_R = (inside_N[candidates_RH] & valid_RH).sum(1)
        added_RH = valid_RH & (3 * known_R > 2 * valid_RH.sum(1))[:, None]
        inside_N[reciprocal] = False
        expanded = np.union1d(reciprocal, candidates_RH[added_RH])
        weights = np.exp(-_squared_distances(items_NE, item, expanded) / largest_N[item])
        yield expanded, weights / weights.sum()


def _mutual(neighbors_NK: Array) -> Array:
    """True where an item is among the neighbors of its neighbor."""
    parts, rows = [], max(1, _COMPARED // neighbors_NK.shape[1] ** 2)
    for items in np.split(np.arange(len(neighbors_NK)), range(rows, len(neighbors_NK), rows)):
        parts.append((neighbors_NK[neighbors_NK[items]] == items[:, None, None]).any(2))
    return np.concatenate(parts)


def _squared_distances(items_NE: Tensor, item: int, others: Array) -> Array:
    rows = items_NE[torch.as_tensor(others, device=items_NE.device)].double()
    return (rows - items_NE[item].double()).square().sum(1).cpu().numpy()


def _averaged(rows: _SparseRows, neighbors_NK: Array) -> Iterator[tuple[Array, Array]]:
    """Mean of the encodings of each item's nearest neighbors (eq. 11)."""
    total_N = np.zeros(len(neighbors_NK))
    for near_K in neighbors_NK:
        parts = [rows.row(one) for one in near_K]
        for columns, values in parts:
            total_N[columns] += values
        union = np.unique(np.concatenate([columns for columns, _ in parts]))
        yield union, total_N[union] / len(near_K)
        total_N[union] = 0


def _jaccard(rows: _SparseRows, columns: _SparseRows, item: int) -> Array:
    """Jaccard distances between an item and all items (eq. 10), whose encodings sum to one."""
    own_columns, own_values = rows.row(item)
    first, counts = columns.starts[own_columns], np.diff(columns.starts)[own_columns]
    ends = np.cumsum(counts)
    index = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
    shared = np.minimum(np.repeat(own_values, counts), columns.values[index])
    common_N = np.bincount(columns.columns[index], weights=shared, minlength=len(rows.starts) - 1)
    return np.maximum(1 - common_N / (2 - common_N), 0)  # rounding may give less than 0 for equal encodings
