"""LS-VID: video person re-identification with 15 cameras.

Reference: Li et al., Global-Local Temporal Representations for Video Person Re-Identification, ICCV 2019.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.text import excerpt, listed
from torch_nonlocal.data.texts import lines_of
from torch_nonlocal.data.tracklets.layout import (
    AUTOMATIC_QUERIES,
    Layout,
    Reader,
    check_queries,
    check_split,
    first_place,
    own_file,
    with_queries,
)
from torch_nonlocal.data.tracklets.matlab import read_matrix
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData

_NAME = "ls-vid"
_LISTS = ("list_sequence", "info/list_sequence")
_QUERIES = ("test/data/info_test.mat", "info/data/info_test.mat", "info/info_test.mat", "test/info_test.mat")
_LINE = re.compile(r"(\S+)\s+(-?\d{1,8})")
_FRAME = re.compile(r"\w+?_\w+?_(\d{1,4})_(\d{1,9})\.(?i:jpe?g|png)")


class _Entry(NamedTuple):
    line: int
    prefix: str
    identity: str


def _recognizes(root: Path) -> bool:
    lists = first_place(root, *_LISTS)
    return any((lists / f"list_seq_{part}.txt").is_file() for part in ("train", "test"))


def _read(root: Path, split: int) -> TrackletData:
    """Read LS-VID by its lists.

    Raises:
        ValueError: a list is missing or damaged.
    """
    check_split(split, 1, _NAME)
    lists = first_place(root, *_LISTS)
    names = ("list_seq_train.txt", "list_seq_test.txt")
    missing = [name for name in names if own_file(root, (lists / name).relative_to(root).as_posix()) is None]
    if missing:
        raise ValueError(f"{str(lists)!r} has no {listed(missing)}: expected {' and '.join(names)}")
    reader = Reader(root)
    files = _Files(reader)
    train = reader.unique(one for one in _tracklets(reader, files, lists / "list_seq_train.txt") if one is not None)
    test = list(_tracklets(reader, files, lists / "list_seq_test.txt"))
    gallery = tuple(one for one in test if one is not None)
    notes = ["the gallery contains the queries"]
    if (lists / "list_seq_val.txt").is_file():
        notes.append("the validation list is not used")
    queries = own_file(root, *_QUERIES)
    if queries is None:
        query, index = with_queries(gallery)
        notes.append(f"{_QUERIES[0]} is missing; {AUTOMATIC_QUERIES}")
    else:
        places = {row: place for place, row in enumerate(row for row, one in enumerate(test) if one is not None)}
        index = tuple(places[row] for row in _query_rows(queries, len(test)) if row in places)
        query = tuple(gallery[row] for row in index)
        check_queries(queries, query)
    return TrackletData(_NAME, root, train, query, gallery, index, problems=reader.problems, notes=tuple(notes))


def _tracklets(reader: Reader, files: _Files, file: Path) -> Iterator[Tracklet | None]:
    """One tracklet per line of a list, None for those without frames."""
    for number, line in lines_of(file):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            expected = f"got {excerpt(line)!r}, expected the start of the frames' paths, and the identity"
            reader.problem("wrong row", f"{file.name}:{number}", expected)
            yield None
            continue
        yield files.tracklet(_Entry(number, match[1], str(int(match[2]))))


class _Files:
    """The frames in the folders of the set; each folder is listed once, and only the last one is held."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._folder: Path | None = None
        self._names: tuple[str, ...] = ()

    def tracklet(self, entry: _Entry) -> Tracklet | None:
        """The tracklet of the frames whose paths start with a prefix; None, and a problem, without frames."""
        name = entry.prefix.rstrip("_/").rpartition("/")[2]
        path = self._reader.inside(entry.prefix, name)
        if path is None:
            return None
        if self._folder is None or self._folder != path.parent:
            self._folder = path.parent
            self._names = self._reader.listing(path.parent).pictures if path.parent.is_dir() else ()
        start = path.name.rstrip("_") + "_"
        good: list[tuple[int, str, str]] = []
        for at in range(bisect_left(self._names, start), len(self._names)):
            if not self._names[at].startswith(start):
                break
            match = _FRAME.fullmatch(self._names[at])
            if match is None:
                expected = "expected a name such as 0001_0001_01_0000001.jpg (identity, tracklet, camera, frame)"
                self._reader.problem("wrong name", self._names[at], expected)
            else:
                good.append((int(match[2]), self._names[at], match[1]))
        cameras = sorted({camera for *_, camera in good})
        if len(cameras) > 1:
            self._reader.problem("wrong name", name, f"its frames are of the cameras {', '.join(cameras)}")
        if not good:
            self._reader.problem("empty tracklet", name, f"no frame {str(path)!r}*; the tracklet is left out")
            return None
        names = tuple(file for _, file, _ in sorted(good))
        role = "junk" if entry.identity == "-1" else "person"
        return Tracklet(name, entry.identity, cameras[0], len(names), self._folder, names, role=role)


def _query_rows(file: Path, total: int) -> list[int]:
    rows = [number - 1 for number in read_matrix(file, "query").entries]
    outside = [row + 1 for row in rows if not 0 <= row < total]
    if outside:
        expected = f"expected 1 to {total}, the lines of list_seq_test.txt"
        raise ValueError(f"{str(file)!r} has the index {listed(map(str, outside))}, {expected}")
    if len(set(rows)) < len(rows):
        raise ValueError(f"{str(file)!r} has an index twice: expected each once")
    return rows


LS_VID = Layout(
    _NAME,
    "list_sequence/list_seq_train.txt and list_seq_test.txt (or below 'info'), whose lines are the start of the paths "
    "of a tracklet's frames and its identity, and test/data/info_test.mat with the rows of the queries",
    _recognizes,
    _read,
    places=("list_sequence", "tracklet_train", "tracklet_test"),
    picture="0842_0001_03_0000009.jpg",
)
