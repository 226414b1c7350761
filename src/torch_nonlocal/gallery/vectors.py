"""Vectors of a gallery: normalized rows in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

MOST_DIMENSION = 8_192

BLOCK_ROWS = 16_384
"""Rows that are multiplied at a time."""


class Vectors:
    """Rows of several arrays, numbered through.

    Args:
        parts: arrays (rows, dimension), float32, usually memory-mapped.
        dimension: number of columns.
        where: what is damaged if they contain NaN, for messages.
    """

    def __init__(self, parts: Sequence[np.ndarray], dimension: int, where: object = "the gallery") -> None:
        self.where = where
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self.dimension = dimension

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def first(self, count: int) -> Vectors:
        """The first rows."""
        starts = [int(end) - len(part) for end, part in zip(self._ends, self._parts, strict=True)]
        parts = [part[: max(0, count - start)] for start, part in zip(starts, self._parts, strict=True)]
        return Vectors(parts, self.dimension, self.where)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies of rows, (len(rows), dimension), in the order of `rows`."""
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows])
        taken = np.empty((len(rows), self.dimension), np.float32)
        which = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(which):
            here = which == number
            start = self._ends[number] - len(self._parts[number])
            taken[here] = self._parts[number][rows[here] - start]
        return taken

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Consecutive blocks of at most `size` rows, each with the number of its first row."""
        for end, part in zip(self._ends.tolist(), self._parts, strict=True):
            start = end - len(part)
            for first in range(0, len(part), size):
                yield start + first, np.asarray(part[first : first + size])


def normalized(vectors: np.ndarray, name_of: Callable[[int], str], dimension: int | None = None) -> np.ndarray:
    """Vectors of length one, (N, dimension) float32.

    Args:
        vectors: (N, dimension), any real type.
        name_of: what a row is called in messages.
        dimension: expected number of columns; None accepts any.

    Raises:
        ValueError: wrong shape, a value that is not finite, or a vector of zeros; the message names the row.
    """
    array = np.asarray(vectors)
    if array.ndim != 2 or array.shape[1] < 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"expected vectors of shape (N, dimension), got {array.dtype} of shape {array.shape}")
    if array.shape[1] > MOST_DIMENSION:
        raise ValueError(f"vectors of dimension {array.shape[1]:,}: expected at most {MOST_DIMENSION:,}")
    if dimension is not None and array.shape[1] != dimension:
        raise ValueError(f"vectors of dimension {array.shape[1]}, but the gallery has dimension {dimension}")
    array = array.astype(np.float64)
    finite = np.isfinite(array).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"the vector of {name_of(row)} contains NaN or infinite values")
    largest = np.abs(array).max(1, keepdims=True, initial=0)
    if len(array) and not (largest > 0).all():
        raise ValueError(f"the vector of {name_of(int(np.argmin(largest)))} is zero: it has no direction")
    array /= largest  # squares of very large or small values would leave the range
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def best_rows(similarities_QN: np.ndarray, rows_QN: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most similar rows of each query, best first; among equals the smaller row number comes first."""
    if similarities_QN.shape[1] > count:
        chosen = np.argpartition(-similarities_QN, count - 1, axis=1)[:, :count]
        similarities_QN = np.take_along_axis(similarities_QN, chosen, 1)
        rows_QN = np.take_along_axis(rows_QN, chosen, 1)
    order = np.lexsort((rows_QN, -similarities_QN), axis=1)
    return np.take_along_axis(similarities_QN, order, 1), np.take_along_axis(rows_QN, order, 1)


def exact_nearest(vectors: Vectors, queries_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are most similar to each query, by all inner products.

    Args:
        vectors: the gallery.
        queries_QD: normalized queries.
        count: number of rows for each query; at most the number of vectors is returned.

    Returns:
        Similarities and row numbers, both (Q, count), best first.
    """
    count = min(count, len(vectors))
    similarities = np.empty((len(queries_QD), count), np.float32)
    rows = np.empty((len(queries_QD), count), np.int64)
    for first in range(0, len(queries_QD), 256):
        part = slice(first, first + 256)
        best_QK = np.empty((len(queries_QD[part]), 0), np.float32)
        rows_QK = np.empty((len(best_QK), 0), np.int64)
        for start, block in vectors.blocks():
            found = queries_QD[part] @ block.T
            numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
            best_QK, rows_QK = best_rows(
                np.concatenate([best_QK, found], 1), np.concatenate([rows_QK, numbers], 1), count
            )
        similarities[part], rows[part] = best_QK, rows_QK
    return similarities, rows
