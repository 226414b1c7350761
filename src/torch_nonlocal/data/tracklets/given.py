"""Tracklets that a user names one by one: folders of frames, pictures, videos, or frames in memory.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torch_nonlocal._common.optional import require
from torch_nonlocal.data.tracklets.files import FileTracklets
from torch_nonlocal.data.tracklets.tracklet import Tracklet
from torch_nonlocal.media.frame_folders import frame_files
from torch_nonlocal.media.frame_names import PICTURES
from torch_nonlocal.media.lengths import video_length


class GivenTracklets:
    """Tracklets without identities and cameras, a `TrackletSource`.

    Args:
        items: each a folder of frames, a picture, a video whose whole frames are read, or frames (T, H, W, 3) RGB
            uint8, as a tensor or a NumPy array.
        size: (height, width) of the frames that `read` returns, in pixels.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenVideoError: (a ValueError) a folder has no frames, or a video cannot be read.
        TypeError: an item is neither a path nor frames.
        ValueError: frames of another shape or dtype, or none.
    """

    def __init__(self, items: Sequence[Any], size: tuple[int, int]) -> None:
        self._memory: dict[int, Tensor] = {}
        self.size = size
        self.tracklets: list[Tracklet] = []
        for number, item in enumerate(items):
            if isinstance(item, str | os.PathLike):
                self.tracklets.append(given_tracklet(Path(item)))
            else:
                frames = _frames(item)
                self._memory[number] = frames
                self.tracklets.append(Tracklet(f"tracklet {number}", "", "", len(frames)))
        at_paths = [number for number in range(len(items)) if number not in self._memory]
        self._row = {number: row for row, number in enumerate(at_paths)}
        self._files = FileTracklets([self.tracklets[number] for number in at_paths], size)

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        """The frames of a tracklet, (3, T, H, W) uint8 RGB; see `FileTracklets.read`."""
        if index not in self._memory:
            return self._files.read(self._row[index], frames)
        chosen_TCHW = self._memory[index][list(frames)].permute(0, 3, 1, 2)
        resized = functional.interpolate(chosen_TCHW, self.size, mode="bilinear", antialias=True)
        return resized.transpose(0, 1)


def given_tracklet(path: Path) -> Tracklet:
    """The tracklet of a folder of frames, a picture or a video.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenVideoError: (a ValueError) the folder has no frames, or the video cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    name = str(path)
    if path.is_dir():
        files = tuple(file.name for file in frame_files(path))
        return Tracklet(name, "", "", len(files), path, files)
    if path.suffix.lower() in PICTURES:
        return Tracklet(name, "", "", 1, path.parent, (path.name,))
    return Tracklet(name, "", "", video_length(path).frames, path)


def _frames(item: Any) -> Tensor:
    if not isinstance(item, Tensor) and not hasattr(item, "__array_interface__"):
        raise TypeError(f"tracklet: got {type(item).__name__}, expected a path or frames (T, H, W, 3) RGB uint8")
    if isinstance(item, Tensor):
        frames = item.detach().cpu()
    else:  # a copy: a view such as frames[..., ::-1] has negative strides, which torch does not take
        frames = torch.from_numpy(require("numpy", extra="reid").array(item))
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8 or not frames.numel():
        got = f"{tuple(frames.shape)} {str(frames.dtype).removeprefix('torch.')}"
        raise ValueError(f"tracklet: got {got}, expected frames (T, H, W, 3), RGB, uint8 in [0, 255], T at least 1")
    return frames
