"""Retrieval metrics of re-identification: CMC, mAP and mINP under two protocols. G gallery rows, Q queries.

Both protocols rank the gallery by distance; rows at equal distance rank in the order of the gallery. A match shows the
identity of the query in another camera. Rows of identity -1 (junk), and those that show the identity of the query in
its own camera, do not count: they take no rank. Rows of identity 0 (distractors) rank and match nobody.

| | official | common |
|---|---|---|
| gallery | all rows, the queries included | without the rows of `query_index` |
| queries without a match | score 0 | are left out of all averages |
| average precision | trapezoidal rule | mean of the precision at each match |

"official" is the evaluation that the authors of MARS (Zheng et al., ECCV 2016) publish, "common" is that of most
published repositories. Numbers of different protocols cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.tasks.reid.distances import BLOCK, Metric, distance_blocks
from torch_nonlocal.tasks.reid.labels import Array, Labels, checked_labels
from torch_nonlocal.tasks.reid.query_blocks import checked_blocks, column_blocks

Protocol = Literal["official", "common"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
RANKS = (1, 5, 10, 20)
"""The ranks of the CMC that tables show."""

LEAST_CMC = 50
"""The CMC has at least this many ranks, so that `RANKS` exist for every gallery."""


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """Retrieval metrics under one protocol, all in [0, 1].

    Attributes:
        protocol: "official" or "common"; numbers of different protocols cannot be compared.
        mean_ap: mean average precision (mAP).
        cmc: float64; entry r - 1 is the share of queries with a match among the first r ranks. Its length is the number
            of gallery rows given, or 50 if that is more; it is constant after the last rank.
        mean_inp: mean inverse negative penalty (mINP): number of matches divided by the rank of the last one.
        scored: number of queries that the averages are over.
        skipped: number of queries left out because they have no match; 0 under "official", where they score 0.
        average_precisions: float64 (Q,), the average precision of each query; NaN if it is skipped.
    """

    protocol: Protocol
    mean_ap: float
    cmc: Array
    mean_inp: float
    scored: int
    skipped: int
    average_precisions: Array

    def rank(self, number: int) -> float:
        """Share of queries with a match among the first `number` ranks, such as rank-1.

        Raises:
            ValueError: `number` is below 1.
        """
        if number < 1:
            raise ValueError(f"rank {number}: expected at least 1")
        return float(self.cmc[min(number, len(self.cmc)) - 1])

    def plain(self) -> dict[str, Any]:
        """The metrics as JSON values: protocol, rank1, rank5, rank10, rank20, mean_ap, mean_inp, scored, skipped."""
        ranks = {f"rank{number}": self.rank(number) for number in RANKS}
        averages = {"mean_ap": self.mean_ap, "mean_inp": self.mean_inp}
        return {"protocol": self.protocol, **ranks, **averages, "scored": self.scored, "skipped": self.skipped}


def evaluate(
    distances_GQ: Any,
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    protocol: Protocol = "official",
    query_index: Any = None,
) -> RetrievalScores:
    """CMC, mAP and mINP from distances.

    Args:
        distances_GQ: distances (G, Q), array or tensor; smaller is more similar. Extra memory is about 3 KB for each
            gallery row, whatever the number of queries, which are scored in blocks.
        gallery_ids: (G,) integers; -1 junk, 0 distractor, identities from 1.
        gallery_cameras: (G,) integers or names.
        query_ids: (Q,) integers from 1.
        query_cameras: (Q,) integers or names.
        protocol: "official" or "common"; see the table of this module.
        query_index: (Q,) the gallery rows that are the queries, in any order; "common" leaves them out. None if the
            gallery does not hold the queries.

    Raises:
        TypeError: see `checked_labels`, or distances are not real numbers.
        ValueError: shapes disagree, a distance is NaN or infinite, the protocol is unknown, no query has a match, or
            see `checked_labels`.

    References:
        Zheng et al., MARS: A Video Benchmark for Large-Scale Person Re-identification, ECCV 2016 ("official");
        Ye et al., Deep Learning for Person Re-Identification: A Survey and Outlook, TPAMI 2021 (mINP).
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras, query_index=query_index)
    _check_protocol(protocol)
    return _scores(column_blocks(distances_GQ, labels), labels, (protocol,))[protocol]


def evaluate_embeddings(
    query_QE: Any,
    gallery_GE: Any,
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    protocols: Sequence[Protocol] = PROTOCOLS,
    query_index: Any = None,
    metric: Metric = "euclidean",
    block: int = BLOCK,
) -> dict[Protocol, RetrievalScores]:
    """CMC, mAP and mINP from embeddings, under several protocols in one pass.

    Distances exist only for a block of queries at a time, so memory does not grow with queries x gallery.

    Args:
        query_QE: embeddings (Q, E), tensor or array.
        gallery_GE: embeddings (G, E).
        gallery_ids: see `evaluate`, as are the other labels.
        gallery_cameras: (G,).
        query_ids: (Q,).
        query_cameras: (Q,).
        protocols: the protocols to score.
        query_index: see `evaluate`.
        metric: "euclidean" or "cosine".
        block: queries of a block.

    Returns:
        The scores of each protocol by its name.

    Raises:
        TypeError: see `evaluate` and `distance_blocks`.
        ValueError: see `evaluate` and `distance_blocks`.
    """
    blocks = distance_blocks(query_QE, gallery_GE, metric=metric, block=block)
    return evaluate_blocks(
        blocks, gallery_ids, gallery_cameras, query_ids, query_cameras, protocols=protocols, query_index=query_index
    )


