"""Find the tracklets of a set: by a named layout, or by one that is recognized."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import did_you_mean, excerpt, near_path
from torch_nonlocal.data.tracklets.dukemtmc_video import DUKEMTMC_VIDEO
from torch_nonlocal.data.tracklets.folders import FOLDERS
from torch_nonlocal.data.tracklets.ilids_vid import ILIDS_VID
from torch_nonlocal.data.tracklets.layout import Layout
from torch_nonlocal.data.tracklets.ls_vid import LS_VID
from torch_nonlocal.data.tracklets.market1501 import MARKET1501
from torch_nonlocal.data.tracklets.mars import MARS
from torch_nonlocal.data.tracklets.nearest import near_layout, near_places, not_a_table, what_is_there
from torch_nonlocal.data.tracklets.polar_bear import POLAR_BEAR
from torch_nonlocal.data.tracklets.prid450s import PRID450S
from torch_nonlocal.data.tracklets.prid2011 import PRID2011
from torch_nonlocal.data.tracklets.table import TABLE, table_in
from torch_nonlocal.data.tracklets.tracklet import TrackletData

_ALL = (
    MARS, LS_VID, ILIDS_VID, PRID2011, DUKEMTMC_VIDEO, POLAR_BEAR, MARKET1501, PRID450S, TABLE, FOLDERS,
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""The layouts by name, in the order in which messages list them."""

_LONGEST = 1000  # characters of a message
_INSIDE = 20  # folders in an unknown folder that are looked at


def find_tracklets(root: str | os.PathLike[str], layout: str = "auto", split: int = 0) -> TrackletData:
    """Find the training, query and gallery tracklets of a set. Pictures are not decoded.

    Args:
        root: folder of the set, or a table.
        layout: name of a layout, see `LAYOUTS`; "auto" recognizes it by the names of folders and files.
        split: number of the split, from 0, of sets with several; see `TrackletData.splits`.

    Raises:
        ValueError: there is no such folder, layout or split; the layout is not recognized, or several fit; or a list of
            the set is missing or damaged.
    """
    found = layout_of(root, layout)
    try:
        return found.read(Path(root), split)
    except ValueError as error:  # messages quote cells and names from files
        raise ValueError(excerpt(printable(str(error)), most=_LONGEST)) from error


def layout_of(root: str | os.PathLike[str], layout: str = "auto") -> Layout:
    """The layout of a set, by the names of a few folders and files.

    Args:
        root: folder of the set, or a table.
        layout: name of a layout; "auto" recognizes it.

    Raises:
        ValueError: there is no such folder or layout; or the layout is not recognized, or several fit.
    """
    path = Path(root)
    if layout != "auto" and layout not in LAYOUTS:
        near = did_you_mean(layout, LAYOUTS)
        raise ValueError(f"layout: got {layout!r}{'; ' + near if near else ''}; expected auto or one of {_names()}")
    if not path.exists():
        raise ValueError(f"there is no folder or table {str(path)!r}{near_path(path)}")
    return _recognized(path) if layout == "auto" else LAYOUTS[layout]


def _recognized(path: Path) -> Layout:
    if path.is_file() and (why := not_a_table(path)):
        raise ValueError(f"{str(path)!r} {why}")
    found = _fitting(path)
    if len(found) > 1:
        names = " and ".join(repr(layout.name) for layout in found)
        raise ValueError(f"{str(path)!r} fits the layouts {names}: name one of them as the layout; {_expected(found)}")
    if found:
        return found[0]
    for inside in sorted(path.iterdir())[:_INSIDE] if path.is_dir() else ():
        if inside.is_dir() and (below := _fitting(inside)):
            raise ValueError(f"{str(path)!r} is not a set; did you mean {str(inside)!r}, which fits {below[0].name!r}?")
    if (table := table_in(path)) is not None:
        raise ValueError(f"{str(path)!r} is not a set; did you mean {str(table)!r}, which fits 'table'?")
    generic = next((layout for layout in LAYOUTS.values() if layout.is_generic and layout.recognizes(path)), None)
    near = near_places(path, LAYOUTS.values()) if generic else near_layout(path, LAYOUTS.values())
    if near is not None:
        of = f"nearest is {near.layout.name!r}, since {near.reason}; it expects {near.layout.expects}"
        others = f"; if this is right, name the layout {generic.name!r}" if generic else f"; all layouts: {_names()}"
        raise ValueError(f"{str(path)!r} has no known layout: {of}{others}")
    if generic is None:
        raise ValueError(f"{str(path)!r} has no known layout; {what_is_there(path) or _expected(LAYOUTS.values())}")
    return generic


def _fitting(path: Path) -> list[Layout]:
    return [layout for layout in LAYOUTS.values() if not layout.is_generic and layout.recognizes(path)]


def _names() -> str:
    return ", ".join(LAYOUTS)


def _expected(layouts: Iterable[Layout]) -> str:
    return "; ".join(f"{layout.name}: {layout.expects}" for layout in layouts)
