"""MARS: video person re-identification with six cameras.

Reference: Zheng et al., MARS: A Video Benchmark for Large-Scale Person Re-Identification, ECCV 2016.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.texts import lines_of
from torch_nonlocal.data.tracklets.layout import (
    AUTOMATIC_QUERIES,
    Layout,
    Reader,
    check_folder,
    check_queries,
    check_split,
    own_file,
    with_distractors,
    with_queries,
)
from torch_nonlocal.data.tracklets.matlab import Matrix, read_matrix
from torch_nonlocal.data.tracklets.tracklet import Role, Tracklet, TrackletData

_NAME = re.compile(r"((\d{4,5}|00-1)C(\d{1,2})T\d{3,5})F(\d{3,6})\.(?i:jpe?g|png)")
_RULE = "expected a name such as 0001C1T0001F001.jpg (identity, camera, tracklet, frame)"
_JUNK = "00-1"
_FILES = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")
_COLUMNS = 4  # first frame, last frame, identity, camera


def _recognizes(root: Path) -> bool:
    return (root / "bbox_train").is_dir() or (root / "bbox_test").is_dir()


def _read(root: Path, split: int) -> TrackletData:
    """Read MARS by its official lists, or by the names of its files if there is no folder "info".

    Raises:
        ValueError: a folder or a list is missing, damaged or inconsistent.
    """
    check_split(split, 1, "mars")
    check_folder(root, "bbox_train", "bbox_test")
    reader = Reader(root)
    if not (root / "info").is_dir():
        train, test = (reader.unique(_by_name(reader, root / part)) for part in ("bbox_train", "bbox_test"))
        test = with_distractors(test, {one.identity for one in train})
        query, index = with_queries(test)
        notes = ("no folder 'info' with the official lists: tracklets are grouped by file names", AUTOMATIC_QUERIES)
        return TrackletData("mars", root, train, query, test, index, problems=reader.problems, notes=notes)
    missing = [name for name in _FILES if own_file(root, f"info/{name}") is None]
    if missing:
        raise ValueError(f"{str(root / 'info')!r} has no {listed(missing)}: expected {', '.join(_FILES)}")
    info = root / "info"
    train = _by_list(reader, root / "bbox_train", info / _FILES[0], info / _FILES[2], "track_train_info")
    test = _by_list(reader, root / "bbox_test", info / _FILES[1], info / _FILES[3], "track_test_info")
    rows = _query_rows(info / _FILES[4], len(test))
    places = {row: place for place, row in enumerate(row for row, one in enumerate(test) if one is not None)}
    kept, gallery = (tuple(one for one in part if one is not None) for part in (train, test))
    index = tuple(places[row] for row in rows if row in places)
    gallery = with_distractors(gallery, {one.identity for one in (*kept, *(gallery[place] for place in index))})
    query = tuple(gallery[place] for place in index)
    check_queries(info / _FILES[4], query)
    notes = ("official lists of MARS; the gallery contains the queries",)
    return TrackletData("mars", root, kept, query, gallery, index, problems=reader.problems, notes=notes)


def _by_list(reader: Reader, folder: Path, names_file: Path, info_file: Path, variable: str) -> list[Tracklet | None]:
    """One tracklet per row of a list, None for those that have no frame."""
    names = [line.strip() for _, line in lines_of(names_file)]
    info = read_matrix(info_file, variable)
    if info.columns != _COLUMNS:
        expected = "expected 4: first frame, last frame, identity, camera"
        raise ValueError(f"{str(info_file)!r} has {counted(info.columns, 'column')}, {expected}")
    _check_ranges(info, info_file, len(names), names_file)
    there = _Present(reader, folder)
    return [_listed(reader, there, names[row[0] - 1 : row[1]], row) for row in map(info.row, range(info.rows))]


def _check_ranges(info: Matrix, info_file: Path, total: int, names_file: Path) -> None:
    used = 0
    for number, (first, last, _, _) in enumerate(map(info.row, range(info.rows)), 1):
        if not 1 <= first <= last <= total:
            expected = f"expected 1 to {total}, the lines of {names_file.name}"
            raise ValueError(f"{str(info_file)!r}: row {number} has the frames {first} to {last}, {expected}")
        used += last - first + 1
    if used > total:
        raise ValueError(
            f"{str(info_file)!r} uses {used:,} frames, expected at most the {total:,} of {names_file.name}"
        )


def _listed(reader: Reader, there: _Present, names: Sequence[str], row: Sequence[int]) -> Tracklet | None:
    _, _, identity, camera = row
    label = _JUNK if identity == -1 else f"{identity:04d}"
    matches = [_NAME.fullmatch(name) for name in names]
    stem = next((match[1] for match in matches if match), f"{label}C{camera}")
    good = []
    for name, match in zip(names, matches, strict=True):
        if match is None:
            reader.problem("wrong name", name, _RULE)
        elif match[1] != stem or match[2] != label or match[3] != str(camera):
            says = f"the list says identity {label}, camera {camera}, tracklet {stem}"
            reader.problem("wrong name", name, f"{says}: expected a name that agrees")
        else:
            good.append(name)
    present = there.names(label)
    files = tuple(name for name in good if name in present)
    if len(files) < len(good):
        first = next(name for name in good if name not in present)
        of = f"{len(good) - len(files)} of {counted(len(good), 'frame')} missing in {str(there.folder / label)!r}"
        reader.problem("missing frame", stem, f"{of}, the first is {first}")
    if not files:
        reader.problem("empty tracklet", stem, "no frame is left; the tracklet is left out")
        return None
    return Tracklet(stem, label, str(camera), len(files), there.path(label), files, role=_role(label))


class _Present:
    """The pictures in the folders of identities; each folder is listed once, and only the last one is held."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.folder = folder
        self._reader = reader
        self._label = ""
        self._names: frozenset[str] = frozenset()
        self._paths: dict[str, Path] = {}

    def names(self, label: str) -> frozenset[str]:
        """The pictures of an identity."""
        if label != self._label:
            path = self.path(label)
            pictures = self._reader.listing(path).pictures if path.is_dir() else ()
            self._label, self._names = label, frozenset(pictures)
        return self._names

    def path(self, label: str) -> Path:
        """The folder of an identity; one object for all its tracklets."""
        return self._paths.setdefault(label, self.folder / label)


