"""The similarity above which a person counts as known, at a chosen false-accept rate."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from torch_nonlocal.gallery.manifest import Threshold
from torch_nonlocal.gallery.vectors import Vectors

MOST_SAMPLES = 4_000
_SAMPLE_BLOCK = 1_000


def calibrate(
    vectors: Vectors,
    codes: np.ndarray,
    targets: Vectors,
    target_codes: np.ndarray,
    rate: float,
    *,
    most: int = MOST_SAMPLES,
) -> Threshold | None:
    """Choose the threshold by leaving out the identity of enrolled vectors.

    For each of up to `most` random vectors, the highest similarity to targets of other identities is what an unknown
    person with this vector would reach. The threshold is the smallest that at most `rate` of unknown persons exceed,
    counting the new person as one more sample (split conformal prediction, Vovk et al., 2005). This assumes that
    unknown persons resemble the enrolled ones and are seen by the same cameras.

    Args:
        vectors: the gallery.
        codes: identity of each vector, (rows,).
        targets: what a search ranks: the vectors again, or one vector for each identity.
        target_codes: identity of each target.
        rate: in (0, 1): fraction of unknown persons that may be accepted as an enrolled one.
        most: maximum number of samples.

    Returns:
        The threshold, or None if the gallery has fewer than two identities.
    """
    identities = len(np.unique(codes))
    if identities < 2:
        return None
    chosen = np.sort(np.random.default_rng(0).choice(len(vectors), min(len(vectors), most), replace=False))
    best = np.concatenate(
        [
            _best_of_others(vectors.take(part), codes[part], targets, target_codes)
            for part in np.split(chosen, range(_SAMPLE_BLOCK, len(chosen), _SAMPLE_BLOCK))
        ]
    )
    exceeding = math.floor(rate * (len(best) + 1)) - 1
    descending = np.sort(best)[::-1]
    similarity = float(np.clip(descending[max(0, exceeding)], -1, 1))
    return Threshold(similarity, rate, len(best), identities, attainable=exceeding >= 0)


def check_rate(rate: float) -> float:
    """A false-accept rate as a Python number.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not isinstance(rate, Real) or not 0 < rate < 1:
        raise ValueError(f"false-accept rate {rate!r:.40}: expected a number between 0 and 1, such as 0.01 for 1 %")
    return float(rate)


def _best_of_others(
    samples_SD: np.ndarray, codes: np.ndarray, targets: Vectors, target_codes: np.ndarray
) -> np.ndarray:
    """The highest similarity of each sample to a target of another identity, (S,)."""
    best = np.full(len(samples_SD), -np.inf, np.float32)
    for start, block in targets.blocks():
        similarities = samples_SD @ block.T
        own = codes[:, None] == target_codes[start : start + len(block)]
        similarities[own] = -np.inf
        np.maximum(best, similarities.max(1), out=best)
    return best
