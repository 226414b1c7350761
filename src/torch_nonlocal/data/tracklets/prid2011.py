"""PRID 2011, multi-shot: persons in two cameras, ten splits.

Reference: Hirzer et al., Person Re-identification by Descriptive and Discriminative Classification, SCIA 2011.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.texts import json_as
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
from torch_nonlocal.data.tracklets.tracklet import TrackletData
from torch_nonlocal.data.tracklets.two_cameras import Pair, pairs_of_folders, read_split

_NAME = "prid2011"
_PLACES = ("multi_shot", "prid_2011/multi_shot")
_SPLIT_FILES = ("splits_prid2011.json", "info/splits_prid2011.json")
_PERSON = re.compile(r"person_(\d{4})")
_LAST_IN_BOTH = 200  # persons with larger numbers are other people in the other camera
_FEWEST = 28  # frames


def _recognizes(root: Path) -> bool:
    shots = first_place(root, *_PLACES)
    return (shots / "cam_a").is_dir() or (shots / "cam_b").is_dir()


def _read(root: Path, split: int) -> TrackletData:
    shots = first_place(root, *_PLACES)
    check_folder(shots, "cam_a", "cam_b")
    reader = Reader(root)

    def is_in_both(folder: str) -> bool:
        match = _PERSON.fullmatch(folder)
        if match is None:
            reader.problem("wrong name", folder, "expected a folder such as person_0001")
        return match is not None and int(match[1]) <= _LAST_IN_BOTH

    cameras = {"a": shots / "cam_a", "b": shots / "cam_b"}
    rule = r"\d{{1,9}}\.(?i:png|jpe?g)"
    pairs = pairs_of_folders(reader, cameras, rule, "a name such as 0001.png", is_in_both)
    file = own_file(root, *_SPLIT_FILES)
    if file is not None:
        persons, splits = _listed(file, pairs, split)
        return read_split(_NAME, reader, pairs, persons, splits=splits, notes=[f"splits of {file.name}"])
    check_split(split, SPLITS, _NAME)
    long = [name for name, pair in pairs.items() if min(one.length for one in pair) >= _FEWEST]
    used = f"{counted(len(long), 'person')} of {len(pairs)} with more than {_FEWEST - 1} frames in both cameras"
    if len(long) < 2:
        long = list(pairs)
        used = f"all {len(pairs)} persons, since fewer than two have more than {_FEWEST - 1} frames in both cameras"
    note = f"no list of splits ({_SPLIT_FILES[0]}): {used}; a random half trains, by the number of the split"
    return read_split(_NAME, reader, pairs, random_half(long, split, _NAME), splits=SPLITS, notes=[note])


def _listed(file: Path, pairs: Mapping[str, Pair], split: int) -> tuple[tuple[set[str], set[str]], int]:
    content = json_as(file, list)
    check_split(split, len(content), _NAME)
    one = content[split]
    sides = [one.get(side) if isinstance(one, dict) else None for side in ("train", "test")]
    train, test = sides
    if not (isinstance(train, list) and isinstance(test, list) and all(isinstance(name, str) for name in train + test)):
        raise ValueError(f"{str(file)!r}: split {split} is not an object with lists of persons, 'train' and 'test'")
    missing = sorted({*train, *test} - set(pairs))
    if missing:
        raise ValueError(f"{str(file)!r}: split {split} names {listed(missing)}, which are not in both cameras")
    return (set(train), set(test)), len(content)


PRID2011 = Layout(
    _NAME,
    "a folder multi_shot or prid_2011/multi_shot with cam_a/person_0001/0001.png and cam_b, and, for given splits, "
    f"{_SPLIT_FILES[0]}",
    _recognizes,
    _read,
    places=("multi_shot", "prid_2011", _SPLIT_FILES[0]),
)