def _by_name(reader: Reader, part: Path) -> Iterator[Tracklet]:
    """The tracklets of a folder of identities, grouped by the names of the files."""
    for label in reader.listing(part).folders:
        folder = part / label
        found = []
        for name in reader.listing(folder).pictures:
            match = _NAME.fullmatch(name)
            if match is None or match[2] != label:
                expected = _RULE if match is None else f"{_RULE} of identity {label}, as its folder"
                reader.problem("wrong name", reader.name_of(folder / name), expected)
            else:
                found.append((match[1], int(match[4]), match[3], name))
        if not found:
            reader.problem("empty identity", reader.name_of(folder), "the folder has no frames")
        for stem, frames in groupby(sorted(found), key=lambda one: one[0]):
            ordered = list(frames)
            files = tuple(name for *_, name in ordered)
            yield Tracklet(stem, label, ordered[0][2], len(files), folder, files, role=_role(label))


def _query_rows(file: Path, total: int) -> list[int]:
    """Rows of the test list that are queries, from 0."""
    rows = [number - 1 for number in read_matrix(file, "query_IDX").entries]
    outside = [row + 1 for row in rows if not 0 <= row < total]
    if outside:
        expected = f"expected 1 to {total}, the rows of track_test_info"
        raise ValueError(f"{str(file)!r} has the index {listed(map(str, outside))}, {expected}")
    if len(set(rows)) < len(rows):
        raise ValueError(f"{str(file)!r} has {counted(len(rows) - len(set(rows)), 'index')} twice: expected each once")
    return rows


def _role(label: str) -> Role:
    return "junk" if label == _JUNK else "person"


MARS = Layout(
    "mars",
    "folders bbox_train and bbox_test with a folder of pictures per identity (0001/0001C1T0001F001.jpg), and 'info' "
    "with the official lists",
    _recognizes,
    _read,
    places=("bbox_train", "bbox_test", "info/query_IDX.mat"),
    picture="0001C1T0001F001.jpg",
)
