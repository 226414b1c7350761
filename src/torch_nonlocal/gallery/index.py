"""Search of many vectors: 4-bit product quantization scanned by FAISS, then exact similarities of the candidates.

Every code is scanned, so no cluster structure is assumed: vectors of many identities in many dimensions have little
between identities, and inverted lists lose recall on them. FAISS looks distances up in registers ("fast scan", after
Andre et al., Quicker ADC, 2019). Before they are encoded, vectors are centered and rotated at random, which spreads
their variance over all codes; Euclidean distances, and with them the order of the cosines of normalized vectors, stay.

Codes, centroids and rotation are stored as arrays, and FAISS's own file format is never read: its reader trusts sizes.
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
_SUBSPACES = (64, 128)  # at most; the first that finds enough is used
_TRAINING_ROWS = 20_000
_MEASURED_QUERIES = 200
_CANDIDATES = (256, 512, 1024, 2048, 4096)
_LARGEST = 100.0  # magnitude of values of a codebook and a rotation; those of normalized vectors are at most 2
_WANTED, _ACCEPTED = 0.99, 0.95  # recall that is sought; below which the index is not used
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


class Codes(NamedTuple):
    """Codes of vectors.

    Attributes:
        codes: (rows, subspaces / 2) uint8, two codes per byte.
        codebook: centroids, (subspaces * 16, dimension of a subspace) float32.
        rotation: (dimension + 1, subspaces * dimension of a subspace) float32; the last row is the rotated mean.
    """

    codes: np.ndarray
    codebook: np.ndarray
    rotation: np.ndarray

    def rotated(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as they are encoded."""
        return _rotated(vectors, self.rotation)


