"""Market-1501 and image sets with the same folders, as tracklets of one frame.

Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch_nonlocal.data.tracklets.dukemtmc_video import WITHDRAWN
from torch_nonlocal.data.tracklets.layout import (
    Layout,
    Reader,
    check_folder,
    check_split,
    first_picture,
    with_distractors,
)
from torch_nonlocal.data.tracklets.tracklet import Role, Tracklet, TrackletData

_NAME = "market1501"
_VARIANTS = (
    ("bounding_box_train", "query", "bounding_box_test"),
    ("image_train", "image_query", "image_test"),  # VeRi
    ("train", "query", "gallery"),
)
_RULE = re.compile(r"(-1|\d{1,8})_c(\d{1,3})(?:s\d{1,3})?(?:_[\w-]+)?\.(?i:jpe?g|png|bmp)")
_DUKE = re.compile(r"\d{4}_c\d_f\d{7}\.jpg")


def _recognizes(root: Path) -> bool:
    if not root.is_dir():
        return False
    parts = _parts(root)
    return (
        any(_RULE.fullmatch(first_picture(root / part, 0) or "") for part in parts) or (root / _VARIANTS[0][0]).is_dir()
    )


def _parts(root: Path) -> tuple[str, str, str]:
    """The folders of training, query and gallery pictures."""
    return next(
        (parts for parts in _VARIANTS if (root / parts[0]).is_dir() or (root / parts[2]).is_dir()), _VARIANTS[0]
    )


def _read(root: Path, split: int) -> TrackletData:
    check_split(split, 1, _NAME)
    parts = _parts(root)
    check_folder(root, *parts)
    reader = Reader(root)
    train, query = (tuple(_part(reader, root / part, has_junk=False)) for part in parts[:2])
    known = {one.identity for one in (*query, *train)}
    gallery = with_distractors(_part(reader, root / parts[2], has_junk=True), known)
    notes = ["the queries are not in the gallery"]
    if any(_DUKE.fullmatch(one.files[0]) for one in query[:1]):
        notes.insert(0, WITHDRAWN)
    return TrackletData(_NAME, root, train, query, gallery, problems=reader.problems, notes=tuple(notes))


def _part(reader: Reader, folder: Path, *, has_junk: bool) -> Iterator[Tracklet]:
    for name in reader.listing(folder).pictures:
        match = _RULE.fullmatch(name)
        if match is None or (match[1] == "-1" and not has_junk):
            expected = "expected a name such as 0002_c1s1_000451_03.jpg (identity, camera)"
            reader.problem("wrong name", f"{folder.name}/{name}", expected)
            continue
        role: Role = "junk" if match[1] == "-1" else "person"
        yield Tracklet(name.rpartition(".")[0], match[1], match[2], 1, folder, (name,), role=role)


MARKET1501 = Layout(
    _NAME,
    "folders bounding_box_train, query and bounding_box_test (or image_train, image_query and image_test, or train, "
    "query and gallery) with pictures such as 0002_c1s1_000451_03.jpg",
    _recognizes,
    _read,
    places=tuple(name for variant in _VARIANTS[:2] for name in variant if name != "query"),
    picture="0002_c1s1_000451_03.jpg",
)
