"""The gallery rows nearest to each query that count. Q queries, G gallery rows, B of a block, K matches kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_nonlocal.tasks.reid.labels import Array, Labels
from torch_nonlocal.tasks.reid.metrics import Protocol
from torch_nonlocal.tasks.reid.query_blocks import checked_blocks

LISTED = 10
"""Matches of each query that rankings.csv lists."""


@dataclass(frozen=True, eq=False)
class Rankings:
    """Matches of each query, nearest first, without the rows that do not count.

    Attributes:
        protocol: the protocol; "common" leaves out the rows of the queries.
        rows: int64 (Q, K), gallery rows; -1 where fewer than K rows count.
        distances: float64 (Q, K); infinite where fewer than K rows count.
        right: bool (Q, K), whether the row shows the identity of the query.
        first_right: int64 (Q,), the gallery row of the nearest right match; -1 if there is none.
        first_right_rank: int64 (Q,), its rank from 1; 0 if there is none.
        first_right_distance: float64 (Q,), its distance; infinite if there is none.
    """

    protocol: Protocol
    rows: Array
    distances: Array
    right: Array
    first_right: Array
    first_right_rank: Array
    first_right_distance: Array


def rank_matches(
    blocks: Iterable[tuple[int, Any]], labels: Labels, protocol: Protocol, *, most: int = LISTED
) -> Rankings:
    """Rank the gallery for each query.

    Rows of identity -1 (junk), those of the query's identity in its own camera and, under "common", the rows of
    `Labels.query_index` do not count. Of rows at equal distance the first in the gallery is the nearer one.

    Args:
        blocks: pairs of the first query of a block and its distances (B, G), in the order of the queries.
        labels: identities and cameras.
        protocol: see above.
        most: K, at least 1.

    Raises:
        ValueError: blocks are missing or have other shapes.
    """
    queries = labels.queries
    rows, right = np.full((queries, most), -1, np.int64), np.zeros((queries, most), bool)
    distances = np.full((queries, most), np.inf)
    first, first_rank, first_distance = np.full(queries, -1), np.zeros(queries, np.int64), np.full(queries, np.inf)
    listed_G = np.ones(labels.gallery, bool)
    if protocol == "common" and labels.query_index is not None:
        listed_G[labels.query_index] = False
    for start, stop, distances_BG in checked_blocks(blocks, labels):
        matches_BG, junk_BG = labels.matches(start, stop), labels.junk(start, stop)
        for offset, query in enumerate(range(start, stop)):
            counted = np.flatnonzero(listed_G & ~junk_BG[offset])
            order = counted[np.argsort(distances_BG[offset, counted], kind="stable")]
            kept, found = order[:most], np.flatnonzero(matches_BG[offset, order])
            rows[query, : len(kept)] = kept
            distances[query, : len(kept)] = distances_BG[offset, kept]
            right[query, : len(kept)] = matches_BG[offset, kept]
            if len(found):
                first[query], first_rank[query] = order[found[0]], found[0] + 1
                first_distance[query] = distances_BG[offset, first[query]]
    return Rankings(protocol, rows, distances, right, first, first_rank, first_distance)
