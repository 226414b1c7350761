"""Check a whole video by decoding every frame."""

from __future__ import annotations

import os
from typing import NamedTuple

from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.complete import check_bytes, check_end
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.frame_folders import frame_files, read_picture
from torch_nonlocal.media.limits import quoted
from torch_nonlocal.media.pictures import orientation
from torch_nonlocal.media.transport_stream import count_joins


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
    name = quoted(path)
    with opened(path, deadline) as (container, stream):
        check_bytes(path, deadline)
        frames, packets, damaged, lost, size, times, end = 0, 0, 0, 0, None, [], None
        for packet in container.demux(stream):
            packets += packet.size > 0
            lost += packet.is_corrupt
            if packet.pts is not None:
                ends = float((packet.pts + (packet.duration or 0)) * stream.time_base)
                end = ends if end is None else max(end, ends)
            for frame in packet.decode():
                deadline.check()
                size = size or orientation(frame).size(frame.height, frame.width)  # all are scaled to the first
                frames += 1
                damaged += frame.is_corrupt
                if frame.time is not None:
                    times.append(frame.time)
        check_end(path, container, stream, packets, end, deadline)
        if size is None:
            raise BrokenVideoError(f"{name} has no frames", "empty")
        if lost and container.format.name == "mpegts" and lost == count_joins(path, stream.id, deadline):
            lost = 0
        if damaged := damaged + lost:
            raise BrokenVideoError(f"{name} is damaged: {damaged} of {frames} frames or packets are corrupt", "damaged")
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
