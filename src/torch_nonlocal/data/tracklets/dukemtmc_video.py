"""DukeMTMC-VideoReID, for those who hold a copy: its authors withdrew DukeMTMC in 2019.

Reference: Wu et al., Exploit the Unknown Gradually: One-Shot Video-Based Person Re-Identification by Stepwise Learning,
CVPR 2018.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch_nonlocal.data.tracklets.layout import (
    Layout,
    Reader,
    check_folder,
    check_split,
    first_picture,
    first_place,
    queries_in_gallery,
)
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData

WITHDRAWN = (
    "DukeMTMC was withdrawn by its authors in 2019: people were recorded without their consent. Prefer another set"
)
_NAME = "dukemtmc-video"
_RULE = re.compile(r"(\d{4})_C(\d{1,2})_F(\d{1,6})_X\d{1,9}\.(?i:jpe?g|png)")
_PLACES = ("train", "DukeMTMC-VideoReID/train")


def _recognizes(root: Path) -> bool:
    train = first_place(root, *_PLACES)
    return any(_RULE.fullmatch(first_picture(train.parent / part, 2) or "") for part in ("train", "query", "gallery"))


def _read(root: Path, split: int) -> TrackletData:
    check_split(split, 1, _NAME)
    place = first_place(root, *_PLACES).parent
    check_folder(place, "train", "query", "gallery")
    reader = Reader(root)
    train, query, gallery = (reader.unique(_part(reader, place / part)) for part in ("train", "query", "gallery"))
    query, index = queries_in_gallery(query, gallery)
    notes = [
        WITHDRAWN,
        "the gallery contains the queries" if index is not None else "the queries are not in the gallery",
    ]
    return TrackletData(_NAME, root, train, query, gallery, index, problems=reader.problems, notes=tuple(notes))


def _part(reader: Reader, part: Path) -> Iterator[Tracklet]:
    for identity in reader.listing(part).folders:
        for number in reader.listing(part / identity).folders:
            folder, name = part / identity / number, f"{identity}/{number}"
            matches = [(one, _RULE.fullmatch(one)) for one in reader.listing(folder).pictures]
            good = sorted((int(match[3]), one, match[2]) for one, match in matches if match and match[1] == identity)
            for wrong in sorted({one for one, _ in matches} - {one for _, one, _ in good}):
                expected = f"expected a name such as {identity}_C1_F0001_X00001.jpg"
                reader.problem("wrong name", f"{part.name}/{name}/{wrong}", expected)
            cameras = sorted({camera for *_, camera in good})
            if len(cameras) > 1:
                reader.problem(
                    "wrong name", f"{part.name}/{name}", f"its frames are of the cameras {', '.join(cameras)}"
                )
            if not good:
                reader.problem("empty tracklet", f"{part.name}/{name}", f"{str(folder)!r} has no frames")
                continue
            yield Tracklet(name, identity, good[0][2], len(good), folder, tuple(one for _, one, _ in good))


DUKEMTMC_VIDEO = Layout(
    _NAME,
    "folders train, query and gallery with identity/tracklet/0001_C1_F0001_X00001.jpg (withdrawn by its authors)",
    _recognizes,
    _read,
    places=("DukeMTMC-VideoReID",),
    picture="0001_C1_F0001_X00001.jpg",
)
