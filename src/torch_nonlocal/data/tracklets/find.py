"""Find the tracklets of a set: by a named layout, or by one that is recognized."""

from __future__ import annotations

import os
from pathlib import Path

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import did_you_mean, excerpt, near_path
from torch_nonlocal.data.suffixes import is_video_name
from torch_nonlocal.data.tracklets.dukemtmc_video import DUKEMTMC_VIDEO
from torch_nonlocal.data.tracklets.folders import FOLDERS
from torch_nonlocal.data.tracklets.ilids_vid import ILIDS_VID
from torch_nonlocal.data.tracklets.layout import Layout, is_picture
from torch_nonlocal.data.tracklets.ls_vid import LS_VID
from torch_nonlocal.data.tracklets.market1501 import MARKET1501
from torch_nonlocal.data.tracklets.mars import MARS
from torch_nonlocal.data.tracklets.polar_bear import POLAR_BEAR
from torch_nonlocal.data.tracklets.prid450s import PRID450S
from torch_nonlocal.data.tracklets.prid2011 import PRID2011
from torch_nonlocal.data.tracklets.table import TABLE
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
    path = Path(root)
    if layout != "auto" and layout not in LAYOUTS:
        near = did_you_mean(layout, LAYOUTS)
        raise ValueError(f"layout: got {layout!r}{'; ' + near if near else ''}; expected auto or one of {_names()}")
    if not path.exists():
        raise ValueError(f"there is no folder or table {str(path)!r}{near_path(path)}")
    if layout == "auto" and path.is_file() and (is_picture(path.name) or is_video_name(path.name)):
        raise ValueError(f"{_one_tracklet(path)}; expected a folder with a set of tracklets, or a table of them")
    found = _recognized(path) if layout == "auto" else LAYOUTS[layout]
    try:
        return found.read(path, split)
    except ValueError as error:  # messages quote cells and names from files
        raise ValueError(excerpt(printable(str(error)), most=_LONGEST)) from error


def _recognized(path: Path) -> Layout:
    found = _fitting(path)
    if len(found) > 1:
        names = " and ".join(repr(layout.name) for layout in found)
        raise ValueError(f"{str(path)!r} fits the layouts {names}: name one of them as the layout; {_expectations()}")
    if found:
        return found[0]
    for inside in sorted(path.iterdir())[:_INSIDE] if path.is_dir() else ():
        if inside.is_dir() and (below := _fitting(inside)):
            raise ValueError(f"{str(path)!r} is not a set; did you mean {str(inside)!r}, which fits {below[0].name!r}?")
    generic = [layout for layout in LAYOUTS.values() if layout.is_generic and layout.recognizes(path)]
    if not generic and path.is_dir() and any(is_picture(one.name) for one in path.iterdir()):
        raise ValueError(f"{_one_tracklet(path)}; expected a set; {_expectations()}")
    if not generic:
        raise ValueError(f"{str(path)!r} has no known layout; {_expectations()}")
    return generic[0]


def _fitting(path: Path) -> list[Layout]:
    return [layout for layout in LAYOUTS.values() if not layout.is_generic and layout.recognizes(path)]


def _one_tracklet(path: Path) -> str:
    kind = "a folder of pictures" if path.is_dir() else "a picture" if is_picture(path.name) else "a video"
    return f"{str(path)!r} is {kind}, one tracklet: `nonlocal gallery build` and `add` store it with --identity NAME"


def _names() -> str:
    return ", ".join(LAYOUTS)


def _expectations() -> str:
    return "; ".join(f"{layout.name}: {layout.expects}" for layout in LAYOUTS.values())
