"""Changes of a gallery: build, add, delete, recalibrate. Each is atomic or resumes when it is rerun."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from torch_nonlocal._common.files import check_folder, printable
from torch_nonlocal._common.locks import locked
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.gallery.deleted import of_identities, of_names, positions_kept, read_deleted, without, write_deleted
from torch_nonlocal.gallery.given import checked_entries, checked_names, checked_positions, missing_from, rows_of
from torch_nonlocal.gallery.index import build_index
from torch_nonlocal.gallery.manifest import (
    FILE,
    By,
    EmbeddingModel,
    IndexInfo,
    Manifest,
    Threshold,
    Unfinished,
    read_manifest,
)
from torch_nonlocal.gallery.parts import DamagedGalleryError, is_part, open_array, remove_others, write_array
from torch_nonlocal.gallery.persons import person_vectors
from torch_nonlocal.gallery.store import Gallery, check_model
from torch_nonlocal.gallery.table import Entry, Rows, read_rows
from torch_nonlocal.gallery.threshold import calibrate, check_rate
from torch_nonlocal.gallery.vectors import Vectors, normalized

Embed = Callable[[Sequence[int]], tuple[np.ndarray, Sequence[int]]]
"""Computes vectors of tracklets, given by their positions.

It returns vectors (N, dimension), which need not be normalized, and the N positions that they belong to. Tracklets that
cannot be read are left out.
"""

RATE = 0.01
"""Default false-accept rate."""

_LOCK, _USE = ".lock", "gallery command"
_SHARD_BYTES = 64 * 2**20
_SMALL_ROWS = 4_096  # a last file with fewer rows is rewritten together with the next ones


def build(
    folder: str | os.PathLike[str],
    entries: Sequence[Entry],
    embed: Embed,
    model: EmbeddingModel,
    *,
    rate: float | None = None,
    chunk: int = 64,
    save_seconds: float = 60.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """Create a gallery, or finish one whose build was interrupted.

    Tracklets that the gallery already has are not embedded again, and deleted ones are not stored again.

    Args:
        folder: of the gallery; created if missing.
        entries: the tracklets.
        embed: computes vectors; called with at most `chunk` positions in `entries`.
        model: the network that computes them.
        rate: false-accept rate of the thresholds; by default the gallery's, at first 1 %.
        chunk: number of tracklets embedded at a time.
        save_seconds: time between saves; at most this much work is repeated after an interruption.
        on_progress: called with the number of embedded tracklets and of all that are to be embedded.
        log: receives lines about what is done.

    Raises:
        ValueError: no tracklets, a name twice, vectors that are not finite or zero (the message names the tracklet) or
            of another dimension, another identity for a tracklet of the gallery, or a folder with other files.
        OtherModelError: the gallery is from another network.
        FolderInUseError: another process changes the gallery.
        OSError: the disk is full. The gallery is as it was at the last save.
    """
    folder = Path(folder)
    entries = checked_entries(entries)
    rate = None if rate is None else check_rate(rate)
    with _writing(folder, new=True) as (manifest, rows):
        if manifest is not None and rows is not None:
            check_model(folder, manifest.model, model)
            missing = missing_from(rows, entries)
            if len(missing) < len(entries):
                log(f"{counted(len(entries) - len(missing), 'tracklet')} of {len(entries):,} already in {folder}")
            new = positions_kept(entries, missing, read_deleted(folder, manifest.deleted))
            if len(new) < len(missing):
                gone = counted(len(missing) - len(new), "tracklet")
                log(f"{gone} not stored again, since deleted; `nonlocal gallery add` stores them")
        else:
            new = list(range(len(entries)))
        if manifest is not None and rows is not None:
            is_other = _is_other(manifest, rows, entries, "build")
            if not new and rate in (None, manifest.rate) and (manifest.unfinished is None or is_other):
                return Gallery(folder, manifest, verify=False)
            _check_unfinished(folder, manifest, rows, entries, "build")
        start = manifest or Manifest(0, model, RATE)
        start = replace(start, rate=start.rate if rate is None else rate)
        unfinished = start.unfinished or Unfinished("build", start.rows)
        writer = _Appender(folder, start, rows, unfinished, save_seconds)
        writer.append(entries, new, embed, chunk, on_progress)
        if not len(writer.rows):
            raise ValueError("no tracklet can be read")
        manifest = _finish(folder, replace(writer.manifest, unfinished=None), writer.rows, log)
        return Gallery(folder, manifest, verify=False)


def add(
    folder: str | os.PathLike[str],
    entries: Sequence[Entry],
    embed: Embed,
    model: EmbeddingModel,
    *,
    chunk: int = 64,
    save_seconds: float = 60.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda line: None,
) -> Gallery:
    """Add tracklets to a gallery; an interrupted call resumes when it is repeated. Thresholds are calibrated again.

    Args and errors are those of `build`, and:

    Raises:
        ValueError: there is no gallery, it already has a tracklet of the same name, or another command was interrupted.
    """
    folder = Path(folder)
    entries = checked_entries(entries)
    with _writing(folder) as (manifest, rows):
        if manifest is None or rows is None:
            raise ValueError(f"no gallery in {folder}; `nonlocal gallery build` creates one")
        check_model(folder, manifest.model, model)
        _check_unfinished(folder, manifest, rows, entries, "add")
        unfinished = manifest.unfinished or Unfinished("add", manifest.rows)
        earlier = set(rows.names[: unfinished.first_row])
        if twice := [one.name for one in entries if one.name in earlier]:
            names = f"{counted(len(twice), 'tracklet')}: {listed(map(printable, twice))}"
            raise ValueError(f"the gallery in {folder} already has {names}")
        new = missing_from(rows, entries)
        if len(new) < len(entries):
            log(f"{counted(len(entries) - len(new), 'tracklet')} of an interrupted add already in {folder}")
        deleted = without(read_deleted(folder, manifest.deleted), entries)
        writer = _Appender(folder, manifest, rows, unfinished, save_seconds)
        writer.append(entries, new, embed, chunk, on_progress)
        manifest = _finish(folder, replace(writer.manifest, unfinished=None), writer.rows, log, deleted)
        return Gallery(folder, manifest, verify=False)


def delete(
    folder: str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    identities: Sequence[str] = (),
    confirm: Callable[[list[Entry]], bool] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Entry]:
    """Delete tracklets, in one atomic step. Their vectors are removed from all files of the gallery.

    Digests of their names are kept: a repeated build does not store them again, nor other tracklets of the identities
    given here.

    Args:
        folder: of the gallery.
        names: tracklets.
        identities: persons or animals, with all their tracklets.
        confirm: called with the tracklets before they are deleted; nothing is deleted if it returns False.
        log: receives lines about what is done.

    Returns:
        What was deleted.

    Raises:
        ValueError: a name or identity is not in the gallery; the message suggests the nearest. Nothing is deleted then.
        FolderInUseError: another process changes the gallery.
    """
    folder = Path(folder)
    names, identities = checked_names("names", names), checked_names("identities", identities)
    with _writing(folder) as (manifest, rows):
        if manifest is None or rows is None:
            raise ValueError(f"no gallery in {folder}")
        wanted = rows_of(rows, names, identities, folder)
        deleted = [rows.entry(row) for row in np.flatnonzero(wanted).tolist()]
        if confirm is not None and not confirm(deleted):
            return []
        revision = manifest.revision + 1
        vectors, first = [], 0
        for number, part in enumerate(manifest.vectors):
            keep = ~wanted[first : first + part.rows]
            first += part.rows
            if keep.all():
                vectors.append(part)
            elif keep.any():
                kept = open_array(folder, part, manifest.dimension)[keep]
                vectors.append(write_array(folder, f"vectors-{revision:06d}-{number}.npy", kept))
        left = rows.kept(~wanted)
        table = left.write(folder, f"tracklets-{revision:06d}-0.parquet")
        gone = (
            read_deleted(folder, manifest.deleted) | of_names(one.name for one in deleted) | of_identities(identities)
        )
        changed = replace(
            manifest,
            vectors=tuple(vectors),
            table=table,
            unfinished=_unfinished_of(manifest, wanted),
        )
        _finish(folder, changed, left, log, gone)
        return deleted


def recalibrate(
    folder: str | os.PathLike[str], rate: float, *, log: Callable[[str], None] = lambda line: None
) -> Gallery:
    """Choose the thresholds of a gallery again, at another false-accept rate, from new vectors of persons.

    Raises:
        ValueError: there is no gallery, it is empty or unfinished, or the rate is not between 0 and 1.
        FolderInUseError: another process changes the gallery.
    """
    folder, rate = Path(folder), check_rate(rate)
    with _writing(folder) as (manifest, rows):
        if manifest is None or rows is None or manifest.unfinished is not None or not manifest.rows:
            raise ValueError(f"the gallery in {folder} is empty or unfinished")
        log(f"threshold at a false-accept rate of {rate:g}")
        vectors = _vectors(folder, manifest)
        persons = person_vectors(vectors, rows.identities.codes, len(rows.identities.names))
        thresholds = _thresholds(vectors, rows, persons, rate)
        revision = manifest.revision + 1
        stored = write_array(folder, f"persons-{revision:06d}-0.npy", persons)
        manifest = replace(manifest, rate=rate, thresholds=thresholds, persons=stored, revision=revision)
        manifest.write(folder)
        remove_others(folder, manifest.files)
        return Gallery(folder, manifest, verify=False)


class _Appender:
    """Embeds tracklets and saves their vectors and rows together, by replacing `gallery.json`."""

    def __init__(
        self, folder: Path, manifest: Manifest, rows: Rows | None, unfinished: Unfinished, save_seconds: float
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self.rows = Rows.of([]) if rows is None else rows
        self._unfinished, self._save_seconds = unfinished, save_seconds

    def append(
        self,
        entries: Sequence[Entry],
        new: Sequence[int],
        embed: Embed,
        chunk: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Embed the entries `new` and save them from time to time."""
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}: expected 1 or more")
        waiting: list[np.ndarray] = []
        places: list[int] = []
        saved = time.monotonic()
        on_progress(0, len(new))
        for start in range(0, len(new), chunk):
            chosen = new[start : start + chunk]
            vectors, kept = embed(chosen)
            checked_positions(kept, chosen, len(vectors))
            dimension = self.manifest.dimension or (waiting[0].shape[1] if waiting else None)
            if len(kept):
                names = [entries[place].name for place in kept]
                waiting.append(normalized(vectors, lambda row, names=names: f"tracklet {names[row]!r}", dimension))
                places += kept
            done = start + len(chosen)
            on_progress(done, len(new))
            is_full = bool(waiting) and (len(places) + chunk) * waiting[0].shape[1] * 4 > _SHARD_BYTES
            if waiting and (done == len(new) or is_full or time.monotonic() - saved >= self._save_seconds):
                self._save(np.concatenate(waiting), [entries[place] for place in places])
                waiting, places, saved = [], [], time.monotonic()

    def _save(self, vectors: np.ndarray, entries: Sequence[Entry]) -> None:
        manifest, revision, dimension = self.manifest, self.manifest.revision + 1, vectors.shape[1]
        earlier = list(manifest.vectors)
        if earlier and earlier[-1].rows < _SMALL_ROWS:
            vectors = np.concatenate([open_array(self.folder, earlier.pop(), dimension), vectors])
        self.rows = self.rows.joined(Rows.of(entries))
        self.manifest = replace(
            manifest,
            dimension=dimension,
            revision=revision,
            vectors=(*earlier, write_array(self.folder, f"vectors-{revision:06d}-0.npy", vectors)),
            table=self.rows.write(self.folder, f"tracklets-{revision:06d}-0.parquet"),
            unfinished=self._unfinished,
        )
        self.manifest.write(self.folder)
        remove_others(self.folder, self.manifest.files)


