"""Search of many vectors: 4-bit product quantization scanned by FAISS, then exact similarities of the candidates.

Every code is scanned, so no cluster structure is assumed: vectors of many identities in many dimensions have little
between identities, and inverted lists lose recall on them. FAISS looks distances up in registers ("fast scan",
after Andre et al., Quicker ADC, 2019), which takes about 5 ns per 64-byte code.

Codes and centroids are stored as arrays, and FAISS's own file format is never read: its reader trusts what it reads.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torch_nonlocal._common.optional import require
from torch_nonlocal.gallery.manifest import IndexInfo
from torch_nonlocal.gallery.parts import DamagedGalleryError, open_array, write_array
from torch_nonlocal.gallery.vectors import Vectors, best_rows, exact_nearest

FLAT_BELOW = 100_000
"""Number of vectors from which codes are scanned instead of the vectors."""

RECALL_AT = 10
_CENTROIDS = 16  # of 4 bits
_MOST_SUBSPACES = 128
_TRAINING_ROWS = 20_000
_MEASURED_QUERIES = 200
_CANDIDATES = (256, 512, 1024, 2048, 4096)
_WANTED, _ACCEPTED = 0.99, 0.95  # recall at which no more candidates are tried; below which the index is not used
_BATCH = 64


class Flat:
    """Search that compares queries with every vector.

    Args:
        vectors: what is searched.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def nearest(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the most similar vectors; see `vectors.exact_nearest`."""
        return exact_nearest(self._vectors, queries_QD, count)


class Quantized:
    """Search by codes, then exact similarities of the candidates.

    Args:
        vectors: what is searched.
        codebook: centroids, (subspaces * 16, dimension of a subspace) float32.
        codes: (rows, subspaces / 2) uint8, two codes per byte.
        candidates: number of candidates per query.
    """

    def __init__(self, vectors: Vectors, codebook: np.ndarray, codes: np.ndarray, candidates: int) -> None:
        faiss = _faiss()
        subspaces = len(codebook) // _CENTROIDS
        self._vectors, self.candidates = vectors, candidates
        self._width = subspaces * codebook.shape[1]
        plain = faiss.IndexPQ(self._width, subspaces, 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).ravel(), plain.pq.centroids)
        faiss.copy_array_to_vector(np.ascontiguousarray(codes, np.uint8).ravel(), plain.codes)
        plain.ntotal, plain.is_trained = len(codes), True
        self._index = faiss.IndexPQFastScan(plain)

    def nearest(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the most similar vectors among the candidates; shapes as of `exact_nearest`."""
        total = len(self._vectors)
        count = min(count, total)
        wanted = min(max(self.candidates, 4 * count), total)
        similarities = np.empty((len(queries_QD), count), np.float32)
        rows = np.empty((len(queries_QD), count), np.int64)
        for first in range(0, len(queries_QD), _BATCH):
            part = queries_QD[first : first + _BATCH]
            _, found = self._index.search(_padded(part, self._width), wanted)
            for number, (query, candidates) in enumerate(zip(part, found, strict=True), first):
                ordered = np.sort(candidates[candidates >= 0])  # in the order of the files
                values = self._vectors.take(ordered) @ query
                best, best_at = best_rows(values[None], ordered[None], count)
                similarities[number], rows[number] = best[0], best_at[0]
        return similarities, rows


Searcher = Flat | Quantized


class Trained(NamedTuple):
    """An index in memory.

    Attributes:
        info: how vectors are searched; without files.
        codebook: see `Quantized`; None if all vectors are compared.
        codes: see `Quantized`; None if all vectors are compared.
    """

    info: IndexInfo
    codebook: np.ndarray | None = None
    codes: np.ndarray | None = None

    def searcher(self, vectors: Vectors) -> Searcher:
        """The search of the vectors that the index was built of."""
        if self.codebook is None or self.codes is None:
            return Flat(vectors)
        return Quantized(vectors, self.codebook, self.codes, self.info.candidates)

    def write(self, folder: Path, suffix: str) -> IndexInfo:
        """Write the files of the index to a gallery; their names end in `suffix`, such as "000003-0"."""
        if self.codebook is None or self.codes is None:
            return self.info
        codes = write_array(folder, f"codes-{suffix}.npy", self.codes)
        return replace(self.info, codes=codes, codebook=write_array(folder, f"codebook-{suffix}.npy", self.codebook))


def build_index(vectors: Vectors, *, flat_below: int | None = None) -> Trained:
    """Choose how vectors are searched.

    The number of candidates is the smallest for which the recall of stored vectors as queries, measured against exact
    search, is at least 0.99. If 4,096 candidates reach less than 0.95, all vectors are compared.

    Args:
        vectors: what is searched.
        flat_below: number of vectors from which codes are used; by default `FLAT_BELOW`.
    """
    flat_below = FLAT_BELOW if flat_below is None else flat_below
    if len(vectors) < flat_below:
        return Trained(IndexInfo("flat", f"exact search, fewer than {flat_below:,} vectors"))
    codebook, codes = _train(vectors)
    candidates, recall = _measure(vectors, codebook, codes)
    if recall < _ACCEPTED:
        return Trained(IndexInfo("flat", f"exact search: codes found {recall:.1%} of the nearest {RECALL_AT}"))
    reason = (
        f"{2 * codes.shape[1]} codes of 4 bits per vector, {candidates:,} candidates compared exactly; "
        f"recall@{RECALL_AT} {recall:.3f} of exact search"
    )
    return Trained(IndexInfo("pq", reason, candidates, recall), codebook, codes)


def open_index(vectors: Vectors, info: IndexInfo, folder: Path, *, verify: bool = True) -> Searcher:
    """Open the index of vectors.

    Raises:
        DamagedGalleryError: a file is missing, damaged, or belongs to other vectors.
    """
    if info.kind == "flat" or info.codes is None or info.codebook is None:
        return Flat(vectors)
    subspaces, width = _subspaces(vectors.dimension)
    if info.codes.rows != len(vectors) or info.codebook.rows != subspaces * _CENTROIDS:
        raise DamagedGalleryError(f"the index in {folder} belongs to other vectors")
    codebook = open_array(folder, info.codebook, width, verify=verify)
    if not np.isfinite(codebook).all():
        raise DamagedGalleryError(f"{folder / info.codebook.file} is damaged: it contains NaN or infinite values")
    codes = open_array(folder, info.codes, subspaces // 2, "|u1", verify=verify)
    return Quantized(vectors, codebook, codes, max(1, info.candidates))


def _subspaces(dimension: int) -> tuple[int, int]:
    """Number of subspaces, and the dimension of each: 2 up to 256 dimensions; at most 128 subspaces."""
    width = max(2, -(-dimension // _MOST_SUBSPACES))
    subspaces = -(-dimension // width)
    return subspaces + subspaces % 2, width  # two codes in a byte


def _train(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    faiss = _faiss()
    subspaces, width = _subspaces(vectors.dimension)
    index = faiss.IndexPQ(subspaces * width, subspaces, 4, faiss.METRIC_INNER_PRODUCT)
    sample = vectors.take(_sample(len(vectors), _TRAINING_ROWS))
    if not np.isfinite(sample).all():
        raise DamagedGalleryError("stored vectors are damaged: they contain NaN or infinite values")
    index.train(_padded(sample, index.d))
    codes = np.empty((len(vectors), subspaces // 2), np.uint8)
    for start, block in vectors.blocks():
        codes[start : start + len(block)] = index.sa_encode(_padded(block, index.d))
    return faiss.vector_to_array(index.pq.centroids).reshape(-1, width), codes


def _measure(vectors: Vectors, codebook: np.ndarray, codes: np.ndarray) -> tuple[int, float]:
    """The smallest sufficient number of candidates and its recall; each query is left out of its own results."""
    sample = _sample(len(vectors), _MEASURED_QUERIES)
    queries = vectors.take(sample)
    exact = exact_nearest(vectors, queries, RECALL_AT + 1)[1]
    candidates, recall = 0, 0.0
    for candidates in _CANDIDATES:
        found = Quantized(vectors, codebook, codes, candidates).nearest(queries, RECALL_AT + 1)[1]
        pairs = zip(sample, exact, found, strict=True)
        recall = float(np.mean([_shared(own, one, other) for own, one, other in pairs]))
        if recall >= _WANTED:
            break
    return candidates, recall


def _shared(own: int, exact: np.ndarray, found: np.ndarray) -> float:
    expected = exact[exact != own][:RECALL_AT]
    return len(np.intersect1d(expected, found)) / len(expected)


def _sample(rows: int, count: int) -> np.ndarray:
    chosen = np.random.default_rng(0).choice(rows, min(rows, count), replace=False)
    return np.sort(chosen)


def _padded(vectors: np.ndarray, width: int) -> np.ndarray:
    """Float32 rows with zeros up to a width, which leave inner products unchanged."""
    missing = width - vectors.shape[1]
    padded = np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors
    return np.ascontiguousarray(padded, np.float32)


def _faiss() -> Any:
    return require("faiss", extra="reid")