def evaluate_blocks(
    blocks: Iterable[tuple[int, Any]],
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    protocols: Sequence[Protocol] = PROTOCOLS,
    query_index: Any = None,
) -> dict[Protocol, RetrievalScores]:
    """As `evaluate_embeddings`, from blocks of distances, such as those of re-ranking.

    Args:
        blocks: pairs of the first query of a block and its distances (B, G), in the order of the queries.
        gallery_ids: see `evaluate`, as are the other labels.
        gallery_cameras: (G,).
        query_ids: (Q,).
        query_cameras: (Q,).
        protocols: the protocols to score.
        query_index: see `evaluate`.

    Raises:
        TypeError: see `evaluate`.
        ValueError: blocks are missing or have other shapes, or see `evaluate`.
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras, query_index=query_index)
    if not protocols:
        raise ValueError(f"no protocol is given, expected one or more of {', '.join(PROTOCOLS)}")
    for protocol in protocols:
        _check_protocol(protocol)
    return _scores(blocks, labels, protocols)


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, PROTOCOLS) or f"expected {' or '.join(map(repr, PROTOCOLS))}"
        raise ValueError(f"unknown protocol {protocol!r}; {hint}")


def _scores(
    blocks: Iterable[tuple[int, Any]], labels: Labels, protocols: Sequence[Protocol]
) -> dict[Protocol, RetrievalScores]:
    ranked = {protocol: np.ones(labels.gallery, bool) for protocol in protocols}
    if "common" in ranked and labels.query_index is not None:
        ranked["common"][labels.query_index] = False
    tallies: dict[Protocol, _Tally] = {protocol: _Tally(protocol, labels) for protocol in protocols}
    for start, stop, distances_BG in checked_blocks(blocks, labels):
        matches_BG, junk_BG = labels.matches(start, stop), labels.junk(start, stop)
        for row, query in enumerate(range(start, stop)):
            for protocol, tally in tallies.items():
                kept_G = ranked[protocol] & ~junk_BG[row]
                tally.add(query, match_ranks(distances_BG[row, kept_G], matches_BG[row, kept_G]))
    return {protocol: tally.scores() for protocol, tally in tallies.items()}


def match_ranks(distances_K: Array, matches_K: Array) -> Array:
    """Ranks from 1 of the matches among K gallery rows that count, ascending."""
    values = np.sort(distances_K[matches_K])
    ordered_K = np.sort(distances_K)
    before, until = (np.searchsorted(ordered_K, values, side) for side in ("left", "right"))
    if (until - before > 1).any():  # a match is as far as another row: ranks follow the order of the gallery
        return np.flatnonzero(matches_K[np.argsort(distances_K, kind="stable")]) + 1
    return until


class _Tally:
    """Scores of the queries seen so far."""

    def __init__(self, protocol: Protocol, labels: Labels) -> None:
        self.protocol: Protocol = protocol
        self.queries = labels.queries
        self.average_precisions, self.inverse_penalties = np.full((2, labels.queries), np.nan)
        self.first_hits = np.zeros(max(labels.gallery, LEAST_CMC), np.int64)

    def add(self, query: int, ranks_M: Array) -> None:
        """Score a query whose M matches have these ranks."""
        if not len(ranks_M):
            if self.protocol == "official":
                self.average_precisions[query] = self.inverse_penalties[query] = 0
            return
        found_M = np.arange(1, len(ranks_M) + 1)
        precisions_M = found_M / ranks_M
        if self.protocol == "official":  # the precision just before each match; before the first rank it is one
            before_M = np.where(ranks_M == 1, 1, (found_M - 1) / np.maximum(ranks_M - 1, 1))
            precisions_M = (before_M + precisions_M) / 2
        self.average_precisions[query] = precisions_M.mean()
        self.inverse_penalties[query] = len(ranks_M) / ranks_M[-1]
        self.first_hits[ranks_M[0] - 1] += 1

    def scores(self) -> RetrievalScores:
        """The averages.

        Raises:
            ValueError: no query has a match.
        """
        if not self.first_hits.any():
            raise ValueError(
                f"protocol {self.protocol!r}: none of {self.queries} queries has a match: a gallery row of its "
                f"identity in another camera{', not itself a query' if self.protocol == 'common' else ''}"
            )
        scored = int(np.isfinite(self.average_precisions).sum())
        return RetrievalScores(
            protocol=self.protocol,
            mean_ap=float(np.nanmean(self.average_precisions)),
            cmc=np.cumsum(self.first_hits) / scored,
            mean_inp=float(np.nanmean(self.inverse_penalties)),
            scored=scored,
            skipped=self.queries - scored,
            average_precisions=self.average_precisions,
        )
