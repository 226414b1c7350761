"""Decode frames of a video file by exact index.

Frame i is the i-th frame that sequential decoding from the start yields. The packets of the file are listed first,
without decoding, which gives the number of frames and their timestamps (`frame_order`). Decoding then starts at the key
frame before each requested frame, and every decoded frame must have the next time of the list. Files whose packets do
not tell the order of the frames, or tell another one, are decoded from the start. Long operations check a deadline, so
no file blocks a program forever.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal.media import torchcodec_frames
from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.complete import check_bytes, check_end
from torch_nonlocal.media.container import opened
from torch_nonlocal.media.frame_folders import frame_files, read_frame_folder, read_picture
from torch_nonlocal.media.frame_order import FrameList, count_frames, from_the_start, list_frames
from torch_nonlocal.media.limits import quoted
from torch_nonlocal.media.pictures import Converter, orientation
from torch_nonlocal.media.seeking import NotAsListedError, by_seeking, index_of

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

    return _read(path, choose, lambda _, picture: picture, Deadline(path, None), whole=False, short_side=short_side)


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
    return _read(path, choose, lambda _, picture: convert(picture), deadline, whole=True)


def read_at(
    path: str | os.PathLike[str],
    frames: Sequence[int],
    convert: Callable[[int, Tensor], Tensor],
    *,
    time_limit: float | None = None,
) -> Tensor:
    """Read frames by index and convert each one with its index, such as by cutting out another box of each frame.

    Args:
        path: a file that FFmpeg can decode, or a folder of numbered images.
        frames: indices, counted from 0, in any order and with repeats.
        convert: maps an index and its frame, (H, W, 3) RGB uint8, to a tensor; all results have the same shape. It may
            be called several times for a frame.
        time_limit: seconds after which reading fails; None for no limit.

    Returns:
        (T, ...): the results of `convert`, in the order of the indices.

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, not a video, empty, damaged or over the time limit.
        ValueError: an index is outside the video.
        ImportError: PyAV (for a folder, Pillow) is not installed.
    """
    deadline = Deadline(path, time_limit)
    if not os.path.isdir(path):
        return _read(path, lambda total: frames, convert, deadline, whole=True)
    files = frame_files(path)
    converted: dict[int, Tensor] = {}
    for index in sorted(set(_chosen(path, lambda total: frames, len(files)))):
        deadline.check()
        converted[index] = convert(index, read_picture(files[index]))
    return torch.stack([converted[index] for index in frames])


def _read(
    path: str | os.PathLike[str],
    choose: Callable[[int], Sequence[int]],
    convert: Callable[[int, Tensor], Tensor],
    deadline: Deadline,
    *,
    whole: bool,
    short_side: int | None = None,
) -> Tensor:
    with opened(path, deadline) as (container, stream):
        video = _Video(path, container, stream, deadline, short_side)
        listed = video.listed(whole=whole)
        wanted = None
        if listed is not None:
            wanted = _chosen(path, choose, len(listed.pts))
            with suppress(NotAsListedError):
                return video.gather(wanted, convert, listed)
        total = count_frames(path, listed, deadline).frames
        if total == 0:
            raise BrokenVideoError(f"{quoted(path)} has no frames", "empty")
        if listed is None or wanted is None or total != len(listed.pts):
            wanted = _chosen(path, choose, total)
        return video.gather(wanted, convert, None)


def _chosen(path: str | os.PathLike[str], choose: Callable[[int], Sequence[int]], total: int) -> list[int]:
    wanted = list(choose(total))
    outside = [index for index in wanted if not 0 <= index < total]
    if outside:
        shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
        plural = "frames" if len(outside) > 1 else "frame"
        raise ValueError(f"{quoted(path)} has {total} frames (0 to {total - 1}); got {plural} {shown}")
    return wanted


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Count the frames of a video and read their rate and size.

    Raises:
        BrokenVideoError: (a ValueError) the file is missing, is not a video or has no frames.
        ImportError: PyAV is not installed.
    """
    deadline = Deadline(path, None)
    total = 0

    def choose(frames: int) -> list[int]:
        nonlocal total
        total = frames
        return [0]

    _, height, width, _ = _read(path, choose, lambda _, picture: picture, deadline, whole=False).shape
    with opened(path, deadline) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
    return VideoInfo(frames=total, fps=float(rate) if rate else 25.0, height=height, width=width)


