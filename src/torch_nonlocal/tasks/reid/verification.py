"""Verification: do two tracklets show the same identity? ROC, equal error rate and thresholds.

Each of Q queries is compared with each of G gallery rows. A pair is accepted if its distance is at most the threshold.
Pairs that do not count: junk (identity -1), and the same identity in the same camera, which is too easy. Distractors
(identity 0) are different from every query. For similarities, pass their negatives as distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from torch_nonlocal.tasks.reid.distances import BLOCK, Metric, distance_blocks
from torch_nonlocal.tasks.reid.labels import Array, Labels, checked_labels
from torch_nonlocal.tasks.reid.query_blocks import checked_blocks, column_blocks

RATES = (0.1, 0.01, 0.001)
"""False-accept rates that tables show."""

EXACT_PAIRS = 2**20
"""Up to this many pairs, every distance is a threshold of the ROC."""

GRID = 2**16
"""Of more pairs, the thresholds are the distances of same pairs (of up to `EXACT_PAIRS`), those of about this many
different pairs, and this many equal steps."""


class OperatingPoint(NamedTuple):
    """Rates at a threshold.

    Attributes:
        threshold: distances up to this one are accepted; -inf accepts none.
        false_rate: share of wrong acceptances.
        true_rate: share of right acceptances.
    """

    threshold: float
    false_rate: float
    true_rate: float

    def plain(self, rate: float, false_name: str, true_name: str) -> dict[str, Any]:
        """The rates as JSON values, under their names; a threshold that accepts none is None.

        Args:
            rate: the false rate that was asked for.
            false_name: name of the share of wrong acceptances.
            true_name: name of the share of right acceptances.
        """
        threshold = self.threshold if np.isfinite(self.threshold) else None
        return {"at_most": rate, "threshold": threshold, false_name: self.false_rate, true_name: self.true_rate}


@dataclass(frozen=True, eq=False)
class VerificationScores:
    """The ROC of pairs. The rates at each threshold are exact for any number of pairs.

    Attributes:
        thresholds: ascending distances; the first is -inf, which accepts no pair.
        false_accept_rates: share of different pairs accepted at each threshold (FAR).
        true_accept_rates: share of same pairs accepted at each threshold (TAR).
        area: area under the ROC; equal distances of a same and a different pair count one half.
        area_error: largest possible error of `area`: 0 up to `EXACT_PAIRS` pairs or same pairs.
        equal_error_rate: FAR where it equals the false-reject rate, 1 - TAR, on the ROC as a polygon; exact up to
            `EXACT_PAIRS` same pairs.
        equal_error_threshold: the first threshold at which FAR is not below the false-reject rate.
        same_pairs: number of pairs of the same identity in different cameras.
        different_pairs: number of pairs of different identities.
    """

    thresholds: Array
    false_accept_rates: Array
    true_accept_rates: Array
    area: float
    area_error: float
    equal_error_rate: float
    equal_error_threshold: float
    same_pairs: int
    different_pairs: int

    def at_false_accept_rate(self, rate: float) -> OperatingPoint:
        """The largest of the thresholds whose FAR is at most `rate`, and the rates there.

        Raises:
            ValueError: `rate` is outside [0, 1].
        """
        return last_within(rate, self.thresholds, self.false_accept_rates, self.true_accept_rates)

    def plain_point(self, rate: float) -> dict[str, Any]:
        """The rates at `at_false_accept_rate(rate)` as JSON values."""
        return self.at_false_accept_rate(rate).plain(rate, "false_accept_rate", "true_accept_rate")

    def plain(self) -> dict[str, Any]:
        """The metrics as JSON values; thresholds that accept no pair are None."""
        return {
            "area": self.area,
            "equal_error_rate": self.equal_error_rate,
            "equal_error_threshold": self.equal_error_threshold,
            "same_pairs": self.same_pairs,
            "different_pairs": self.different_pairs,
            "operating_points": [self.plain_point(rate) for rate in RATES],
        }


def verify(
    distances_GQ: Any, gallery_ids: Any, gallery_cameras: Any, query_ids: Any, query_cameras: Any
) -> VerificationScores:
    """Verification scores from distances.

    Args:
        distances_GQ: distances (G, Q), array or tensor; smaller is more similar.
        gallery_ids: (G,) integers; -1 junk, 0 distractor, identities from 1.
        gallery_cameras: (G,) integers or names.
        query_ids: (Q,) integers from 1.
        query_cameras: (Q,) integers or names.

    Raises:
        TypeError: see `checked_labels`, or distances are not real numbers.
        ValueError: shapes disagree, a distance is NaN or infinite, there are no pairs of the same identity in different
            cameras or none of different identities, or see `checked_labels`.
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras)
    return _verified(lambda: column_blocks(distances_GQ, labels), labels)


