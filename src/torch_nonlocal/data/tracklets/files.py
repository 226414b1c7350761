"""Tracklets whose frames are read from pictures or cut out of videos.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.tracklets.tracklet import Box, Tracklet
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.decode import read_at
from torch_nonlocal.media.frame_folders import read_picture


class FileTracklets:
    """Tracklets in files, a `TrackletSource`.

    Args:
        tracklets: as `find_tracklets` returns them.
        size: (height, width) of the frames that `read` returns, in pixels.

    Raises:
        ValueError: the size is not two positive whole numbers, or a tracklet has no file.
    """

    def __init__(self, tracklets: Sequence[Tracklet], size: tuple[int, int]) -> None:
        if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
            raise ValueError(f"size: got {size}, expected (height, width), two whole numbers of 1 or more")
        for one in tracklets:
            if one.folder is None:
                raise ValueError(f"the tracklet {one.name!r} has no files: expected tracklets of find_tracklets")
        self.tracklets: Sequence[Tracklet] = tuple(tracklets)
        self.size = (size[0], size[1])

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        """Read frames of a tracklet.

        Pictures have their EXIF orientation applied. Boxes are cut out of the frames of a video, clipped to the frame.
        Frames are resized without keeping their aspect ratio, bilinear with antialiasing.

        Args:
            index: position in `tracklets`.
            frames: numbers of frames in [0, length), in any order; they may repeat.

        Returns:
            (3, T, H, W), RGB, uint8; H and W are `size`.

        Raises:
            BrokenVideoError: (a ValueError) a picture or the video cannot be read, or a box is outside of its frame.
            ValueError: no frames, or a number is out of range.
        """
        one = self.tracklets[index]
        wanted = [int(frame) for frame in frames]
        outside = [frame for frame in wanted if not 0 <= frame < one.length]
        if not wanted or outside:
            got = f"got {listed(map(str, outside))}" if outside else "got none"
            has = f"{counted(one.length, 'frame')} (0 to {one.length - 1})"
            raise ValueError(f"the tracklet {one.name!r} has {has}; {got}")
        assert one.folder is not None
        if one.files:
            found = {at: self._resized(read_picture(one.folder / one.files[at])) for at in sorted(set(wanted))}
            return torch.stack([found[at] for at in wanted], 1)
        return self._from_video(one, one.folder, wanted)

    def _from_video(self, one: Tracklet, video: Path, wanted: Sequence[int]) -> Tensor:
        boxes = {box.frame: box for box in one.boxes}
        numbers = [one.boxes[at].frame for at in wanted] if boxes else list(wanted)

        def cut(number: int, picture_HWC: Tensor) -> Tensor:
            return self._resized(_cut(one.name, picture_HWC, boxes[number]) if boxes else picture_HWC)

        try:
            return read_at(video, numbers, cut).transpose(0, 1)
        except BrokenVideoError:
            raise
        except ValueError as error:  # a box of a frame that the video does not have
            raise BrokenVideoError(f"the tracklet {one.name!r}: {error}", "too short") from error

    def _resized(self, picture_HWC: Tensor) -> Tensor:
        picture_CHW = picture_HWC.permute(2, 0, 1)
        if picture_CHW.shape[1:] == self.size:
            return picture_CHW
        return functional.interpolate(picture_CHW[None], self.size, mode="bilinear", antialias=True)[0]


def _cut(name: str, picture_HWC: Tensor, box: Box) -> Tensor:
    """The part of a frame in a box, clipped to the frame."""
    height, width, _ = picture_HWC.shape
    top, left = max(box.top, 0), max(box.left, 0)
    bottom, right = min(box.top + box.height, height), min(box.left + box.width, width)
    if top >= bottom or left >= right:
        place = f"left {box.left}, top {box.top}, width {box.width}, height {box.height}"
        what = f"the box of the tracklet {name!r} in frame {box.frame} ({place}) is outside of the frame"
        raise BrokenVideoError(f"{what} of {width} x {height} pixels", "damaged")
    return picture_HWC[top:bottom, left:right]