def _check_range(start: int, stride: int, count: int | None) -> None:
    if start < 0:
        raise ValueError(f"start must be 0 or more, got {start}")
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more, or None to read to the end, got {count}")


class _Video:
    """An open video, from which frames are gathered."""

    def __init__(
        self, path: str | os.PathLike[str], container: Any, stream: Any, deadline: Deadline, short_side: int | None
    ) -> None:
        self._path = path
        self._container = container
        self._stream = stream
        self._deadline = deadline
        self._short_side = short_side
        context = stream.codec_context
        self._size = (context.height, context.width)  # of the first frame, according to the header
        self._is_first_size = False
        self._converter: Converter | None = None

    def listed(self, *, whole: bool) -> FrameList | None:
        """The list of frames; None if the packets do not tell it. With `whole`, a file that is cut short raises."""
        if whole:
            check_bytes(self._path, self._deadline)
        listing = list_frames(self._container, self._stream, self._deadline, whole=whole)
        if whole:
            check_end(self._path, self._container, self._stream, listing.packets, listing.end, self._deadline)
        if listing.frames is None or listing.is_reliable:
            return listing.frames
        return listing.frames if count_frames(self._path, listing.frames, self._deadline).as_listed else None

    def gather(self, wanted: list[int], convert: Callable[[int, Tensor], Tensor], listed: FrameList | None) -> Tensor:
        """Decode the wanted frames in ascending order and stack the results of `convert`, (T, ...).

        Raises:
            NotAsListedError: the decoder yields other frames than listed.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(wanted):
            places.setdefault(index, []).append(place)
        clip: Tensor | None = None
        missing = set(places)

        def keep(index: int, picture: Tensor) -> None:
            nonlocal clip
            converted = convert(index, picture)
            if clip is None:
                clip = torch.empty((len(wanted), *converted.shape), dtype=converted.dtype)
            for place in places[index]:
                clip[place] = converted
            missing.discard(index)

        container, stream, path, deadline = self._container, self._stream, self._path, self._deadline
        if _torchcodec_requested() and listed is not None and self._short_side is None and not self._is_mirrored():
            with suppress(torchcodec_frames.NotTheSameError):
                for index, picture in torchcodec_frames.frames(path, stream, listed.pts, sorted(places), deadline):
                    keep(index, picture)
        if listed is not None:
            for index, frame in by_seeking(container, stream, listed, sorted(missing), deadline):
                keep(index, self._picture(frame))
        if missing:  # no list, or seeking fails
            last = max(missing)
            for index, frame in from_the_start(path, deadline):
                if listed is not None and index_of(frame, listed) != index:
                    raise NotAsListedError
                if index in missing:
                    keep(index, self._picture(frame))
                if index >= last:
                    break
        if clip is None or missing:
            raise BrokenVideoError(f"{quoted(path)} is damaged: frame {min(missing)} cannot be decoded", "damaged")
        return clip

    def _is_mirrored(self) -> bool:
        """Whether frames are displayed mirrored, which torchcodec does not do."""
        return any(orientation(frame).is_mirrored for _, frame in islice(from_the_start(self._path, self._deadline), 1))

    def _picture(self, frame: Any) -> Tensor:
        """The frame, (H, W, 3) RGB uint8, in the size of the first frame of the file, as FFmpeg's command line does."""
        if (frame.height, frame.width) != self._size and not self._is_first_size:
            _, first = next(from_the_start(self._path, self._deadline))
            self._size, self._is_first_size, self._converter = (first.height, first.width), True, None
        if self._converter is None:
            self._converter = Converter(self._size, self._short_side)
        return self._converter.convert(frame)


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
