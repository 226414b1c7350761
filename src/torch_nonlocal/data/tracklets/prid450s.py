"""PRID 450S: 450 persons, one picture in each of two cameras, ten random splits.

Reference: Roth et al., Mahalanobis Distance Learning for Person Re-identification, Person Re-Identification 2014.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch_nonlocal.data.tracklets.layout import (
    SPLITS,
    Layout,
    Reader,
    check_folder,
    check_split,
    first_picture,
    random_half,
)
from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletData
from torch_nonlocal.data.tracklets.two_cameras import pairs_of, read_split

_NAME = "prid450s"
_RULE = re.compile(r"(\d{4})(00[12])\.(?i:png|jpe?g|bmp)")


def _recognizes(root: Path) -> bool:
    return root.is_dir() and _RULE.fullmatch(first_picture(root, 0) or "") is not None


def _read(root: Path, split: int) -> TrackletData:
    check_split(split, SPLITS, _NAME)
    check_folder(root)
    reader = Reader(root)
    found: dict[str, list[Tracklet]] = {}
    for one in reader.unique(_tracklets(reader, root)):
        found.setdefault(one.identity, []).append(one)
    pairs = pairs_of(reader, found)
    note = "a random half of the persons trains, by the number of the split"
    return read_split(_NAME, reader, pairs, random_half(pairs, split, _NAME), splits=SPLITS, notes=[note])


def _tracklets(reader: Reader, root: Path) -> Iterator[Tracklet]:
    for name in reader.listing(root).pictures:
        match = _RULE.fullmatch(name)
        if match is None:
            reader.problem("wrong name", name, "expected a name such as 0001001.png (identity, camera)")
        else:
            yield Tracklet(name.rpartition(".")[0], match[1], str(int(match[2])), 1, root, (name,))


PRID450S = Layout(
    _NAME,
    "a folder of pictures such as 0001001.png (four digits of identity, three of camera)",
    _recognizes,
    _read,
)
