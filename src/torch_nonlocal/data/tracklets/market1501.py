"""Market-1501 and image sets with the same folders, as tracklets of one frame.

Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch_nonlocal.data.tracklets.dukemtmc_video import WITHDRAWN
from torch_nonlocal.data.tracklets.layout import Layout, Reader, check_folder, check_split
from torch_nonlocal.data.tracklets.tracklet import Role, Tracklet, TrackletData

_NAME = "market1501"
_PARTS = ("bounding_box_train", "query", "bounding_box_test")
_RULE = re.compile(r"(-1|\d{1,8})_c(\d{1,3})(?:s\d{1,3})?(?:_[\w-]+)?\.(?:jpe?g|png|bmp)")
_DUKE = re.compile(r"\d{4}_c\d_f\d{7}\.jpg")


def _recognizes(root: Path) -> bool:
    return any((root / part).is_dir() for part in (_PARTS[0], _PARTS[2]))


def _read(root: Path, split: int) -> TrackletData:
    check_split(split, 1, _NAME)
    check_folder(root, *_PARTS)
    reader = Reader(root)
    train, query, test = (tuple(_part(reader, root / part)) for part in _PARTS)
    known = {one.identity for one in (*query, *train)}
    gallery = tuple(_with_role(one, known) for one in test)
    notes = ["the queries are not in the gallery"]
    if any(_DUKE.fullmatch(one.files[0]) for one in query[:1]):
        notes.insert(0, WITHDRAWN)
    return TrackletData(_NAME, root, train, query, gallery, problems=reader.problems, notes=tuple(notes))


def _part(reader: Reader, folder: Path) -> Iterator[Tracklet]:
    for name in reader.listing(folder).pictures:
        match = _RULE.fullmatch(name)
        if match is None or (match[1] == "-1" and folder.name != _PARTS[2]):
            expected = "expected a name such as 0002_c1s1_000451_03.jpg (identity, camera)"
            reader.problem("wrong name", f"{folder.name}/{name}", expected)
            continue
        yield Tracklet(name.rpartition(".")[0], match[1], match[2], 1, folder, (name,))


def _with_role(one: Tracklet, known: set[str]) -> Tracklet:
    """A gallery tracklet with its role: in sets that number persons from 0, identity 0000 is a person."""
    role: Role = "person"
    if one.identity == "-1":
        role = "junk"
    elif not one.identity.strip("0") and one.identity not in known:
        role = "distractor"
    return one if role == "person" else replace(one, role=role)


MARKET1501 = Layout(
    _NAME,
    "folders bounding_box_train, query and bounding_box_test with pictures such as 0002_c1s1_000451_03.jpg",
    _recognizes,
    _read,
)
