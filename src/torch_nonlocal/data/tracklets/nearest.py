"""What a folder or file that fits no layout resembles, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.text import nearest
from torch_nonlocal.data.suffixes import LISTS, is_other_name, is_video_name, starts_like_video
from torch_nonlocal.data.tracklets.layout import Layout, first_picture, is_picture

_MOST_NAMES = 1000
_DEPTHS = 4
_SAME = 0.85
"""Similarity of two names that are the same but for a typing mistake."""
_ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst")
_ALONE = "`nonlocal gallery build` and `add` store it with --identity NAME"
_SET = "expected a folder of tracklets, or a table of them in CSV or TSV"


class Near(NamedTuple):
    """A layout that a folder nearly has.

    Attributes:
        layout: the layout.
        reason: what the folder has of it.
    """

    layout: Layout
    reason: str


def not_a_table(file: Path) -> str:
    """Why a file cannot be a table of tracklets; "" if it can."""
    suffix = file.suffix.lower()
    if is_video_name(file.name) or starts_like_video(file):
        return f"is a video, one tracklet: {_ALONE}; {_SET}"
    if is_picture(file.name):
        return f"is a picture, one tracklet: {_ALONE}; {_SET}"
    if suffix in _ARCHIVES:
        return f"is an archive: unpack it and name the folder; {_SET}"
    return f"is a {suffix} file: {_SET}" if suffix not in LISTS and is_other_name(file.name) else ""


def near_places(folder: Path, layouts: Iterable[Layout]) -> Near | None:
    """The layout of which a folder has a folder or file, if need be with a typing mistake in its name."""
    names = _names(folder)
    places = [(layout, place) for layout in layouts for place in layout.places]
    for layout, place in places:
        near = nearest(place, names, cutoff=_SAME)
        if near and near != place:
            return Near(layout, f"{near!r} is nearly {place!r}")
    return next((Near(layout, f"it has {place!r}") for layout, place in places if (folder / place).exists()), None)


def near_layout(folder: Path, layouts: Iterable[Layout]) -> Near | None:
    """The layout that a folder nearly has, by its folders, files, and the names of its pictures."""
    layouts = list(layouts)
    if (near := near_places(folder, layouts)) is not None:
        return near
    for name in filter(None, (first_picture(folder, depth) for depth in range(_DEPTHS))):
        alike = [layout for layout in layouts if layout.picture and _shape(layout.picture) == _shape(name)]
        if alike:
            nearest_length = min(alike, key=lambda layout: abs(len(layout.picture) - len(name)))
            return Near(nearest_length, f"it has pictures with names such as {name}")
    generic = next(layout for layout in layouts if layout.is_generic)
    names = _names(folder)
    if any(map(is_picture, names)):
        return Near(generic, f"it is a folder of pictures, one tracklet: {_ALONE}")
    if any(map(is_video_name, names)):
        return Near(generic, "it has videos, but no folder per identity")
    return None


def what_is_there(folder: Path) -> str:
    """What a folder without tracklets has instead; "" if that says nothing."""
    names = _names(folder)
    if not names:
        return f"it is empty; {_SET}"
    archive = next((name for name in names if Path(name).suffix.lower() in _ARCHIVES), "")
    return f"it has the archive {archive!r}; unpack it" if archive else ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))[:_MOST_NAMES]
    except OSError:
        return []


def _shape(name: str) -> str:
    """A file name without its suffix, with 0 for each number."""
    return re.sub(r"-?\d+", "0", name.rpartition(".")[0])
