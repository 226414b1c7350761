"""Decode frames of a video file by exact index.

Frame i is the i-th frame that sequential decoding from the start yields. The packets of the file are listed first,
without decoding, which gives the number of frames and their timestamps; decoding then starts at the key frame before
each requested frame. Files whose packet list is unreliable (missing or repeated timestamps, hidden frames) are decoded
from the start. Long operations check a deadline, so no file blocks a program forever.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media import torchcodec_frames
from torch_nonlocal.media.broken import BrokenVideoError, Deadline, SameSize
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.frame_folders import read_frame_folder
from torch_nonlocal.media.limits import quoted, reduced

# Codecs with one displayed frame per packet; VP8 and MPEG-4 in AVI have packets that display nothing.
_ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "dav1d"})

_DECODER = "NONLOCAL_DECODER"  # environment variable, so that worker processes inherit it


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        frames: number of frames; valid indices are 0 to frames - 1.
        fps: average frames per second.
        height: height of a displayed frame (rotation applied), in pixels.
        width: width of a displayed frame, in pixels.
    """

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class _Schedule:
    """Timestamps of the frames in display order, and the key frames at which decoding can start."""

    pts: list[int]
    start: list[int]  # for each frame, the index of the last key frame up to it
    seek: dict[int, tuple[int, int]]  # key frame index -> timestamps to seek to, the second if the first fails


class _Packet(NamedTuple):
    """What the schedule needs of a packet, without its data: the packets of a file would take its size."""

    pts: int
    dts: int
    is_keyframe: bool
    unreliable: bool


def read_clip(
    path: str | os.PathLike[str],
    *,
    frames: Iterable[int] | None = None,
    start: int = 0,
    stride: int = 1,
    count: int | None = None,
    short_side: int | None = None,
) -> Tensor:
    """Read frames of a video (or the single frame of an image) by index.

    Either `frames` lists the indices, in any order and with repeats, or `start`, `stride` and `count` define them. The
    rotation stored by phones is applied; non-square pixels are not stretched.

    Args:
        path: a file that FFmpeg can decode.
        frames: indices, counted from 0.
        start: the first index.
        stride: distance between two indices.
        count: number of frames; None reads to the end.
        short_side: largest short side, in pixels; larger frames are scaled down as they are decoded, so that only
            scaled frames are held. None keeps the size of the file.

    Returns:
        (T, H, W, 3), RGB, uint8 in [0, 255].

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, is not a video, has no frames or cannot be decoded.
        ValueError: an index is outside the video (the message gives the valid range), or the arguments conflict.
        ImportError: PyAV is not installed.
    """
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be 1 or more, or None to keep the size, got {short_side}")
    wanted = None if frames is None else [int(index) for index in frames]
    if wanted is None:
        _check_range(start, stride, count)
    elif (start, stride, count) != (0, 1, None):
        raise ValueError("expected either frames=[...] or start, stride and count, not both")
    elif not wanted:
        raise ValueError("frames=[]: no frames, expected at least one index")

    def choose(total: int) -> list[int]:
        if wanted is not None:
            return wanted
        stop = total if count is None else start + stride * (count - 1) + 1
        return list(range(start, stop, stride)) or [start]

    return _read(path, choose, lambda picture: picture, Deadline(path, None), whole=False, short_side=short_side)


def read_sampled(
    path: str | os.PathLike[str],
    choose: Callable[[int], Sequence[int]],
    convert: Callable[[Tensor], Tensor],
    *,
    time_limit: float | None = None,
) -> Tensor:
    """Read frames chosen by their number, and convert (resize, crop) each one as it is decoded.

    Only one frame is held at full size, so a clip of an 8K video takes the memory of the converted clip. A truncated
    file, which holds fewer frames than its header counts, is rejected.

    Args:
        path: a file that FFmpeg can decode, or a folder of numbered images.
        choose: maps the number of frames to the indices to read, in any order and with repeats.
        convert: maps one frame, (H, W, 3) RGB uint8, to a tensor; all results have the same shape.
        time_limit: seconds after which reading fails; None for no limit.

    Returns:
        (T, ...): the results of `convert`, in the order of the indices.

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, not a video, empty, damaged or over the time limit.
        ValueError: an index is outside the video.
        ImportError: PyAV (for a folder, Pillow) is not installed.
    """
    deadline = Deadline(path, time_limit)
    if os.path.isdir(path):
        return read_frame_folder(path, choose, convert, deadline)
    return _read(path, choose, convert, deadline, whole=True)