def verify_embeddings(
    query_QE: Any,
    gallery_GE: Any,
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    metric: Metric = "euclidean",
    block: int = BLOCK,
) -> VerificationScores:
    """Verification scores from embeddings.

    Distances are computed twice and exist only for a block of queries at a time: memory does not grow with the number
    of pairs.

    Args:
        query_QE: embeddings (Q, E), tensor or array.
        gallery_GE: embeddings (G, E).
        gallery_ids: see `verify`, as are the other labels.
        gallery_cameras: (G,).
        query_ids: (Q,).
        query_cameras: (Q,).
        metric: "euclidean" or "cosine"; thresholds are distances of this metric.
        block: queries of a block.

    Raises:
        TypeError: see `verify` and `distance_blocks`.
        ValueError: see `verify` and `distance_blocks`.
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras)
    return _verified(lambda: distance_blocks(query_QE, gallery_GE, metric=metric, block=block), labels)


def last_within(rate: float, thresholds: Array, false_rates: Array, true_rates: Array) -> OperatingPoint:
    """The last point whose false rate is at most `rate`; false rates ascend from 0.

    Raises:
        ValueError: `rate` is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}, expected 0 to 1")
    last = int(np.searchsorted(false_rates, rate, "right")) - 1
    return OperatingPoint(float(thresholds[last]), float(false_rates[last]), float(true_rates[last]))


def _verified(blocks: Callable[[], Iterable[tuple[int, Any]]], labels: Labels) -> VerificationScores:
    edges_K, same_pairs, different_pairs = _edges(blocks, labels)
    same, different = _Counts(edges_K), _Counts(edges_K)
    for same_P, different_P in _pairs(blocks(), labels):
        same.add(same_P)
        different.add(different_P)
    false_rates = np.append(0, different.until / different_pairs)
    true_rates = np.append(0, same.until / same_pairs)
    thresholds = np.append(-np.inf, edges_K)
    # pairs at a threshold are tied; of pairs between two thresholds only the numbers are known
    tied, mixed = same.equal * different.equal, same.between * different.between
    ahead = same.until - same.equal
    won = different.equal * ahead + different.between * (ahead - same.between)
    pairs = float(same_pairs) * different_pairs
    rate, number = _equal_error(different.steps / different_pairs, same.steps / same_pairs)
    return VerificationScores(
        thresholds=thresholds,
        false_accept_rates=false_rates,
        true_accept_rates=true_rates,
        area=float((won + (tied + mixed) / 2).sum() / pairs),
        area_error=float(mixed.sum() / 2 / pairs),
        equal_error_rate=rate,
        equal_error_threshold=float(edges_K[number]),
        same_pairs=same_pairs,
        different_pairs=different_pairs,
    )


def _equal_error(false_rates: Array, true_rates: Array) -> tuple[float, int]:
    """The equal error rate, and the first edge at which FAR + TAR reaches 1, from rates as those of `_Counts.steps`."""
    excess = false_rates + true_rates - 1
    number = int(np.argmax(excess >= 0))
    share = -excess[number - 1] / (excess[number] - excess[number - 1])
    rate = false_rates[number - 1] + share * (false_rates[number] - false_rates[number - 1])
    return float(rate), number // 2


def _pairs(blocks: Iterable[tuple[int, Any]], labels: Labels) -> Iterator[tuple[Array, Array]]:
    """Distances of the same and of the different pairs of each block."""
    for start, stop, distances_BG in checked_blocks(blocks, labels):
        same_BG, junk_BG = labels.matches(start, stop), labels.junk(start, stop)
        yield distances_BG[same_BG].astype(np.float64), distances_BG[~(same_BG | junk_BG)].astype(np.float64)


def _edges(blocks: Callable[[], Iterable[tuple[int, Any]]], labels: Labels) -> tuple[Array, int, int]:
    """Thresholds of the ROC, and the numbers of same and of different pairs."""
    same_pairs = different_pairs = 0
    for start in range(0, labels.queries, BLOCK):
        same_BG, junk_BG = (kind(start, start + BLOCK) for kind in (labels.matches, labels.junk))
        same_pairs += int(same_BG.sum())
        different_pairs += int((~(same_BG | junk_BG)).sum())
    for pairs, kind in (
        (same_pairs, "of the same identity in different cameras"),
        (different_pairs, "of different identities"),
    ):
        if not pairs:
            raise ValueError(f"there is no pair {kind}, expected at least one")
    exact = same_pairs + different_pairs <= EXACT_PAIRS
    kept, least, most = [], np.inf, -np.inf
    for same_P, different_P in _pairs(blocks(), labels):
        kept.append(same_P[:: -(-same_pairs // EXACT_PAIRS)].copy())  # a view would keep all distances
        kept.append(different_P[:: 1 if exact else -(-different_pairs // GRID)].copy())
        for one in (same_P, different_P):
            least, most = min(least, one.min(initial=np.inf)), max(most, one.max(initial=-np.inf))
    if not exact:
        kept.append(np.linspace(least, most, GRID + 1))
    return np.unique(np.concatenate(kept)), same_pairs, different_pairs


class _Counts:
    """How many values are at each of K edges, and between it and the edge before."""

    def __init__(self, edges_K: Array) -> None:
        self.edges_K = edges_K
        self.until, self.equal = np.zeros((2, len(edges_K)))

    def add(self, values: Array) -> None:
        ordered = np.sort(values)
        until_K = np.searchsorted(ordered, self.edges_K, "right")
        self.until += until_K
        self.equal += until_K - np.searchsorted(ordered, self.edges_K, "left")

    @property
    def between(self) -> Array:
        return np.diff(self.until, prepend=0) - self.equal

    @property
    def steps(self) -> Array:
        """(2 K,), the number of values below the first edge (none), up to it, below the second, up to it, and so on."""
        return np.stack([self.until - self.equal, self.until], 1).ravel()