@contextmanager
def _writing(folder: Path, *, new: bool = False) -> Iterator[tuple[Manifest | None, Rows | None]]:
    """Hold the lock of a gallery; its manifest and table, or None if there is none yet."""
    if not new:
        read_manifest(folder)  # before the lock, which would create the folder
    check_folder(folder, "gallery")
    with locked(folder / _LOCK, _USE):
        if new and not (folder / FILE).exists():
            others = [path.name for path in folder.iterdir() if path.name != _LOCK and not is_part(path.name)]
            if others:
                raise ValueError(f"{folder} holds other files, such as {others[0]!r}; expected a new or empty folder")
            yield None, None
            return
        manifest = read_manifest(folder)
        _vectors(folder, manifest, verify=False)  # first: the size of a table is judged by the number of vectors
        found = 0 if manifest.table is None else manifest.table.rows
        if found != manifest.rows:
            raise DamagedGalleryError(f"{folder} is damaged: {manifest.rows:,} vectors, {found:,} rows")
        yield manifest, Rows.of([]) if manifest.table is None else read_rows(folder, manifest.table)


def _is_other(manifest: Manifest, rows: Rows, entries: Sequence[Entry], command: Literal["build", "add"]) -> bool:
    """Whether a command is another than the interrupted one: it has none of the tracklets that the latter stored."""
    unfinished = manifest.unfinished
    if unfinished is None or unfinished.command == command == "build":  # a build can be repeated with other tracklets
        return False
    return not {one.name for one in entries}.intersection(rows.names[unfinished.first_row :])


