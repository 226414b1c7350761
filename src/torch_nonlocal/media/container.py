"""Open video files and turn FFmpeg's errors into errors that name the file and the problem."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline

_MOST_PIXELS = 2**27  # per frame: 16K fits; a header that claims more is corrupt or would exhaust memory

# (offset, signature) of the most common video containers; a truncated file still has it.
_SIGNATURES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"))


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as error messages show it."""
    return repr(os.fspath(path))


@contextmanager
def opened(path: str | os.PathLike[str], deadline: Deadline) -> Iterator[tuple[Any, Any]]:
    """Open a container and its first video stream; FFmpeg's errors become BrokenVideoErrors that name the file."""
    av = require("av", extra="video")
    _check_file(path)
    try:
        # FFmpeg's timeout ends blocking reads; the deadline itself is checked between frames.
        with av.open(os.fspath(path), timeout=deadline.left(), metadata_errors="replace") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            # FFmpeg reads any .txt as "ansi art", which is never intended.
            if not streams or streams[0].codec_context is None or container.format.name == "tty":
                kind = "audio only" if container.streams.audio and not streams else "not a video"
                raise BrokenVideoError(f"{quoted(path)} is not a video: it has no video stream", kind)
            width, height = streams[0].codec_context.width, streams[0].codec_context.height
            if width * height > _MOST_PIXELS:
                raise BrokenVideoError(
                    f"{quoted(path)} has frames of {width} x {height}, expected at most {_MOST_PIXELS} pixels",
                    "too large",
                )
            streams[0].codec_context.thread_count = 1  # more rarely helps; workers decode in parallel
            yield container, streams[0]
    except av.error.ExitError as error:
        raise deadline.passed() from error
    except av.FFmpegError as error:
        kind = "damaged" if _looks_like_video(path) else "not a video"
        raise BrokenVideoError(f"{quoted(path)} is not a video or is damaged: {error.strerror}", kind) from error


def _check_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise BrokenVideoError(f"there is no file {quoted(path)}", "missing") from None
    except OSError as error:
        raise BrokenVideoError(f"{quoted(path)} cannot be opened: {error.strerror}", "unreadable") from error
    if stat.S_ISDIR(status.st_mode):
        raise BrokenVideoError(f"{quoted(path)} is a folder, not a video", "not a video")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise BrokenVideoError(f"{quoted(path)} is not a regular file and not a video", "not a video")
    if status.st_size == 0:
        raise BrokenVideoError(f"{quoted(path)} is not a video: the file has 0 bytes", "empty")


def _looks_like_video(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return any(head[offset:].startswith(signature) for offset, signature in _SIGNATURES)
