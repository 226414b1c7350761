"""iLIDS-VID: 300 persons in two cameras of an airport, ten splits.

Reference: Wang et al., Person Re-identification by Video Ranking, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch_nonlocal.data.tracklets.layout import (
    SPLITS,
    Layout,
    Reader,
    check_folder,
    check_split,
    first_place,
    own_file,
    random_half,
)
from torch_nonlocal.data.tracklets.matlab import read_matrix
from torch_nonlocal.data.tracklets.tracklet import TrackletData
from torch_nonlocal.data.tracklets.two_cameras import Pair, pairs_of_folders, read_split

_NAME = "ilids-vid"
_PLACES = ("i-LIDS-VID/sequences", "sequences")
_SPLIT_FILE = "train-test people splits/train_test_splits_ilidsvid.mat"
_RULE = r"{folder}_{person}_\d{{1,9}}\.(?i:png|jpe?g)"


def _recognizes(root: Path) -> bool:
    sequences = first_place(root, *_PLACES)
    return (sequences / "cam1").is_dir() or (sequences / "cam2").is_dir()


def _read(root: Path, split: int) -> TrackletData:
    sequences = first_place(root, *_PLACES)
    check_folder(sequences, "cam1", "cam2")
    reader = Reader(root)
    cameras = {"1": sequences / "cam1", "2": sequences / "cam2"}
    pairs = pairs_of_folders(reader, cameras, _RULE, "a name such as cam1_person001_00317.png")
    file = own_file(root, _SPLIT_FILE) or own_file(root.parent, _SPLIT_FILE)
    if file is None:
        check_split(split, SPLITS, _NAME)
        note = f"no official splits ({_SPLIT_FILE}): a random half of the persons trains, by the number of the split"
        return read_split(_NAME, reader, pairs, random_half(pairs, split, _NAME), splits=SPLITS, notes=[note])
    persons, splits = _official(file, pairs, split)
    return read_split(_NAME, reader, pairs, persons, splits=splits, notes=["official splits of iLIDS-VID"])


def _official(file: Path, pairs: Mapping[str, Pair], split: int) -> tuple[tuple[set[str], set[str]], int]:
    """The persons of a split: a row numbers all persons, from 1, the first half of which is tested."""
    matrix = read_matrix(file, "ls_set")
    check_split(split, matrix.rows, _NAME)
    names, row = sorted(pairs), matrix.row(split)
    if sorted(row) != list(range(1, len(names) + 1)):
        expected = f"expected 1 to {len(names)}, the persons in both cameras, each once"
        raise ValueError(
            f"{str(file)!r}: split {split} has {len(row)} persons from {min(row)} to {max(row)}, {expected}"
        )
    half = len(row) // 2
    return ({names[number - 1] for number in row[half:]}, {names[number - 1] for number in row[:half]}), matrix.rows


ILIDS_VID = Layout(
    _NAME,
    "a folder i-LIDS-VID/sequences or sequences with cam1/person001/cam1_person001_00317.png and cam2, and, for the "
    f"official splits, {_SPLIT_FILE}",
    _recognizes,
    _read,
    places=("i-LIDS-VID", _SPLIT_FILE),
    picture="cam1_person001_00317.png",
)
