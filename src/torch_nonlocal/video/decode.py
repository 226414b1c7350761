"""Frames of a video file, by their exact index.

Frame i is the i-th frame that plain decoding from the start presents. The file's packets are listed first (nothing is
decoded), which gives the number of frames and their times; then decoding starts at the key frame before each wanted
frame. Files whose list cannot be trusted (missing or repeated times, hidden frames) are decoded from the start.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.video._files import require

# One packet is one shown frame for these; VP8 and MPEG-4 in AVI have packets that show nothing.
_ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "vp9", "av1"})


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frames: number of frames; valid indices are 0 to frames - 1.
        fps: frames per second, on average over the file.
        height: of a frame as shown (rotation applied), in pixels.
        width: likewise.
    """

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class _Schedule:
    """Times of the frames in the order they are shown, and where decoding can start."""

    pts: list[int]
    start: list[int]  # for each frame, the frame number of the last key frame up to it
    seek: dict[int, int]  # key frame number -> the time to seek to


def read_clip(
    path: str | os.PathLike[str],
    *,
    frames: Iterable[int] | None = None,
    start: int = 0,
    stride: int = 1,
    count: int | None = None,
) -> Tensor:
    """Reads frames of a video (or the one frame of a picture) by index.

    Either `frames` names the indices, in any order and with repeats, or `start`, `stride` and `count` do.
    The rotation a phone writes into the file is applied; pixels are as stored (no stretching of non-square ones).

    Args:
        path: a file that FFmpeg can decode.
        frames: indices from 0.
        start: the first index.
        stride: the distance between two indices.
        count: how many frames; None reads to the end.

    Returns:
        (T, H, W, 3), RGB, uint8 in [0, 255].

    Raises:
        ValueError: if the file is missing, is no video or has no frames, if decoding fails, or if an index is outside
            the video; the message gives the valid range.
        ImportError: if PyAV is not installed.
    """
    wanted = None if frames is None else [int(index) for index in frames]
    if wanted is None:
        _check_range(start, stride, count)
    elif (start, stride, count) != (0, 1, None):
        raise ValueError("give either frames=[...] or start, stride and count, not both")
    elif not wanted:
        raise ValueError("frames=[] asks for no frames")

    with _opened(path) as (container, stream):
        schedule = _schedule(container, stream)
        total = len(schedule.pts) if schedule else _count_by_decoding(path)
        if total == 0:
            raise ValueError(f"{_name(path)} has no frames")
        if wanted is None:
            stop = total if count is None else start + stride * (count - 1) + 1
            wanted = list(range(start, stop, stride)) or [start]
        outside = [index for index in wanted if not 0 <= index < total]
        if outside:
            shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
            plural = "frames" if len(outside) > 1 else "frame"
            raise ValueError(f"{_name(path)} has {total} frames (0 to {total - 1}); {plural} {shown} asked for")
        return _gather(container, stream, schedule, wanted, path)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Counts a video's frames and gives their rate and size.

    Raises:
        ValueError: if the file is missing, is no video or has no frames.
        ImportError: if PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        schedule = _schedule(container, stream)
        total = len(schedule.pts) if schedule else _count_by_decoding(path)
        if total == 0:
            raise ValueError(f"{_name(path)} has no frames")
        _, height, width, _ = _gather(container, stream, schedule, [0], path).shape
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(frames=total, fps=float(rate) if rate else 25.0, height=height, width=width)


def _check_range(start: int, stride: int, count: int | None) -> None:
    if start < 0:
        raise ValueError(f"start must be 0 or more, got {start}")
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more (or None: to the end), got {count}")


def _name(path: str | os.PathLike[str]) -> str:
    return repr(os.fspath(path))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Opens the container and its first video stream; FFmpeg's errors become ValueErrors that name the file."""
    av = require("av", extra="video")
    if not os.path.exists(path):
        raise ValueError(f"there is no file {_name(path)}")
    if os.path.isdir(path):
        raise ValueError(f"{_name(path)} is a folder, not a video")
    try:
        with av.open(os.fspath(path)) as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            # FFmpeg reads any .txt as "ansi art"; nobody means that.
            if not streams or streams[0].codec_context is None or container.format.name == "tty":
                raise ValueError(f"{_name(path)} is not a video: it holds no moving pictures")
            yield container, streams[0]
    except av.FFmpegError as error:
        raise ValueError(f"{_name(path)} is not a video or is damaged: {error.strerror}") from error


def _schedule(container: Any, stream: Any) -> _Schedule | None:
    """Lists the frames from the packets, without decoding; None if the list could be wrong."""
    if stream.codec_context.name.removeprefix("lib") not in _ONE_FRAME_A_PACKET:
        return None
    packets = [packet for packet in container.demux(stream) if packet.size]
    if not packets or not packets[0].is_keyframe:
        return None
    if any(packet.pts is None or packet.dts is None or packet.is_discard or packet.is_corrupt for packet in packets):
        return None
    packets.sort(key=lambda packet: packet.pts)
    pts = [packet.pts for packet in packets]
    if len(set(pts)) != len(pts) or not packets[0].is_keyframe:
        return None
    start, seek = [], {}
    for index, packet in enumerate(packets):
        if packet.is_keyframe:
            seek[index] = packet.dts
        start.append(index if packet.is_keyframe else start[-1])
    return _Schedule(pts, start, seek)


def _count_by_decoding(path: str | os.PathLike[str]) -> int:
    return sum(1 for _ in _from_the_start(path))


def _from_the_start(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    with _opened(path) as (container, stream):  # opened anew: not every format can seek
        yield from enumerate(container.decode(stream))


def _gather(
    container: Any, stream: Any, schedule: _Schedule | None, wanted: list[int], path: str | os.PathLike[str]
) -> Tensor:
    """Decodes the wanted frames into one tensor (T, H, W, 3)."""
    places: dict[int, list[int]] = {}
    for place, index in enumerate(wanted):
        places.setdefault(index, []).append(place)
    clip: Tensor | None = None
    missing = set(places)

    def keep(index: int, frame: Any) -> None:
        nonlocal clip
        picture = _picture(frame)
        if clip is None:
            clip = torch.empty((len(wanted), *picture.shape), dtype=torch.uint8)
        if picture.shape != clip.shape[1:]:
            raise ValueError(
                f"the frames of {_name(path)} differ in size: {tuple(clip.shape[1:3])}, then "
                f"{tuple(picture.shape[:2])} (height, width) at frame {index}"
            )
        clip[places[index]] = picture
        missing.discard(index)

    if schedule is not None:
        for index, frame in _by_seeking(container, stream, schedule, sorted(places)):
            keep(index, frame)
    if missing:  # no schedule, or the file did not keep to it
        last = max(missing)
        for index, frame in _from_the_start(path):
            if index in missing:
                keep(index, frame)
            if index >= last:
                break
    if clip is None or missing:
        raise ValueError(f"{_name(path)} is damaged: frame {min(missing)} cannot be decoded")
    return clip


def _by_seeking(container: Any, stream: Any, schedule: _Schedule, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """Yields (index, frame) for the wanted indices (ascending), decoding only from key frames before them."""
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
        container.seek(schedule.seek[schedule.start[run[0]]], stream=stream)
        for frame in container.decode(stream):
            if frame.pts in left:
                yield left.pop(frame.pts), frame
            if not left or frame.pts is None or frame.pts > last:
                break


def _picture(frame: Any) -> Tensor:
    """One frame as (H, W, 3) RGB uint8, turned the way it is to be shown."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    return torch.rot90(picture, round(frame.rotation / 90), dims=(0, 1))  # both counter-clockwise
