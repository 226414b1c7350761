"""`Gallery`: an opened gallery, searched by vectors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np

from torch_nonlocal.gallery.index import Codes, Searcher, Trained, build_index, open_codes
from torch_nonlocal.gallery.manifest import (
    FILE,
    By,
    EmbeddingModel,
    IndexInfo,
    Manifest,
    OtherModelError,
    Threshold,
    read_manifest,
)
from torch_nonlocal.gallery.parts import DamagedGalleryError, open_array
from torch_nonlocal.gallery.table import Entry, Rows, read_rows
from torch_nonlocal.gallery.vectors import Vectors, normalized


@dataclass(frozen=True)
class Match:
    """A tracklet or person that a search found.

    Attributes:
        identity: name of the person or animal.
        similarity: cosine, in [-1, 1].
        entry: the tracklet; of a person, one of its tracklets.
    """

    identity: str
    similarity: float
    entry: Entry


@dataclass(frozen=True)
class Answer:
    """What a search found for one vector.

    Attributes:
        matches: best first.
        threshold: similarity that a known person has to exceed; None if the gallery has a single identity.
    """

    matches: tuple[Match, ...]
    threshold: float | None

    @property
    def is_known(self) -> bool | None:
        """Whether the best match exceeds the threshold; None without a threshold."""
        return None if self.threshold is None else self.matches[0].similarity > self.threshold

    @property
    def identity(self) -> str | None:
        """Identity of the best match; None if the person is unknown."""
        return None if self.is_known is False else self.matches[0].identity


class Gallery:
    """An opened gallery. It sees the state of the folder at the time it was opened.

    Open one with `open_gallery`.

    Attributes:
        folder: of the gallery.
        manifest: content of `gallery.json`.
        vectors: normalized vectors of the tracklets.
        rows: the table.
        notes: what was repaired or left out, one line each.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, verify: bool) -> None:
        self.folder, self.manifest = folder, manifest
        size = manifest.dimension
        parts = [open_array(folder, part, size, verify=verify) for part in manifest.vectors]
        self.vectors = Vectors(parts, size, folder)
        if manifest.table is None or manifest.table.rows != len(self.vectors):
            raise DamagedGalleryError(f"{folder / FILE} is damaged: it has another number of vectors than of rows")
        self.rows: Rows = read_rows(folder, manifest.table, verify=verify)
        self.notes: list[str] = []
        if manifest.unfinished is not None:
            count = manifest.unfinished.first_row
            self.notes.append(f"{len(self.rows) - count:,} tracklets of an interrupted or running add are left out")
            self.vectors, self.rows = self.vectors.first(count), self.rows.first(count)
        self._persons: Vectors | None = None
        if manifest.persons is not None:
            if manifest.persons.rows != len(self.rows.identities.names):
                raise DamagedGalleryError(f"{folder / manifest.persons.file} is damaged: it has other identities")
            self._persons = Vectors([open_array(folder, manifest.persons, size, verify=verify)], size, folder)
        self._codes: dict[By, Codes | None] = {}
        for by, info in manifest.indexes.items():
            try:
                self._codes[by] = open_codes(self._targets(by), info, folder, verify=verify)
            except DamagedGalleryError as error:
                self.notes.append(f"{error}; the index of {by}s was rebuilt in memory from the vectors")
        self._searchers: dict[By, Searcher] = {}

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def model(self) -> EmbeddingModel:
        """The network that computed the vectors."""
        return self.manifest.model

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.manifest.dimension

    @property
    def identities(self) -> tuple[str, ...]:
        """Names of the identities, sorted; rows of the vectors of persons."""
        return self.rows.identities.names

    @property
    def indexes(self) -> dict[By, IndexInfo]:
        """How tracklets and persons are searched."""
        return self.manifest.indexes

    @property
    def thresholds(self) -> dict[By, Threshold]:
        """Thresholds for tracklets and persons."""
        return self.manifest.thresholds

    def search(
        self, vectors_QD: np.ndarray, k: int = 10, *, by: By = "tracklet", model: EmbeddingModel | None = None
    ) -> list[Answer]:
        """Find the most similar tracklets or persons.

        Args:
            vectors_QD: queries, (Q, dimension); they need not be normalized.
            k: number of matches for each query; fewer if the gallery is smaller.
            by: "tracklet" ranks tracklets, "person" ranks persons by one vector each.
            model: the network that computed the queries, compared with the gallery's.

        Returns:
            An answer for each query.

        Raises:
            ValueError: k below 1, vectors of another dimension, not finite or zero, or a name of `by` that is unknown.
            OtherModelError: the queries are from another network.
        """
        if model is not None:
            check_model(self.folder, self.model, model)
        similarities, rows = self.nearest(vectors_QD, k, by=by)
        threshold = self.thresholds.get(by)
        return [
            Answer(
                tuple(self._match(by, int(row), float(value)) for row, value in zip(found, values, strict=True)),
                None if threshold is None else threshold.similarity,
            )
            for found, values in zip(rows, similarities, strict=True)
        ]

    def nearest(self, vectors_QD: np.ndarray, k: int = 10, *, by: By = "tracklet") -> tuple[np.ndarray, np.ndarray]:
        """Like `search`, as arrays.

        Returns:
            Similarities and rows, both (Q, k), best first. Rows are those of the table, or positions in `identities`.
        """
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k is {k}: expected 1 or more")
        if by not in ("tracklet", "person"):
            raise ValueError(f"by is {by!r}: expected 'tracklet' or 'person'")
        if not len(self):
            raise _is_empty(self.folder)
        queries = normalized(vectors_QD, lambda row: f"query {row}", self.dimension)
        values, rows = self._searcher(by).nearest(queries, int(k))
        if not np.isfinite(values).all():
            raise DamagedGalleryError(f"{self.folder} is damaged: a stored vector contains NaN or infinite values")
        return np.clip(values, -1, 1), rows

    def _targets(self, by: By) -> Vectors:
        vectors = self.vectors if by == "tracklet" else self._persons
        if vectors is None:
            raise DamagedGalleryError(f"{self.folder} is damaged: gallery.json has no vectors of persons")
        return vectors

    def _searcher(self, by: By) -> Searcher:
        if by not in self._searchers:
            vectors, info = self._targets(by), self.indexes.get(by)
            if info is None:
                raise DamagedGalleryError(f"{self.folder} is damaged: gallery.json has no index of {by}s")
            index = Trained(info, self._codes[by]) if by in self._codes else build_index(vectors)
            self._searchers[by] = index.searcher(vectors)
        return self._searchers[by]

    def _match(self, by: By, row: int, similarity: float) -> Match:
        if by == "person":
            row = int(self.rows.first_rows[row])
        entry = self.rows.entry(row)
        return Match(entry.identity, similarity, entry)


