"""PolarBearVidID: 13 polar bears in videos of zoos, and sets of animals with the same names.

Reference: Zuerl et al., PolarBearVidID: A Video-Based Re-Identification Benchmark Dataset for Polar Bears, Animals,
2023.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch_nonlocal._common.text import counted
from torch_nonlocal.data.rows import table_rows
from torch_nonlocal.data.texts import lines_of, whole_number
from torch_nonlocal.data.tracklets.layout import (
    AUTOMATIC_QUERIES,
    Layout,
    Reader,
    check_folder,
    check_split,
    first_picture,
    own_cameras,
    own_file,
    random_half,
    with_queries,
)
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData

_NAME = "polarbearvidid"
_SPLITS = 5
_RULE = re.compile(r"((\d{3})C(\d{2,3})T(\d{3,5}))F(\d{1,9})\.(?i:jpe?g|png)")
_FOLD = "track_fold_info_{}.csv"
_COLUMNS = ["id", "cam", "tracklet"]

_Key = tuple[int, int]
"""Numbers of an animal and of a tracklet."""


def _recognizes(root: Path) -> bool:
    return root.is_dir() and _RULE.fullmatch(first_picture(root, 1) or "") is not None


def _read(root: Path, split: int) -> TrackletData:
    check_split(split, _SPLITS, _NAME)
    check_folder(root)
    reader = Reader(root)
    every = reader.unique(_tracklets(reader, root))
    fold = own_file(root, _FOLD.format(split + 1))
    notes = []
    if fold is not None:
        keys = _fold(reader, fold, {_key(one) for one in every})
        train = tuple(one for one in every if _key(one) not in keys)
        test = tuple(one for one in every if _key(one) in keys)
        notes.append(f"test tracklets of {fold.name}; the animals train as well, as in the published folds")
    else:
        trained, _ = random_half({one.identity for one in every}, split, _NAME)
        train = tuple(one for one in every if one.identity in trained)
        test = tuple(one for one in every if one.identity not in trained)
        notes.append(f"no {_FOLD.format(split + 1)}: a random half of the animals trains, by the number of the split")
    test, note = own_cameras(test)
    query, index = with_queries(test)
    notes += [*note, AUTOMATIC_QUERIES]
    problems = reader.problems
    return TrackletData(_NAME, root, train, query, test, index, _SPLITS, problems, tuple(notes))


def _key(one: Tracklet) -> _Key:
    match = _RULE.fullmatch(one.files[0])
    assert match is not None
    return int(match[2]), int(match[4])


def _tracklets(reader: Reader, root: Path) -> Iterator[Tracklet]:
    for identity in reader.listing(root).folders:
        frames: dict[str, list[tuple[int, str, str]]] = {}
        for name in reader.listing(root / identity).pictures:
            match = _RULE.fullmatch(name)
            if match is None or match[2] != identity:
                expected = f"expected a name such as {identity}C01T001F001.jpg (identity, camera, tracklet, frame)"
                reader.problem("wrong name", f"{identity}/{name}", expected)
            else:
                frames.setdefault(match[1], []).append((int(match[5]), name, match[3]))
        if not frames:
            reader.problem("empty identity", identity, "the folder has no frames")
        for name, found in sorted(frames.items()):
            files = tuple(file for _, file, _ in sorted(found))
            yield Tracklet(name, identity, found[0][2], len(files), root / identity, files)


def _fold(reader: Reader, file: Path, known: set[_Key]) -> set[_Key]:
    """The test tracklets of a fold."""
    lines = list(lines_of(file))
    table = table_rows(file, lines, lambda cell: cell.strip().lower() in _COLUMNS) if lines else [(0, [""])]
    (_, header), *rows = table
    names = [cell.strip().lower() for cell in header]
    if any(column not in names for column in _COLUMNS):
        raise ValueError(f"{str(file)!r} has the columns {', '.join(header)}: expected {', '.join(_COLUMNS)}")
    places = names.index("id"), names.index("tracklet")
    keys: set[_Key] = set()
    for line, row in rows:
        animal, tracklet = (whole_number(row[place].strip()) if place < len(row) else None for place in places)
        if animal is None or tracklet is None:
            reader.problem("wrong row", f"{file.name}:{line}", "expected whole numbers for id and tracklet")
        elif (animal, tracklet) not in known:
            reader.problem("empty tracklet", f"{file.name}:{line}", f"animal {animal} has no tracklet {tracklet}")
        else:
            keys.add((animal, tracklet))
    if not keys:
        raise ValueError(f"{str(file)!r} names none of {counted(len(known), 'tracklet')}")
    return keys


POLAR_BEAR = Layout(
    _NAME,
    "a folder of pictures per animal (000/000C01T000F000.jpg: identity, camera, tracklet, frame), and "
    f"{_FOLD.format(1)} and so on with the test tracklets of each fold",
    _recognizes,
    _read,
    places=(_FOLD.format(1),),
    picture="000C01T000F000.jpg",
)
