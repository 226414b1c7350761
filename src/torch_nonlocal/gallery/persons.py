"""One vector for each identity: the normalized mean of its tracklets."""

from __future__ import annotations

import numpy as np

from torch_nonlocal.gallery.parts import DamagedGalleryError
from torch_nonlocal.gallery.vectors import Vectors


def person_vectors(vectors: Vectors, codes: np.ndarray, count: int) -> np.ndarray:
    """Normalized means, (count, dimension) float32.

    Args:
        vectors: normalized vectors of tracklets.
        codes: number of the identity of each, in [0, count).
        count: number of identities.

    Returns:
        One row for each identity. Where the vectors of an identity cancel out, the row is its first vector.

    Raises:
        DamagedGalleryError: a vector contains NaN or infinite values.
    """
    sums = np.zeros((count, vectors.dimension), np.float32)
    for start, block in vectors.blocks():
        own = codes[start : start + len(block)]
        order = np.argsort(own, kind="stable")
        present, first = np.unique(own[order], return_index=True)
        sums[present] += np.add.reduceat(block[order], first, axis=0)
    if not np.isfinite(sums).all():
        raise DamagedGalleryError(f"{vectors.where} is damaged: a stored vector contains NaN or infinite values")
    lengths = np.linalg.norm(sums, axis=1)
    for number in np.flatnonzero(lengths < 1e-6):
        sums[number] = vectors.take(np.flatnonzero(codes == number)[:1])[0]
        lengths[number] = 1
    return sums / lengths[:, None]