def open_gallery(folder: str | os.PathLike[str], *, verify: bool = True) -> Gallery:
    """Open a gallery for searching.

    Args:
        folder: of the gallery.
        verify: compare all files with their digests, which reads them once.

    Tracklets of an interrupted or running add are left out, which a note says.

    Raises:
        ValueError: there is no gallery in the folder, it is empty, or its build was interrupted or is running.
        DamagedGalleryError: a file is missing, damaged or of another version.
    """
    folder = Path(folder)
    while True:
        manifest = read_manifest(folder)
        _check_searchable(folder, manifest)
        try:
            gallery = Gallery(folder, manifest, verify=verify)
        except DamagedGalleryError:
            if read_manifest(folder).revision == manifest.revision:
                raise
        else:
            if len(gallery._codes) == len(manifest.indexes) or read_manifest(folder).revision == manifest.revision:
                return gallery
        time.sleep(0.1)  # a writer removed files between the reading of gallery.json and their opening


def _check_searchable(folder: Path, manifest: Manifest) -> None:
    if manifest.unfinished is not None and manifest.unfinished.first_row == 0:
        raise ValueError(
            f"{folder} holds {manifest.rows:,} tracklets of an interrupted or running {manifest.unfinished.command}; "
            "rerun that command to finish it"
        )
    if manifest.rows == 0:
        raise _is_empty(folder)


def _is_empty(folder: Path) -> ValueError:
    return ValueError(f"the gallery in {folder} is empty; `nonlocal gallery add` adds tracklets")


def check_model(folder: Path, recorded: EmbeddingModel, given: EmbeddingModel) -> None:
    """Check that vectors are from the network of a gallery.

    Raises:
        OtherModelError: they are not; the message names both networks.
    """
    if recorded.digest != given.digest:
        raise OtherModelError(
            f"the gallery in {folder} was built with {recorded}, not with {given}: their vectors cannot be compared. "
            "Use that network, or build another gallery"
        )