def _check_unfinished(
    folder: Path, manifest: Manifest, rows: Rows, entries: Sequence[Entry], command: Literal["build", "add"]
) -> None:
    """Check that a command is the one that was interrupted, if any: another would finish what it left half done.

    Raises:
        ValueError: it is another one.
    """
    unfinished = manifest.unfinished
    if unfinished is not None and _is_other(manifest, rows, entries, command):
        stored = rows.names[unfinished.first_row :]
        raise ValueError(
            f"the gallery in {folder} has {counted(len(stored), 'tracklet')} of an interrupted {unfinished.command}, "
            f"such as {printable(stored[0])}; rerun that command first, or delete them"
        )


def _unfinished_of(manifest: Manifest, deleted: np.ndarray) -> Unfinished | None:
    """What is left of an interrupted command after rows are deleted, given by a mask."""
    unfinished = manifest.unfinished
    if unfinished is None or deleted[unfinished.first_row :].all():
        return None
    return replace(unfinished, first_row=int((~deleted[: unfinished.first_row]).sum()))


def _finish(
    folder: Path, manifest: Manifest, rows: Rows, log: Callable[[str], None], deleted: set[bytes] | None = None
) -> Manifest:
    """Compute and write what searches need, and digests of what was deleted if they changed.

    Rows of an unfinished command are left out.
    """
    revision = manifest.revision + 1
    if deleted is not None:
        manifest = replace(manifest, deleted=write_deleted(folder, f"deleted-{revision:06d}-0.npy", deleted))
    manifest = replace(manifest, revision=revision, persons=None, indexes={}, thresholds={})
    if manifest.unfinished is not None:
        rows = rows.first(manifest.unfinished.first_row)
    if len(rows):
        vectors, identities = _vectors(folder, manifest).first(len(rows)), rows.identities
        persons = person_vectors(vectors, identities.codes, len(identities.names))
        targets: dict[By, Vectors] = {"tracklet": vectors, "person": Vectors([persons], manifest.dimension)}
        indexes: dict[By, IndexInfo] = {}
        for number, (by, of) in enumerate(targets.items()):
            log(f"index of {counted(len(of), by)}")
            indexes[by] = build_index(of).write(folder, f"{revision:06d}-{number}")
        log(f"threshold at a false-accept rate of {manifest.rate:g}")
        manifest = replace(
            manifest,
            persons=write_array(folder, f"persons-{revision:06d}-0.npy", persons),
            indexes=indexes,
            thresholds=_thresholds(vectors, rows, persons, manifest.rate),
        )
    manifest.write(folder)
    remove_others(folder, manifest.files)
    return manifest


def _thresholds(vectors: Vectors, rows: Rows, persons: np.ndarray, rate: float) -> dict[By, Threshold]:
    codes = rows.identities.codes
    numbers = np.arange(len(persons), dtype=codes.dtype)
    found: dict[By, Threshold | None] = {
        "tracklet": calibrate(vectors, codes, vectors, codes, rate),
        "person": calibrate(vectors, codes, Vectors([persons], vectors.dimension), numbers, rate),
    }
    return {by: threshold for by, threshold in found.items() if threshold is not None}


def _vectors(folder: Path, manifest: Manifest, *, verify: bool = True) -> Vectors:
    size = manifest.dimension
    return Vectors([open_array(folder, part, size, verify=verify) for part in manifest.vectors], size, folder)
