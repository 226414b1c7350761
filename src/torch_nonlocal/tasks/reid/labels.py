"""Identities and cameras of queries and gallery: checks, matches and junk. G gallery rows, Q queries, B of a block."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from torch_nonlocal.data.tracklets.tracklet import DISTRACTOR_ID, JUNK_ID

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """Identities and cameras, checked.

    Attributes:
        gallery_ids: (G,) int64; -1 junk, 0 distractor, identities from 1.
        gallery_cameras: (G,) numbers that stand for the cameras.
        query_ids: (Q,) int64.
        query_cameras: (Q,), as `gallery_cameras`.
        query_index: (Q,) gallery rows that are the queries; None if the gallery does not hold the queries.
    """

    gallery_ids: Array
    gallery_cameras: Array
    query_ids: Array
    query_cameras: Array
    query_index: Array | None = None

    @property
    def gallery(self) -> int:
        """Number of gallery rows."""
        return len(self.gallery_ids)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.query_ids)

    def matches(self, start: int, stop: int) -> Array:
        """(B, G), True where a gallery row shows the identity of the query in another camera."""
        return self._same_identity(start, stop) & ~self._same_camera(start, stop)

    def junk(self, start: int, stop: int) -> Array:
        """(B, G), True where a gallery row does not count: identity -1, or the identity and the camera of the query."""
        same = self._same_identity(start, stop) & self._same_camera(start, stop)
        return same | (self.gallery_ids == JUNK_ID)

    def _same_identity(self, start: int, stop: int) -> Array:
        ids_B = self.query_ids[start:stop]
        return (ids_B[:, None] == self.gallery_ids) & (ids_B > DISTRACTOR_ID)[:, None]

    def _same_camera(self, start: int, stop: int) -> Array:
        return self.query_cameras[start:stop, None] == self.gallery_cameras


def checked_labels(
    gallery_ids: Any,
    gallery_cameras: Any,
    query_ids: Any,
    query_cameras: Any,
    *,
    query_index: Any = None,
    unknown_queries: bool = False,
) -> Labels:
    """Check identities and cameras.

    Args:
        gallery_ids: (G,) integers; -1 junk, 0 distractor, from 1 identities.
        gallery_cameras: (G,) integers or names.
        query_ids: (Q,) integers from 1.
        query_cameras: (Q,) integers or names.
        query_index: (Q,) integers: the gallery rows that are the queries, in any order.
        unknown_queries: accept queries of identity 0: persons who are nobody of the gallery.

    Raises:
        TypeError: identities or rows are not integers, or cameras are neither integers nor names.
        ValueError: there are no queries or no gallery, lengths disagree, an identity is out of range, or a row of
            `query_index` is out of range, or they do not show the identities and cameras of the queries.
    """
    ids_G, ids_Q = _integers(gallery_ids, "gallery_ids"), _integers(query_ids, "query_ids")
    cameras_G, cameras_Q = _vector(gallery_cameras, "gallery_cameras"), _vector(query_cameras, "query_cameras")
    for name, ids, cameras in (("gallery", ids_G, cameras_G), ("query", ids_Q, cameras_Q)):
        if not len(ids):
            raise ValueError(f"{name}_ids is empty, expected at least one tracklet")
        if len(cameras) != len(ids):
            raise ValueError(f"{name}_cameras has length {len(cameras):,}, expected that of {name}_ids, {len(ids):,}")
    _check_least(ids_G, "gallery_ids", JUNK_ID, "-1 (junk), 0 (distractor) or an identity from 1")
    if unknown_queries:
        _check_least(ids_Q, "query_ids", DISTRACTOR_ID, "0 (unknown) or an identity from 1")
    else:
        expected = "an identity from 1: junk (-1) and distractors (0) have no match that a query could find"
        _check_least(ids_Q, "query_ids", DISTRACTOR_ID + 1, expected)
    numbers = _numbered(cameras_G, cameras_Q)
    labels = Labels(ids_G, numbers[: len(ids_G)], ids_Q, numbers[len(ids_G) :])
    if query_index is None:
        return labels
    index_Q = checked_index(query_index, labels.queries, labels.gallery)
    _check_index(index_Q, labels)
    return Labels(ids_G, labels.gallery_cameras, ids_Q, labels.query_cameras, index_Q)


def checked_index(query_index: Any, queries: int, gallery: int) -> Array:
    """The gallery row of each query, (Q,) int64.

    Raises:
        TypeError: rows are not integers.
        ValueError: there is not one row for each query, or a row is out of range.
    """
    index_Q = _integers(query_index, "query_index")
    if len(index_Q) != queries:
        raise ValueError(f"query_index has {len(index_Q):,} rows, expected one for each of {queries:,} queries")
    outside = np.flatnonzero((index_Q < 0) | (index_Q >= gallery))
    if len(outside):
        query = outside[0]
        raise ValueError(f"query_index[{query}] is {index_Q[query]}, expected a gallery row, 0 to {gallery - 1}")
    return index_Q


def _check_index(index_Q: Array, labels: Labels) -> None:
    rows_2Q = np.stack([labels.gallery_ids[index_Q], labels.gallery_cameras[index_Q]])
    queries_2Q = np.stack([labels.query_ids, labels.query_cameras])
    if np.array_equal(rows_2Q[:, np.lexsort(rows_2Q)], queries_2Q[:, np.lexsort(queries_2Q)]):
        return
    for name, of_rows, of_queries in zip(("identity", "camera"), rows_2Q, queries_2Q, strict=True):
        wrong = np.flatnonzero(of_rows != of_queries)
        if len(wrong):
            query = wrong[0]
            raise ValueError(
                f"query_index[{query}] is gallery row {index_Q[query]}, whose {name} is not that of query {query}; "
                "expected the gallery row of each query"
            )


def _vector(values: Any, name: str) -> Array:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected one entry per tracklet")
    if array.dtype.kind in "OT":  # columns of tables have such dtypes
        entries = array.tolist()
        if any(all(isinstance(one, kind) for one in entries) for kind in (str, Integral)):
            return np.array(entries)
    return array


def _integers(values: Any, name: str) -> Array:
    array = _vector(values, name)
    if not len(array):
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int64)


def _check_least(ids: Array, name: str, least: int, expected: str) -> None:
    below = np.flatnonzero(ids < least)
    if len(below):
        raise ValueError(f"{name}[{below[0]}] is {ids[below[0]]}, expected {expected}")


def _numbered(cameras_G: Array, cameras_Q: Array) -> Array:
    for name, cameras in (("gallery_cameras", cameras_G), ("query_cameras", cameras_Q)):
        if cameras.dtype.kind not in "iuU":
            raise TypeError(f"{name} has dtype {cameras.dtype}, expected integers or names")
    if (cameras_G.dtype.kind == "U") != (cameras_Q.dtype.kind == "U"):
        raise TypeError("expected integers in both gallery_cameras and query_cameras, or names in both")
    return np.unique(np.concatenate([cameras_G, cameras_Q]), return_inverse=True)[1]
