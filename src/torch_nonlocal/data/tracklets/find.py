"""Find the tracklets of a set: by a named layout, or by one that is recognized."""

from __future__ import annotations

import os
from pathlib import Path

from torch_nonlocal._common.text import did_you_mean, near_path
from torch_nonlocal.data.tracklets.layout import Layout
from torch_nonlocal.data.tracklets.mars import MARS
from torch_nonlocal.data.tracklets.table import TABLE
from torch_nonlocal.data.tracklets.tracklet import TrackletData

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (MARS, TABLE)}
"""The layouts by name, in the order in which messages list them."""


def find_tracklets(root: str | os.PathLike[str], layout: str = "auto", split: int = 0) -> TrackletData:
    """Find the training, query and gallery tracklets of a set. Pictures are not opened.

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
    found = _recognized(path) if layout == "auto" else LAYOUTS[layout]
    return found.read(path, split)


def _recognized(path: Path) -> Layout:
    found = [layout for layout in LAYOUTS.values() if layout.recognizes(path)]
    if len(found) > 1:
        names = " and ".join(repr(layout.name) for layout in found)
        raise ValueError(f"{str(path)!r} has the layouts {names}: name one of them with layout=")
    if not found:
        raise ValueError(f"{str(path)!r} has no known layout; {_expectations()}")
    return found[0]


def _names() -> str:
    return ", ".join(LAYOUTS)


def _expectations() -> str:
    return "; ".join(f"{layout.name}: {layout.expects}" for layout in LAYOUTS.values())
