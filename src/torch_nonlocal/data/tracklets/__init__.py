"""Tracklets: frames of one person or animal seen by one camera. Layouts of public sets, checks, generated persons."""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.data.tracklets.check import TrackletCheck, check_tracklets
    from torch_nonlocal.data.tracklets.files import FileTracklets
    from torch_nonlocal.data.tracklets.find import LAYOUTS, find_tracklets
    from torch_nonlocal.data.tracklets.tracklet import Box, Problem, Tracklet, TrackletData, TrackletSource

__all__ = [
    "LAYOUTS",
    "Box",
    "FileTracklets",
    "Problem",
    "Tracklet",
    "TrackletCheck",
    "TrackletData",
    "TrackletSource",
    "check_tracklets",
    "find_tracklets",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LAYOUTS": ".find",
        "Box": ".tracklet",
        "FileTracklets": ".files",
        "Problem": ".tracklet",
        "Tracklet": ".tracklet",
        "TrackletCheck": ".check",
        "TrackletData": ".tracklet",
        "TrackletSource": ".tracklet",
        "check_tracklets": ".check",
        "find_tracklets": ".find",
    },
)
