"""Data of re-identification: tracklets of a set, by their use, or the built-in handwritten persons."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.tracklets.faults import FEWEST_IDENTITIES, lines_of, missing_part
from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.find import find_tracklets
from torch_nonlocal.data.tracklets.tracklet import (
    Tracklet,
    TrackletData,
    TrackletSource,
    camera_numbers,
    identity_numbers,
)
from torch_nonlocal.tasks.reid.settings import AUTO, ReidSettings

_SHOWN = 3


@dataclass(frozen=True)
class Retrieval:
    """Tracklets to rank: queries against a gallery.

    Attributes:
        source: all tracklets.
        query: positions of the queries in `source.tracklets`.
        gallery: positions of the gallery.
        query_index: rows of the gallery that are the queries; None if the queries are not in the gallery.
    """

    source: TrackletSource
    query: tuple[int, ...]
    gallery: tuple[int, ...]
    query_index: tuple[int, ...] | None = None

    @property
    def identities(self) -> list[int]:
        """Number of the identity of each tracklet: -1 for junk, 0 for distractors."""
        return identity_numbers(self.source.tracklets)[0]

    @property
    def cameras(self) -> list[int]:
        """Number of the camera of each tracklet; see `camera_numbers`."""
        return camera_numbers(self.source.tracklets)


@dataclass(frozen=True)
class Training:
    """Training tracklets, and those that choose the best weights.

    Attributes:
        source: the training tracklets.
        labels: identity of each tracklet, from 0.
        cameras: number of the camera of each tracklet.
        identities: number of identities.
        validation: held-out identities; None if there are none.
        split: number of the random split; 0 for data that have one.
        summary: one line about the data.
        notes: further lines.
        problems: one line for each thing that was left out.
    """

    source: TrackletSource
    labels: tuple[int, ...]
    cameras: tuple[int, ...]
    identities: int
    validation: Retrieval | None
    split: int
    summary: str
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def check_built_in(data: Path | None, settings: ReidSettings) -> None:
    """Check that the network takes frames of the size of the built-in data, if these are the data.

    Raises:
        ValueError: the data are built in, and the network takes frames of another size.
    """
    if data is None:
        from torch_nonlocal.data.digit_persons import SIZE

        if settings.size != SIZE:
            height, width = SIZE
            raise ValueError(
                f"expected --data, or a network for them such as that of the recipe reid: the built-in persons have "
                f"frames of {height} x {width} pixels, the network takes {settings.height} x {settings.width}"
            )


def training_data(data: Path | None, settings: ReidSettings, seed: int) -> Training:
    """Find the training tracklets.

    Args:
        data: folder or list, as in `data.tracklets.find.find_tracklets`; None for the built-in persons.
        settings: layout, random split, size of the frames, share of the identities that is held out.
        seed: chooses the random split if the settings do not: the seed modulo the number of splits.

    Raises:
        ValueError: there is no such folder or table, the layout is unknown, the data do not have the split of the
            settings, or there are fewer than two training identities.
        ImportError: a package is not installed; the message names the extra.
    """
    check_built_in(data, settings)
    if data is None:
        from torch_nonlocal.data.digit_persons import DigitPersons

        persons, held_out = DigitPersons("train"), DigitPersons("validation")
        validation = Retrieval(held_out, held_out.query, held_out.gallery)
        return _training(persons, validation, 0, "handwritten persons, generated")
    if settings.split is None:
        found, split = found_for_any(data, settings.layout, seed)
    else:
        found, split = find_tracklets(data, settings.layout, settings.split), settings.split
    return training_of(found, settings, split, data)


def training_of(found: TrackletData, settings: ReidSettings, split: int, data: Path) -> Training:
    """The training tracklets of a set.

    Args:
        found: the set.
        settings: size of the frames, share of the identities that is held out.
        split: number of its random split.
        data: the folder or list, for messages.

    Raises:
        ValueError: there are fewer than two training identities.
    """
    people = [one for one in found.train if one.role == "person" and one.length]
    kept, held_out = _held_out(people, settings.held_out)
    if (identities := len({one.identity for one in kept})) < FEWEST_IDENTITIES:
        of = f"of {counted(identities, 'identity', 'identities')}"
        raise ValueError(
            f"{data} ({found.layout}): {counted(len(kept), 'training tracklet')} with frames {of}, expected training "
            f"tracklets of two identities or more{_first_problem(found)}"
        )
    validation = _validation(held_out, settings.size) if held_out else None
    training = _training(FileTracklets(kept, settings.size), validation, split, set_name(data, found, split))
    problems = [f"{one.kind}: {one.name}: {one.reason}" for one in found.problems]
    notes = [*found.notes, *_training_notes(found.train, kept, settings.held_out if not held_out else 0)]
    return replace(training, notes=tuple(notes), problems=tuple(problems))


def _training_notes(found: Sequence[Tracklet], kept: Sequence[Tracklet], unmet: float) -> list[str]:
    """Lines about tracklets without frames, identities in one camera, and a share that holds nobody out, unless 0."""
    notes, cameras = [], _cameras_of(kept)
    if unmet:
        of = f"held_out={unmet:g} of {counted(len(cameras), 'identity', 'identities')}"
        notes.append(f"{of}: too few that can be matched, expected two or more; the last weights are kept")
    if empty := [one.name for one in found if not one.length]:
        notes.append(f"left out, without frames: {listed(empty, most=_SHOWN)}")
    single = sum(len(seen_by) == 1 for seen_by in cameras.values())
    if single and len({one.camera for one in kept}) > 1:
        notes.append(f"{counted(single, 'identity', 'identities')} in one camera only, also trained on")
    return notes


def retrieval_data(
    data: Path | None, settings: ReidSettings, split: int, layout: str = AUTO
) -> tuple[Retrieval, list[str]]:
    """Find the query and gallery tracklets, and lines about them.

    Args:
        data: as in `training_data`.
        settings: size of the frames.
        split: number of the random split that the weights were trained on, modulo the number of splits of these data.
        layout: layout of the data.

    Raises:
        ValueError, ImportError: as `training_data`; or there are no queries.
    """
    check_built_in(data, settings)
    if data is None:
        from torch_nonlocal.data.digit_persons import DigitPersons

        persons = DigitPersons("test")
        return Retrieval(persons, persons.query, persons.gallery), ["handwritten persons that training does not use"]
    found, split = found_for_any(data, layout, split)
    gallery = [one for one in found.gallery if one.length]
    if found.query_index is not None:
        rows = {id(one): row for row, one in enumerate(gallery)}
        query = [found.gallery[row] for row in found.query_index]
        lost = [one.name for one in query if id(one) not in rows]
        index = tuple(rows[id(one)] for one in query if id(one) in rows)
        everything, positions = gallery, index
    else:
        query = [one for one in found.query if one.length]
        lost = [one.name for one in found.query if not one.length]
        index = None
        everything, positions = [*gallery, *query], tuple(range(len(gallery), len(gallery) + len(query)))
    if not positions or not gallery:
        expected = f"expected both for a test{_first_problem(found)}"
        raise ValueError(f"{data} ({found.layout}): no query or no gallery tracklets; {expected}")
    notes = [*found.notes, *lines_of(found.problems, most=_SHOWN)]
    if lost:
        notes.append(f"left out, without frames: {listed(lost, most=_SHOWN)}")
    retrieval = Retrieval(FileTracklets(everything, settings.size), positions, tuple(range(len(gallery))), index)
    return retrieval, [f"{set_name(data, found, split)}: {_test_summary(retrieval)}", *notes]


def _first_problem(found: TrackletData) -> str:
    """The end of a message about data in which something is missing."""
    line = next(iter(lines_of(found.problems, most=1)), "")
    problem = f"; {counted(len(found.problems), 'problem')} of the data, the first: {line}" if line else ""
    return "".join(f"; {one.reason}" for one in missing_part(found)) + problem


def set_name(data: Path, found: TrackletData, split: int) -> str:
    """The set with its layout and, if it has several, its split."""
    of_several = f", split {split} of {found.splits}, counted from 0" if found.splits > 1 else ""
    return f"{data} ({found.layout}{of_several})"


def _test_summary(retrieval: Retrieval) -> str:
    queries, gallery = len(retrieval.query), len(retrieval.gallery)
    people = {one.identity for one in retrieval.source.tracklets if one.role == "person"}
    identities = counted(len(people), "identity", "identities")
    return f"{counted(queries, 'query', 'queries')}, {counted(gallery, 'gallery tracklet')}, {identities}"


def found_for_any(data: Path, layout: str, number: int) -> tuple[TrackletData, int]:
    """The tracklets of a random split, and its number: that of any number, modulo the number of splits."""
    found = find_tracklets(data, layout, 0)
    split = number % found.splits
    return (find_tracklets(data, layout, split) if split else found), split


def _training(source: TrackletSource, validation: Retrieval | None, split: int, name: str) -> Training:
    numbers, names = identity_numbers(source.tracklets)
    known = {camera: number for number, camera in enumerate(sorted({one.camera for one in source.tracklets}))}
    cameras = tuple(known[one.camera] for one in source.tracklets)
    words = [
        counted(len(numbers), "training tracklet"),
        counted(len(names), "identity", "identities"),
        counted(len(known), "camera"),
    ]
    held = "no identity held out"
    if validation is not None:
        held_out = len({n for n in validation.identities if n > 0})
        held = f"{counted(held_out, 'identity', 'identities')} held out"
    labels = tuple(number - 1 for number in numbers)
    return Training(source, labels, cameras, len(names), validation, split, f"{name}: {', '.join(words)}; {held}")


def _cameras_of(tracklets: Sequence[Tracklet]) -> dict[str, set[str]]:
    cameras: dict[str, set[str]] = {}
    for one in tracklets:
        cameras.setdefault(one.identity, set()).add(one.camera)
    return cameras


def _held_out(tracklets: Sequence[Tracklet], share: float) -> tuple[list[Tracklet], list[Tracklet]]:
    """Split training tracklets by their identities.

    Identities are ordered by a hash of their names, so the split does not depend on the others. Only identities that
    can be matched are held out: those in two cameras, or with two tracklets in data of one camera.
    """
    cameras = _cameras_of(tracklets)
    several = len({one.camera for one in tracklets}) > 1
    counts: dict[str, int] = {}
    for one in tracklets:
        counts[one.identity] = counts.get(one.identity, 0) + 1
    able = [name for name in cameras if (len(cameras[name]) > 1 if several else counts[name] > 1)]
    able.sort(key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())
    number = min(round(share * len(cameras)), max(len(cameras) - FEWEST_IDENTITIES, 0), len(able))
    chosen = set(able[:number]) if number >= FEWEST_IDENTITIES else set()
    return (
        [one for one in tracklets if one.identity not in chosen],
        [one for one in tracklets if one.identity in chosen],
    )


def _validation(tracklets: Sequence[Tracklet], size: tuple[int, int]) -> Retrieval:
    """The first tracklet of each identity is a query; the gallery holds the others."""
    first: dict[str, int] = {}
    for row, one in enumerate(tracklets):
        first.setdefault(one.identity, row)
    query = tuple(first.values())
    queries = set(query)
    gallery = tuple(row for row in range(len(tracklets)) if row not in queries)
    return Retrieval(FileTracklets(tracklets, size), query, gallery)


def has_validation(data: Path | None, settings: ReidSettings) -> bool:
    """Whether a run has held-out identities."""
    return data is None or training_data(data, settings, 0).validation is not None
