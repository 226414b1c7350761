"""Frames one after another: of a camera, or of a video that stands in for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.decode import probe, read_clip

_CHUNK = 32  # frames of a file that are decoded at once


def file_frames(path: str | os.PathLike[str], short_side: int | None = None) -> Iterator[Tensor]:
    """Yield the frames of a video, (H, W, 3) RGB uint8, in the memory of a few frames.

    Args:
        path: a file that FFmpeg can decode.
        short_side: largest short side in pixels; larger frames are reduced.

    Raises:
        BrokenVideoError: (a ValueError) as for `read_clip`.
    """
    total = probe(path).frames
    for start in range(0, total, _CHUNK):
        yield from read_clip(path, start=start, count=min(_CHUNK, total - start), short_side=short_side)


def camera_frames(number: int, short_side: int | None = None) -> Iterator[Tensor]:
    """Yield the frames of a camera, (H, W, 3) RGB uint8, until it ends or the program is interrupted (Ctrl-C).

    Args:
        number: the camera, from 0.
        short_side: largest short side in pixels; larger frames are reduced.

    Raises:
        ValueError: the camera cannot be opened.
        ImportError: OpenCV is not installed.
    """
    cv2 = require("cv2")
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise ValueError(f"camera {number} cannot be opened; a recorded video can stand in for it")
        with suppress(KeyboardInterrupt):
            while True:
                read, picture_HWC = camera.read()
                if not read:
                    return
                reduction = (short_side or 2**16) / min(picture_HWC.shape[:2])
                if reduction < 1:
                    picture_HWC = cv2.resize(
                        picture_HWC, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA
                    )
                yield torch.from_numpy(cv2.cvtColor(picture_HWC, cv2.COLOR_BGR2RGB))
    finally:
        camera.release()
