"""Open-set identification: who is it, if anybody of the gallery? G gallery rows, Q probes (queries).

A probe is identified as the identity of its nearest gallery row if that is at most the threshold away, and is unknown
otherwise. Rows that do not count are left out as in retrieval: junk (identity -1), and the identity of the probe in its
own camera. A probe is known if a row of its identity is left, and unknown otherwise; identity 0 is always unknown.
The gallery must not hold a probe of identity 0 itself, which would be its own nearest row.

The detection and identification rate (rank 1) is the share of known probes whose nearest row is accepted and right; the
false-positive identification rate is the share of unknown probes whose nearest row is accepted. Phillips, Grother and
Micheals, Evaluation Methods in Face Recognition, Handbook of Face Recognition, 2011; ISO/IEC 19795-1 (FPIR, and FNIR,
which is 1 - the detection and identification rate).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_nonlocal._common.text import counted
from torch_nonlocal.tasks.reid.distances import BLOCK, Metric, distance_blocks
from torch_nonlocal.tasks.reid.labels import Array, Labels, checked_labels
from torch_nonlocal.tasks.reid.query_blocks import checked_blocks, column_blocks
from torch_nonlocal.tasks.reid.verification import RATES, OperatingPoint, last_within


@dataclass(frozen=True, eq=False)
class OpenSetScores:
    """Rates of identification at every threshold; exact.

    Attributes:
        thresholds: ascending distances; the first is -inf, which accepts nobody.
        false_positive_rates: share of unknown probes accepted at each threshold (FPIR).
        detection_rates: share of known probes accepted with the right identity at each threshold (DIR at rank 1).
        known: number of known probes.
        unknown: number of unknown probes.
    """

    thresholds: Array
    false_positive_rates: Array
    detection_rates: Array
    known: int
    unknown: int

    def at_false_positive_rate(self, rate: float) -> OperatingPoint:
        """The largest threshold whose FPIR is at most `rate`, and the rates there.

        Raises:
            ValueError: `rate` is outside [0, 1].
        """
        return last_within(rate, self.thresholds, self.false_positive_rates, self.detection_rates)

    def plain(self) -> dict[str, Any]:
        """The metrics as JSON values; thresholds that accept nobody are None."""
        names = "false_positive_rate", "detection_rate"
        points = [self.at_false_positive_rate(rate).plain(rate, *names) for rate in RATES]
        return {"known": self.known, "unknown": self.unknown, "operating_points": points}


def identify(
    distances_GQ: Any,
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    unknown_ids: Iterable[int] = (),
) -> OpenSetScores:
    """Open-set scores from distances.

    Args:
        distances_GQ: distances (G, Q), array or tensor; smaller is more similar.
        gallery_ids: (G,) integers; -1 junk, 0 distractor, identities from 1.
        gallery_cameras: (G,) integers or names.
        query_ids: (Q,) integers; 0 unknown, identities from 1.
        query_cameras: (Q,) integers or names.
        unknown_ids: identities whose gallery rows are left out, so that their probes are unknown; see
            `held_out_identities`.

    Raises:
        TypeError: see `checked_labels`, or distances are not real numbers.
        ValueError: shapes disagree, a distance is NaN or infinite, no probe is known or none is unknown, or see
            `checked_labels`.
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras, unknown_queries=True)
    return _identified(column_blocks(distances_GQ, labels), labels, unknown_ids)


def identify_embeddings(
    query_QE: Any,
    gallery_GE: Any,
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    unknown_ids: Iterable[int] = (),
    metric: Metric = "euclidean",
    block: int = BLOCK,
) -> OpenSetScores:
    """Open-set scores from embeddings; distances exist only for a block of probes at a time.

    Args:
        query_QE: embeddings (Q, E), tensor or array.
        gallery_GE: embeddings (G, E).
        gallery_ids: see `identify`, as are the other labels.
        gallery_cameras: (G,).
        query_ids: (Q,).
        query_cameras: (Q,).
        unknown_ids: see `identify`.
        metric: "euclidean" or "cosine"; thresholds are distances of this metric.
        block: probes of a block.

    Raises:
        TypeError: see `identify` and `distance_blocks`.
        ValueError: see `identify` and `distance_blocks`.
    """
    labels = checked_labels(gallery_ids, gallery_cameras, query_ids, query_cameras, unknown_queries=True)
    return _identified(distance_blocks(query_QE, gallery_GE, metric=metric, block=block), labels, unknown_ids)


def held_out_identities(ids: Any, share: float, *, seed: int = 0) -> list[int]:
    """A random share of the identities from 1, at least one and not all: `unknown_ids` of a closed set.

    Args:
        ids: integers; -1 and 0 are no identities.
        share: share of the identities, in (0, 1).
        seed: the same seed chooses the same identities.

    Raises:
        ValueError: `share` is not in (0, 1), or there are fewer than two identities.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, expected a number between 0 and 1")
    identities = np.unique(np.asarray(ids))
    identities = identities[identities > 0]
    if len(identities) < 2:
        raise ValueError(f"{counted(len(identities), 'identity', 'identities')} given, expected at least two")
    count = min(max(round(share * len(identities)), 1), len(identities) - 1)
    return sorted(np.random.default_rng(seed).choice(identities, count, replace=False).tolist())


def _identified(blocks: Iterable[tuple[int, Any]], labels: Labels, unknown_ids: Iterable[int]) -> OpenSetScores:
    enrolled_G = ~np.isin(labels.gallery_ids, list(unknown_ids))
    nearest_Q = np.empty(labels.queries)
    known_Q, right_Q = np.zeros((2, labels.queries), bool)
    for start, stop, distances_BG in checked_blocks(blocks, labels):
        kept_BG = enrolled_G & ~labels.junk(start, stop)
        matches_BG = enrolled_G & labels.matches(start, stop)
        seen_BG = np.where(kept_BG, distances_BG, np.inf)
        first_B = seen_BG.argmin(1)
        part = slice(start, stop)
        nearest_Q[part] = np.take_along_axis(seen_BG, first_B[:, None], 1)[:, 0]
        right_Q[part] = np.take_along_axis(matches_BG, first_B[:, None], 1)[:, 0]
        known_Q[part] = matches_BG.any(1)
    known, unknown = int(known_Q.sum()), int((~known_Q).sum())
    if not known:
        raise ValueError(
            f"none of {labels.queries} probes is known, expected gallery rows of an identity in another camera"
        )
    if not unknown:
        raise ValueError(
            f"all {labels.queries} probes are known, expected probes of identity 0 or `unknown_ids`, such as "
            "held_out_identities(query_ids, 0.5)"
        )
    edges_K = np.unique(nearest_Q[np.isfinite(nearest_Q)])
    false_K = np.searchsorted(np.sort(nearest_Q[~known_Q]), edges_K, "right")
    right_K = np.searchsorted(np.sort(nearest_Q[right_Q]), edges_K, "right")
    return OpenSetScores(
        thresholds=np.append(-np.inf, edges_K),
        false_positive_rates=np.append(0, false_K / unknown),
        detection_rates=np.append(0, right_K / known),
        known=known,
        unknown=unknown,
    )
