"""Open video files and turn FFmpeg's errors into errors that name the file and the problem."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.frame_folders import check_picture_size
from torch_nonlocal.media.limits import MOST_PIXELS, check_file, check_pixels, quoted
from torch_nonlocal.media.mp4_tables import check_tables

# Formats that hold their frames in the file. FFmpeg would also follow playlists (HLS, DASH, concat) to other files or
# the network, expand "%d" in a name, and draw any .txt as "ansi art".
_FORMATS = (
    "apng asf av1 avi bmp_pipe dds_pipe dpx_pipe dv exr_pipe flv gif gif_pipe h264 hdr_pipe hevc ico ivf j2k_pipe "
    "jpeg_pipe jpegls_pipe jpegxl_anim jpegxl_pipe m4v matroska mjpeg mjpeg_2000 mov mpeg mpegts mpegvideo mxf "
    "nut obu ogg pam_pipe pbm_pipe pcx_pipe pfm_pipe pgm_pipe pgmyuv_pipe phm_pipe png_pipe ppm_pipe psd_pipe "
    "qoi_pipe sgi_pipe sunrast_pipe swf tiff_pipe vc1 vvc webm webp_pipe wtv xwd_pipe yuv4mpegpipe"
)
_LIMITS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(_FORMATS.split()),
    "max_pixels": str(MOST_PIXELS),  # of the frames that FFmpeg decodes to find out their format
}

# FFmpeg recognizes a JPEG larger than its first read by its name alone, as "image2", which reads patterns of names.
_JPEG = {".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe", ".jpe": "jpeg_pipe", ".jfif": "jpeg_pipe"}

# (offset, signature) of the most common video containers; a truncated file still has it.
_SIGNATURES = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF"))


@contextmanager
def opened(path: str | os.PathLike[str], deadline: Deadline) -> Iterator[tuple[Any, Any]]:
    """Open a container and its main video stream; FFmpeg's errors become BrokenVideoErrors that name the file."""
    av = require("av", extra="video")
    check_file(path, "video")
    check_tables(path)
    is_open = False
    try:
        # "file:" keeps FFmpeg from taking the start of a name for a protocol. Its timeout ends reads within one call;
        # the deadline itself is checked between frames.
        with av.open(
            f"file:{os.fspath(path)}",
            format=_JPEG.get(os.path.splitext(os.fspath(path))[1].lower()) if _starts_as_jpeg(path) else None,
            options=_LIMITS,
            timeout=deadline.left(),
            metadata_errors="replace",
        ) as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not any(stream.codec_context for stream in streams):
                kind = "audio only" if container.streams.audio and not streams else "not a video"
                raise BrokenVideoError(f"{quoted(path)} is not a video: it has no video stream", kind)
            stream = max(streams, key=_rank)
            context = stream.codec_context
            check_pixels(quoted(path), context.height, context.width)
            if not context.width:  # FFmpeg drops a size above its limit
                check_picture_size(path)
            context.thread_count = 1  # more rarely helps; workers decode in parallel
            context.options = {"max_pixels": str(MOST_PIXELS)}  # of every frame, whatever the header claims
            is_open = True
            yield container, stream
    except av.error.ExitError as error:
        raise deadline.passed() from error
    except av.FFmpegError as error:
        check_picture_size(path)
        kind = "damaged" if is_open or _looks_like_video(path) else "not a video"
        raise BrokenVideoError(f"{quoted(path)} is not a video or is damaged: {error.strerror}", kind) from error


def _rank(stream: Any) -> tuple[bool, bool, int]:
    """Greater for the stream that FFmpeg's command line reads: the default one, then the largest, then the first."""
    context = stream.codec_context
    if context is None:
        return (False, False, 0)
    is_default = bool(stream.disposition & require("av.stream", extra="video").Disposition.default)
    return (True, is_default, context.height * context.width)


def _starts_as_jpeg(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(3) == b"\xff\xd8\xff"
    except OSError:
        return False


def _looks_like_video(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return any(head[offset:].startswith(signature) for offset, signature in _SIGNATURES)
