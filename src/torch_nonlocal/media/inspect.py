"""Check a whole video by decoding every frame."""

from __future__ import annotations

import os
from typing import NamedTuple

from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.frame_folders import frame_files, read_picture


class Inspection(NamedTuple):
    """Properties of a completely decoded video.

    Attributes:
        frames: number of frames.
        height: height of a displayed frame, in pixels.
        width: width of a displayed frame, in pixels.
        seconds: duration from the first frame to the end of the last; None for a folder of frames.
    """

    frames: int
    height: int
    width: int
    seconds: float | None


def inspect_video(path: str | os.PathLike[str], *, time_limit: float | None = None) -> Inspection:
    """Decode every frame of a video file or a folder of frames.

    Args:
        path: the file or folder.
        time_limit: seconds after which reading fails; None for no limit.

    Raises:
        BrokenVideoError: the file is missing, not a video, empty, damaged anywhere, truncated or over the time limit.
        ImportError: PyAV (for a folder, Pillow) is not installed.
    """
    deadline = Deadline(path, time_limit)
    if os.path.isdir(path):
        return _inspect_folder(path, deadline)
    name = repr(os.fspath(path))
    with opened(path, deadline) as (container, stream):
        frames, damaged, size, times = 0, 0, None, []
        for packet in container.demux(stream):
            damaged += packet.is_corrupt
            for frame in packet.decode():
                deadline.check()
                turned = round(frame.rotation / 90) % 2
                now = (frame.width, frame.height) if turned else (frame.height, frame.width)
                if size not in (None, now):
                    raise BrokenVideoError(
                        f"the frames of {name} differ in size: {size}, then {now} (height, width) at frame {frames}",
                        "damaged",
                    )
                size = now
                frames += 1
                damaged += frame.is_corrupt
                if frame.time is not None:
                    times.append(frame.time)
        if size is None:
            raise BrokenVideoError(f"{name} has no frames", "empty")
        if damaged:
            raise BrokenVideoError(f"{name} is damaged: {damaged} of {frames} frames or packets are corrupt", "damaged")
        counted = stream.frames if "mp4" in container.format.name.split(",") else 0
        if frames < counted:
            raise BrokenVideoError(
                f"{name} is truncated: it has {frames} of the {counted} frames that its header counts", "damaged"
            )
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        return Inspection(frames, size[0], size[1], max(times) - min(times) + 1 / rate if times else frames / rate)


def _inspect_folder(path: str | os.PathLike[str], deadline: Deadline) -> Inspection:
    files = frame_files(path)
    sizes = set()
    for file in files:
        deadline.check()
        sizes.add(tuple(read_picture(file).shape[:2]))
    if len(sizes) > 1:
        raise BrokenVideoError(f"the frames of {os.fspath(path)!r} differ in size: {sorted(sizes)}", "damaged")
    height, width = sizes.pop()
    return Inspection(len(files), height, width, None)