class Quantized:
    """Search by codes, then exact similarities of the candidates.

    Args:
        vectors: what is searched.
        codes: their codes.
        candidates: number of candidates per query.
    """

    def __init__(self, vectors: Vectors, codes: Codes, candidates: int) -> None:
        faiss = _faiss()
        self._vectors, self._codes, self.candidates = vectors, codes, candidates
        plain = faiss.IndexPQ(codes.rotation.shape[1], len(codes.codebook) // _CENTROIDS, 4, faiss.METRIC_L2)
        faiss.copy_array_to_vector(np.ascontiguousarray(codes.codebook, np.float32).ravel(), plain.pq.centroids)
        faiss.copy_array_to_vector(np.ascontiguousarray(codes.codes, np.uint8).ravel(), plain.codes)
        plain.ntotal, plain.is_trained = len(codes.codes), True
        self._index = faiss.IndexPQFastScan(plain)

    def nearest(self, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the most similar vectors among the candidates; shapes as of `exact_nearest`."""
        count = min(count, len(self._vectors))
        wanted = max(self.candidates, 4 * count)
        similarities = np.empty((len(queries_QD), count), np.float32)
        rows = np.empty((len(queries_QD), count), np.int64)
        for first in range(0, len(queries_QD), _BATCH):
            part = queries_QD[first : first + _BATCH]
            found = self.candidates_of(part, wanted)
            for number, (query, candidates) in enumerate(zip(part, found, strict=True), first):
                ordered = np.sort(candidates[candidates >= 0])  # in the order of the files
                values = self._vectors.take(ordered) @ query
                best, best_at = best_rows(values[None], ordered[None], count)
                similarities[number], rows[number] = best[0], best_at[0]
        return similarities, rows

    def candidates_of(self, queries_QD: np.ndarray, count: int) -> np.ndarray:
        """Rows by the similarity of their codes, best first, (Q, count); -1 where there are fewer."""
        return self._index.search(self._codes.rotated(queries_QD), min(count, len(self._vectors)))[1]


Searcher = Flat | Quantized


class Trained(NamedTuple):
    """An index in memory.

    Attributes:
        info: how vectors are searched; without files.
        codes: codes of the vectors; None if all vectors are compared.
    """

    info: IndexInfo
    codes: Codes | None = None

    def searcher(self, vectors: Vectors) -> Searcher:
        """The search of the vectors that the index was built of."""
        return Flat(vectors) if self.codes is None else Quantized(vectors, self.codes, max(1, self.info.candidates))

    def write(self, folder: Path, suffix: str) -> IndexInfo:
        """Write the files of the index to a gallery; their names end in `suffix`, such as "000003-0"."""
        if self.codes is None:
            return self.info
        arrays = self.codes._asdict().items()
        return replace(self.info, **{name: write_array(folder, f"{name}-{suffix}.npy", one) for name, one in arrays})


def build_index(vectors: Vectors, *, flat_below: int | None = None) -> Trained:
    """Choose how vectors are searched.

    Vectors get 64 codes, or 128 if those find too little. The number of candidates is the smallest for which the recall
    of stored vectors as queries, measured against exact search, is at least 0.99. If 128 codes reach less than 0.95,
    all vectors are compared.

    Args:
        vectors: what is searched.
        flat_below: number of vectors from which codes are used; by default `FLAT_BELOW`.
    """
    flat_below = FLAT_BELOW if flat_below is None else flat_below
    if len(vectors) < flat_below:
        return Trained(IndexInfo("flat", f"exact search, fewer than {flat_below:,} vectors"))
    sample = _sample(len(vectors), _MEASURED_QUERIES)
    exact = exact_nearest(vectors, vectors.take(sample), RECALL_AT + 1)[1]
    for subspaces, width in dict.fromkeys(_shape(vectors.dimension, most) for most in _SUBSPACES):
        codes = _train(vectors, subspaces, width)
        candidates, recall = _measure(vectors, codes, sample, exact)
        if recall >= _WANTED:
            break
    if recall < _ACCEPTED:
        return Trained(IndexInfo("flat", f"exact search: codes found {recall:.1%} of the nearest {RECALL_AT}"))
    reason = (
        f"{subspaces} codes of 4 bits per vector, {candidates:,} candidates compared exactly; "
        f"recall@{RECALL_AT} {recall:.3f} of exact search"
    )
    return Trained(IndexInfo("pq", reason, candidates, recall), codes)


def open_codes(vectors: Vectors, info: IndexInfo, folder: Path, *, verify: bool = True) -> Codes | None:
    """Open the codes of vectors; None if all vectors are compared.

    Raises:
        DamagedGalleryError: a file is missing, damaged, or belongs to other vectors.
    """
    if info.codes is None or info.codebook is None or info.rotation is None:
        return None
    size = vectors.dimension
    shapes = {_CENTROIDS * shape[0]: shape for shape in (_shape(size, most) for most in _SUBSPACES)}
    expected = (len(vectors), size + 1)
    if (info.codes.rows, info.rotation.rows) != expected or info.codebook.rows not in shapes:
        raise DamagedGalleryError(f"the index in {folder} belongs to other vectors")
    subspaces, width = shapes[info.codebook.rows]
    codes = open_array(folder, info.codes, subspaces // 2, "|u1", verify=verify)
    codebook = open_array(folder, info.codebook, width, verify=verify)
    rotation = open_array(folder, info.rotation, subspaces * width, verify=verify)
    for part, array in ((info.codebook, codebook), (info.rotation, rotation)):
        if not np.abs(array).max() < _LARGEST:  # false for NaN, too
            raise DamagedGalleryError(f"{folder / part.file} is damaged: it has values that are too large or NaN")
    return Codes(codes, codebook, np.asarray(rotation))


def _shape(dimension: int, most: int) -> tuple[int, int]:
    """Number of subspaces, an even number of about `most` or fewer, and the dimension of each, at least 2."""
    width = max(2, -(-dimension // most))
    subspaces = -(-dimension // width)
    return subspaces + subspaces % 2, width  # two codes in a byte


def _train(vectors: Vectors, subspaces: int, width: int) -> Codes:
    faiss = _faiss()
    sample = vectors.take(_sample(len(vectors), _TRAINING_ROWS))
    if not np.isfinite(sample).all():
        raise DamagedGalleryError(f"{vectors.where} is damaged: a stored vector contains NaN or infinite values")
    total = subspaces * width
    square = np.random.default_rng(0).standard_normal((total, total))
    turn = np.linalg.qr(square)[0][: vectors.dimension].astype(np.float32)
    rotation = np.concatenate([turn, (sample.mean(0) @ turn)[None]])
    index = faiss.IndexPQ(total, subspaces, 4, faiss.METRIC_L2)
    index.train(_rotated(sample, rotation))
    codes = np.empty((len(vectors), subspaces // 2), np.uint8)
    for start, block in vectors.blocks():
        codes[start : start + len(block)] = index.sa_encode(_rotated(block, rotation))
    return Codes(codes, faiss.vector_to_array(index.pq.centroids).reshape(-1, width), rotation)


def _measure(vectors: Vectors, codes: Codes, sample: np.ndarray, exact: np.ndarray) -> tuple[int, float]:
    """The smallest sufficient number of candidates and its recall; each query is left out of its own results.

    Args:
        vectors: what is searched.
        codes: their codes.
        sample: rows that are the queries.
        exact: the nearest rows of each, with the query itself.
    """
    searcher = Quantized(vectors, codes, _CANDIDATES[-1])
    found = searcher.candidates_of(vectors.take(sample), _CANDIDATES[-1])
    expected = [row[row != own][:RECALL_AT] for own, row in zip(sample, exact, strict=True)]
    candidates, recall = 0, 0.0
    for candidates in _CANDIDATES:
        pairs = zip(expected, found[:, :candidates], strict=True)
        recall = float(np.mean([np.isin(one, other).mean() for one, other in pairs]))
        if recall >= _WANTED:
            break
    return candidates, recall


def _sample(rows: int, count: int) -> np.ndarray:
    chosen = np.random.default_rng(0).choice(rows, min(rows, count), replace=False)
    return np.sort(chosen)


def _rotated(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors @ rotation[:-1] - rotation[-1], np.float32)


def _faiss() -> Any:
    return require("faiss", extra="reid")
