"""The frames of a video in display order: listed from its packets where these are reliable, else counted by decoding.

A packet's presentation time may be invented. AVI, ASF and raw streams store none, and a copy of such a stream to
another container turns the invented times into stored ones. Only decoding shows the order of the frames, but it takes
longer than reading the packets. The list is used without decoding if nothing in the packets contradicts it:

- every packet has its own presentation time, and the first one is a key frame;
- every packet holds one displayed frame: H.264 cannot hold single fields, and VP9 packets are not hidden;
- the packets are as far out of display order as the decoder expects. Invented times are in the order of the packets,
  while a stream with B-frames needs another one.

All other files are decoded once; the result is kept per process. `decode` also compares the time of every decoded frame
with the list.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch_nonlocal.media.broken import Deadline
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.h264_headers import may_hold_fields

# Codecs with one displayed frame per packet; VP8 and MPEG-4 in AVI have packets that display nothing.
_ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "dav1d"})
_MOST_COUNTS = 4096  # files whose counts are kept


@dataclass(frozen=True)
class FrameList:
    """Timestamps of the frames in display order, and the key frames at which decoding can start.

    Attributes:
        pts: timestamp of each frame, ascending.
        start: for each frame, the index of the last key frame up to it. -1: a key frame before the first frame.
        seek: key frame index -> timestamps to seek to; the later ones are used if the first fails.
        delay: number of frames that the decoder holds back to put them into display order.
    """

    pts: list[int]
    start: list[int]
    seek: dict[int, list[int]]
    delay: int


class Listing(NamedTuple):
    """Result of `list_frames`.

    Attributes:
        frames: the list; None if the packets have no usable timestamps.
        is_reliable: whether the list may be used without decoding the file once.
        packets: number of packets.
        end: end of the last packet in seconds, from the start of the file's time; None if unknown.
    """

    frames: FrameList | None
    is_reliable: bool
    packets: int
    end: float | None


class Count(NamedTuple):
    """Result of `count_frames`: the number of frames, and whether decoding gave the frames of the list."""

    frames: int
    as_listed: bool


class _Packet(NamedTuple):
    """What the list needs of a packet, without its data: the packets of a file would take its size."""

    pts: int
    dts: int | None
    is_keyframe: bool
    is_discarded: bool
    place: int  # in the file


def list_frames(container: Any, stream: Any, deadline: Deadline, *, whole: bool) -> Listing:
    """List the frames from the packets, without decoding.

    Packets that an edit list discards are decoded but not displayed. Streams whose packets cannot tell the frames are
    read only with `whole`, for the number and the end of the packets.

    Raises:
        BrokenVideoError: the time limit is exceeded.
    """
    context = stream.codec_context
    codec = context.name.removeprefix("lib")
    is_usable = codec in _ONE_FRAME_A_PACKET
    if not is_usable and not whole:
        return Listing(None, False, 0, None)
    packets: list[_Packet] = []
    count, last, hidden = 0, None, False
    for packet in container.demux(stream):
        deadline.check()
        if not packet.size:
            continue
        pts = packet.pts
        if pts is None or packet.is_corrupt:
            is_usable = False
        else:
            ends = pts + (packet.duration or 0)
            last = ends if last is None or ends > last else last
            if is_usable:
                packets.append(_Packet(pts, packet.dts, packet.is_keyframe, packet.is_discard, count))
                hidden = hidden or (codec == "vp9" and _is_hidden_vp9(packet))
        count += 1
    end = None if last is None else float(last * stream.time_base)
    frames = _ordered(packets, context) if is_usable and packets else None
    is_reliable = (
        frames is not None
        and not hidden
        and (frames.delay > 0) == context.has_b_frames
        and frames.delay <= getattr(context, "reorder_depth", frames.delay)  # PyAV 18 and newer
        and not (codec == "h264" and may_hold_fields(context.extradata))
    )
    return Listing(frames, is_reliable, count, end)


def _ordered(packets: list[_Packet], context: Any) -> FrameList | None:
    if not packets[0].is_keyframe:
        return None
    packets.sort(key=lambda packet: packet.pts)
    pts, start, seek = [], [], {}
    key, delay, previous = None, 0, None
    for display_place, packet in enumerate(packets):
        if packet.pts == previous:
            return None
        previous = packet.pts
        delay = max(delay, packet.place - display_place)
        if packet.is_keyframe and not (packet.is_discarded and pts):
            key = -1 if packet.is_discarded else len(pts)
            # MP4 finds a key frame by its presentation time and, given its decoding time, seeks to the one before.
            # MPEG-TS finds it by its decoding time and, given its presentation time, seeks to the one after.
            seek[key] = [packet.pts] if packet.dts is None else [packet.pts, packet.dts]
        if not packet.is_discarded:
            if key is None:
                return None
            pts.append(packet.pts)
            start.append(key)
    return FrameList(pts, start, seek, delay) if pts else None


def _is_hidden_vp9(packet: Any) -> bool:
    """Whether a packet of VP9 holds only a frame that is not displayed. A superframe displays its last frame."""
    data = memoryview(packet)
    if data[-1] & 0b11100000 == 0b11000000:
        return False
    # Marker (2 bits), profile (2 bits, 3 in profile 3), show_existing_frame, frame_type, show_frame.
    flags = data[0] if data[0] & 0b00110000 == 0b00110000 else data[0] >> 1
    return not flags & 0b100 and not flags & 0b001


_counts: OrderedDict[tuple[Any, ...], Count] = OrderedDict()


def count_frames(path: str | os.PathLike[str], listed: FrameList | None, deadline: Deadline) -> Count:
    """Count the frames by decoding the whole file, once per process and version of the file.

    Args:
        path: the file.
        listed: the list of the same file that the frames are compared with; None for none.
        deadline: time limit for reading.

    Raises:
        BrokenVideoError: the file cannot be decoded, or the time limit is exceeded.
    """
    status = os.stat(path)
    name = (os.path.abspath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    known = _counts.get(name)
    if known is None:
        pts = [] if listed is None else listed.pts
        count, as_listed = 0, True
        for index, frame in from_the_start(path, deadline):
            as_listed = as_listed and index < len(pts) and frame.pts == pts[index]
            count += 1
        known = _counts[name] = Count(count, as_listed and count == len(pts))
        if len(_counts) > _MOST_COUNTS:
            _counts.popitem(last=False)
    return known


def from_the_start(path: str | os.PathLike[str], deadline: Deadline) -> Iterator[tuple[int, Any]]:
    """Decode all frames of a file in display order: index and frame."""
    with opened(path, deadline) as (container, stream):  # reopened: not every format can seek
        for index, frame in enumerate(container.decode(stream)):
            deadline.check()
            yield index, frame
