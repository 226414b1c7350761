"""When each frame of a video is shown, and which frames a clip of another frame rate or of a part of the video has."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.limits import quoted

_DEFAULT_RATE = Fraction(25)


class FrameTimes(NamedTuple):
    """Times of the frames of a video.

    Attributes:
        ticks: time of each frame in display order, at least one, increasing.
        tick: seconds per unit of `ticks`.
        last: seconds for which the last frame is shown.
    """

    ticks: Sequence[int]
    tick: Fraction
    last: Fraction

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return (self.ticks[-1] - self.ticks[0]) * self.tick + self.last


def frame_times(path: str | os.PathLike[str], total: int, *, time_limit: float | None = None) -> FrameTimes:
    """Read the times of the frames of a video.

    They are those of the packets, if there is one with a time for each frame, else those of the decoded frames. A file
    without times has the constant rate of its header.

    Args:
        path: a file that FFmpeg can decode.
        total: number of frames.
        time_limit: seconds after which reading fails; None for no limit.

    Raises:
        BrokenVideoError: (a ValueError) the file cannot be read, or the path is a folder of images, which have no time.
        ImportError: PyAV is not installed.
    """
    deadline = Deadline(path, time_limit)
    _refuse_folder(path)
    for read in (_times_of_packets, _times_of_frames):
        with opened(path, deadline) as (container, stream):
            tick, rate = stream.time_base, _rate(stream)
            ticks = read(container, stream, deadline)
        if tick and len(ticks) == total and all(one < other for one, other in pairwise(ticks)):
            return FrameTimes(ticks, tick, (ticks[-1] - ticks[0]) * tick / (total - 1) if total > 1 else 1 / rate)
    return FrameTimes(range(total), 1 / rate, 1 / rate)


def frame_rate(path: str | os.PathLike[str]) -> float | None:
    """Average frames per second of a video, from its header; None for a folder of images.

    Raises:
        BrokenVideoError: (a ValueError) the file cannot be read.
        ImportError: PyAV is not installed.
    """
    if os.path.isdir(path):
        return None
    with opened(path, Deadline(path, None)) as (_, stream):
        return float(_rate(stream))


def frames_between(
    path: str | os.PathLike[str],
    times: FrameTimes,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Sequence[int]:
    """Frame indices of a part of a video, optionally at another frame rate.

    With `fps`, a sample at start, start + 1 / fps, ... takes the frame that is nearest in time, the earlier of two;
    frames repeat or are left out. Without, all frames that begin in the part are taken.

    Args:
        path: name of the video, for messages.
        times: of the video.
        fps: samples per second; None for the frames as they are.
        start: begin of the part in seconds after the first frame; None for the first frame.
        end: end of the part, exclusive; None for the end of the video.

    Raises:
        BrokenVideoError: (a ValueError) the part has no frame.
    """
    first, stop = _exact(start or 0.0), times.duration if end is None else min(_exact(end), times.duration)
    if first >= stop:
        part = f"from {float(first):g} s to {'its end' if end is None else f'{end:g} s'}"
        raise BrokenVideoError(
            f"{quoted(path)} lasts {float(times.duration):.2f} s and has no clip {part}", "too short"
        )
    ticks = [tick - times.ticks[0] for tick in times.ticks]
    if fps is None:
        return range(*(bisect_left(ticks, ceil(limit / times.tick)) for limit in (first, stop)))
    rate = _exact(fps)
    middles = [one + other for one, other in pairwise(ticks)]  # twice the time at which the next frame becomes nearest
    begin, step = 2 * first / times.tick, 2 / (rate * times.tick)
    scale = begin.denominator * step.denominator
    at, by = int(begin * scale), int(step * scale)
    return [bisect_left(middles, -(-(at + number * by) // scale)) for number in range(ceil((stop - first) * rate))]


def _exact(value: float) -> Fraction:
    """The number as a person writes it: 29.97 is 2997/100."""
    return Fraction(repr(float(value)))


def _refuse_folder(path: str | os.PathLike[str]) -> None:
    if os.path.isdir(path):
        raise BrokenVideoError(f"{quoted(path)} is a folder of images, which has no frame rate", "unreadable")


def _rate(stream: Any) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def _times_of_packets(container: Any, stream: Any, deadline: Deadline) -> list[int]:
    found = []
    for packet in container.demux(stream):
        deadline.check()
        if packet.size and not packet.is_discard and packet.pts is not None:
            found.append(packet.pts)
    return sorted(found)


def _times_of_frames(container: Any, stream: Any, deadline: Deadline) -> list[int]:
    found = []
    for frame in container.decode(stream):
        deadline.check()
        if frame.pts is not None:
            found.append(frame.pts)
    return found