def _read(
    path: str | os.PathLike[str],
    choose: Callable[[int], Sequence[int]],
    convert: Callable[[Tensor], Tensor],
    deadline: Deadline,
    *,
    whole: bool,
    short_side: int | None = None,
) -> Tensor:
    with opened(path, deadline) as (container, stream):
        schedule = _schedule(container, stream, path, deadline, whole=whole)
        total = len(schedule.pts) if schedule else _count_by_decoding(path, deadline)
        if total == 0:
            raise BrokenVideoError(f"{quoted(path)} has no frames", "empty")
        wanted = list(choose(total))
        outside = [index for index in wanted if not 0 <= index < total]
        if outside:
            shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
            plural = "frames" if len(outside) > 1 else "frame"
            raise ValueError(f"{quoted(path)} has {total} frames (0 to {total - 1}); got {plural} {shown}")
        return _gather(container, stream, schedule, wanted, path, convert, deadline, short_side)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Count the frames of a video and read their rate and size.

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, is not a video or has no frames.
        ImportError: PyAV is not installed.
    """
    deadline = Deadline(path, None)
    with opened(path, deadline) as (container, stream):
        schedule = _schedule(container, stream, path, deadline, whole=False)
        total = len(schedule.pts) if schedule else _count_by_decoding(path, deadline)
        if total == 0:
            raise BrokenVideoError(f"{quoted(path)} has no frames", "empty")
        _, height, width, _ = _gather(container, stream, schedule, [0], path, lambda picture: picture, deadline).shape
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(frames=total, fps=float(rate) if rate else 25.0, height=height, width=width)


def _check_range(start: int, stride: int, count: int | None) -> None:
    if start < 0:
        raise ValueError(f"start must be 0 or more, got {start}")
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more, or None to read to the end, got {count}")


def _schedule(
    container: Any, stream: Any, path: str | os.PathLike[str], deadline: Deadline, *, whole: bool
) -> _Schedule | None:
    """List the frames from the packets, without decoding; None if the list is unreliable.

    With `whole`, a file with fewer packets than its header counts is rejected.
    """
    listed = stream.codec_context.name.removeprefix("lib") in _ONE_FRAME_A_PACKET
    counted = whole and "mp4" in container.format.name.split(",")  # other containers count differently or not at all
    if not listed and not counted:
        return None
    packets: list[_Packet] = []
    for packet in container.demux(stream):
        deadline.check()
        if packet.size:
            unreliable = packet.is_discard or packet.is_corrupt
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, unreliable))
    if counted and len(packets) < stream.frames:
        raise BrokenVideoError(
            f"{quoted(path)} is truncated: it has {len(packets)} of the {stream.frames} frames that its header counts",
            "damaged",
        )
    if not listed or not packets or not packets[0].is_keyframe:
        return None
    if any(packet.pts is None or packet.dts is None or packet.unreliable for packet in packets):
        return None
    packets.sort(key=lambda packet: packet.pts)
    pts = [packet.pts for packet in packets]
    if len(set(pts)) != len(pts) or not packets[0].is_keyframe:
        return None
    start, seek = [], {}
    for index, packet in enumerate(packets):
        if packet.is_keyframe:
            seek[index] = (packet.pts, packet.dts)
        start.append(index if packet.is_keyframe else start[-1])
    return _Schedule(pts, start, seek)


def _count_by_decoding(path: str | os.PathLike[str], deadline: Deadline) -> int:
    return sum(1 for _ in _from_the_start(path, deadline))


def _from_the_start(path: str | os.PathLike[str], deadline: Deadline) -> Iterator[tuple[int, Any]]:
    with opened(path, deadline) as (container, stream):  # reopened: not every format can seek
        for index, frame in enumerate(container.decode(stream)):
            deadline.check()
            yield index, frame


def _gather(
    container: Any,
    stream: Any,
    schedule: _Schedule | None,
    wanted: list[int],
    path: str | os.PathLike[str],
    convert: Callable[[Tensor], Tensor],
    deadline: Deadline,
    short_side: int | None = None,
) -> Tensor:
    """Decode the wanted frames in ascending order and stack the results of `convert`, (T, ...)."""
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    clip: Tensor | None = None
    torchcodec = _torchcodec_requested()
    same_size = SameSize(quoted(path))
    # PyAV's default creates a converter and its threads per frame, which is several times slower for the same bytes.
    converter = require("av.video.reformatter", extra="video").VideoReformatter()
    missing = set(places)

    def keep(index: int, picture: Tensor) -> None:
        nonlocal clip
        same_size.check(picture, f"at frame {index}")
        converted = convert(picture)
        if clip is None:
            clip = torch.empty((len(wanted), *converted.shape), dtype=converted.dtype)
        for place in places[index]:
            clip[place] = converted
        missing.discard(index)

    if schedule is not None and torchcodec and short_side is None:
        with suppress(torchcodec_frames.NotTheSameError):
            for index, picture in torchcodec_frames.frames(path, stream, schedule.pts, sorted(places), deadline):
                keep(index, picture)
    if schedule is not None:
        for index, frame in _by_seeking(container, stream, schedule, sorted(missing), deadline):
            keep(index, _picture(frame, converter, short_side))
    if missing:  # no schedule, or the file deviates from it
        last = max(missing)
        for index, frame in _from_the_start(path, deadline):
            if index in missing:
                keep(index, _picture(frame, converter, short_side))
            if index >= last:
                break
    if clip is None or missing:
        raise BrokenVideoError(f"{quoted(path)} is damaged: frame {min(missing)} cannot be decoded", "damaged")
    return clip


def _torchcodec_requested() -> bool:
    """Whether the environment requests torchcodec for the files that it decodes to the same bytes.

    It is off by default: torchcodec takes up to a quarter longer for the same frames, starts more slowly and conceals
    damage differently (benchmarks in docs/video.md).
    """
    decoder = os.environ.get(_DECODER, "pyav")
    if decoder not in ("pyav", "torchcodec"):
        raise ValueError(f"{_DECODER}={decoder!r}: expected pyav or torchcodec")
    if decoder == "torchcodec" and not torchcodec_frames.loads():
        raise ImportError(
            f"{_DECODER}=torchcodec: torchcodec does not load; it needs an installed FFmpeg, version 4 to 8"
        )
    return decoder == "torchcodec"


def _by_seeking(
    container: Any, stream: Any, schedule: _Schedule, wanted: list[int], deadline: Deadline
) -> Iterator[tuple[int, Any]]:
    """Yield (index, frame) for the wanted indices (ascending), decoding from the key frames before them."""
    number = {key: place for place, key in enumerate(schedule.seek)}
    runs: list[list[int]] = []
    for index in wanted:
        near = runs and number[schedule.start[index]] - number[schedule.start[runs[-1][-1]]] <= 1
        if near:
            runs[-1].append(index)
        else:
            runs.append([index])
    for run in runs:
        left = {schedule.pts[index]: index for index in run}
        last = schedule.pts[run[-1]]
        # MP4 finds a key frame by its presentation time and, given its decoding time, seeks to the one before. MPEG-TS
        # finds it by its decoding time and, given its presentation time, seeks to the one after.
        for timestamp in schedule.seek[schedule.start[run[0]]]:
            container.seek(timestamp, stream=stream)
            for frame in _decoded(container, stream, left):
                deadline.check()
                if frame.pts in left:
                    yield left.pop(frame.pts), frame
                if not left or frame.pts is None or frame.pts > last:
                    break
            if not left:
                break


def _decoded(container: Any, stream: Any, wanted: Container[int]) -> Iterator[Any]:
    """Yield frames from the current position in display order; some that are not wanted (by timestamp) are skipped.

    H.264 marks pictures that no other picture refers to, such as most B-frames; skipping them changes no other picture.
    The corresponding mark of HEVC covers only a picture's own temporal layer, so HEVC is decoded completely.
    """
    context = stream.codec_context
    if context.name != "h264":
        yield from container.decode(stream)
        return
    for packet in container.demux(stream):
        context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from packet.decode()


def _picture(frame: Any, converter: Any, short_side: int | None = None) -> Tensor:
    """Convert a frame to (H, W, 3) RGB uint8, scaled down to `short_side`, with its display rotation applied."""
    height, width = reduced(frame.height, frame.width, short_side)
    if (height, width) == (frame.height, frame.width):
        converted = converter.reformat(frame, format="rgb24", threads=1)
    else:  # FFmpeg scales to packed RGB with half the colors in a row, to planar RGB with all of them
        converted = converter.reformat(frame, width=width, height=height, format="gbrp", threads=1)
    picture = torch.from_numpy(converted.to_ndarray())
    turns = round(frame.rotation / 90)
    return torch.rot90(picture, turns, dims=(0, 1)) if turns else picture  # both counter-clockwise
