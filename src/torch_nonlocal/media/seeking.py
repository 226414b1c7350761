"""Decode frames from the key frames before them, checked against the list of frames."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator
from typing import Any

from torch_nonlocal.media.broken import Deadline
from torch_nonlocal.media.frame_order import FrameList


class NotAsListedError(Exception):
    """The decoder yields other frames, or in another order, than the list of frames has."""


def by_seeking(
    container: Any, stream: Any, listed: FrameList, wanted: list[int], deadline: Deadline
) -> Iterator[tuple[int, Any]]:
    """Decode the wanted frames. Those that seeking does not reach are left out.

    Args:
        container: the open file.
        stream: its video stream.
        listed: its frames.
        wanted: indices, ascending.
        deadline: time limit for reading.

    Yields:
        Index and frame, in ascending order within a group of pictures.

    Raises:
        NotAsListedError: a decoded frame is not the next one of the list.
        BrokenVideoError: the time limit is exceeded.
    """
    number = {key: place for place, key in enumerate(listed.seek)}
    runs: list[list[int]] = []
    for index in wanted:
        near = runs and number[listed.start[index]] - number[listed.start[runs[-1][-1]]] <= 1
        if near:
            runs[-1].append(index)
        else:
            runs.append([index])
    # Pictures without B-frames are decoded completely: only then does each one confirm that the list is in order.
    skips = stream.codec_context.name == "h264" and listed.delay > 0
    for run in runs:
        left = {listed.pts[index]: index for index in run}
        key = listed.start[run[0]]
        for timestamp in listed.seek[key]:
            container.seek(timestamp, stream=stream)
            decoded = _without_unneeded(container, stream, left) if skips else container.decode(stream)
            previous = None
            for frame in decoded:
                deadline.check()
                index = index_of(frame, listed)
                if previous is None:
                    if index > max(key, 0):  # a later key frame; frames before it lack what they refer to
                        break
                elif index <= previous or not (skips or index == previous + 1):
                    raise NotAsListedError
                previous = index
                if frame.pts in left:
                    yield left.pop(frame.pts), frame
                if index >= run[-1]:
                    break
            if not left:
                break


def index_of(frame: Any, listed: FrameList) -> int:
    """The index of a decoded frame, found by its timestamp.

    Raises:
        NotAsListedError: the list has no such frame.
    """
    if frame.pts is not None:
        index = bisect_left(listed.pts, frame.pts)
        if index < len(listed.pts) and listed.pts[index] == frame.pts:
            return index
    raise NotAsListedError


def _without_unneeded(container: Any, stream: Any, wanted: Container[int]) -> Iterator[Any]:
    """Yield frames from the current position in display order; some that are not wanted (by timestamp) are skipped.

    H.264 marks pictures that no other picture refers to, such as most B-frames; skipping them changes no other picture.
    The corresponding mark of HEVC covers only a picture's own temporal layer, so HEVC is decoded completely.
    """
    context = stream.codec_context
    for packet in container.demux(stream):
        context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from packet.decode()
