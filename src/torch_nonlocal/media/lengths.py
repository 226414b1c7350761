"""The length of a video, from its header where that tells it."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from torch_nonlocal.media.broken import Deadline
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.decode import probe
from torch_nonlocal.media.frame_folders import frame_files

_AGREEMENT = 0.1  # largest difference of the count of a header from its duration, relative to the count


class Length(NamedTuple):
    """Length of a video.

    Attributes:
        frames: number of frames; an estimate where the header has the duration only.
        seconds: duration; None for a folder of images.
    """

    frames: int
    seconds: float | None


def video_length(path: str | os.PathLike[str]) -> Length:
    """Read the length of a video from its header, without decoding.

    Where the header has no length, or its count of frames disagrees with its duration, the frames are counted.

    Args:
        path: a file that FFmpeg can decode, or a folder of numbered images.

    Raises:
        BrokenVideoError: (a ValueError) the file cannot be read, or has no frames.
        ImportError: PyAV is not installed.
    """
    if os.path.isdir(path):
        return Length(len(frame_files(path)), None)
    with opened(path, Deadline(path, None)) as (container, stream):
        rate, counted = stream.average_rate or stream.guessed_rate, stream.frames
        seconds = _seconds(container, stream)
    if rate and seconds:
        frames = counted or round(seconds * float(rate))
        if frames >= 1 and abs(frames - seconds * float(rate)) <= max(2.0, _AGREEMENT * frames):
            return Length(frames, seconds)
    info = probe(path)
    return Length(info.frames, info.frames / info.fps)


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None
