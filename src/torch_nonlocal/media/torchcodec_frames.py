"""Decode frames of a video file with torchcodec, where it gives the same bytes as PyAV.

Both decode with FFmpeg; torchcodec uses the system's. The standards of H.264, HEVC, VP9 and AV1 define decoded pictures
to the bit, so results for an undamaged file can differ in two ways only: the index of a frame, and the conversion to
RGB. The index is checked for each frame by its timestamp. The conversion agrees where chroma needs no interpolation,
which is the case for progressive 8-bit 4:2:0 of even size. For 10 bits and odd sizes torchcodec interpolates chroma
differently, and it converts interlaced pictures as progressive ones. Damaged files are not detected here; the two
libraries conceal damage differently.

Shapes: H height, W width.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from torch_nonlocal.media.broken import Deadline

_PROGRESSIVE_ONLY = frozenset({"vp9", "av1", "dav1d"})  # never interlaced; dav1d is a decoder of AV1
_EXACT_CODECS = _PROGRESSIVE_ONLY | {"h264", "hevc"}
_EXACT_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_PROGRESSIVE = 1  # FFmpeg's AV_FIELD_PROGRESSIVE; older releases of PyAV have no field_order

# A GIF of one frame of one pixel. torchcodec can be imported without FFmpeg but then fails when it decodes.
_SMALLEST_VIDEO = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


class NotTheSameError(Exception):
    """torchcodec's frames of a file differ, or may differ, from those of PyAV; the file is to be read with PyAV."""


@functools.cache
def loads() -> bool:
    """Whether torchcodec is installed, finds FFmpeg's libraries, and decodes."""
    try:
        return tuple(_decoder(_SMALLEST_VIDEO, 0).get_frame_at(0).data.shape) == (1, 1, 3)
    except Exception:  # ImportError, OSError or RuntimeError, depending on the release
        return False


def frames(
    path: str | os.PathLike[str],
    stream: Any,
    pts: Sequence[int],
    indices: Sequence[int],
    deadline: Deadline,
) -> Iterator[tuple[int, Tensor]]:
    """Yield frames one at a time, so only one is held at full size.

    The deadline is checked before each frame; decoding from the preceding key frame is not interrupted.

    Args:
        path: the file.
        stream: its video stream, opened by PyAV; nothing is read from it.
        pts: timestamps of all frames of the stream in display order, in units of its time base.
        indices: the frames to read, ascending.
        deadline: time limit for reading.

    Yields:
        Index and frame, (H, W, 3) RGB uint8, with the display rotation applied.

    Raises:
        NotTheSameError: before the first frame, if this kind of file may decode differently than with PyAV; at any
            frame, if torchcodec fails or returns a frame with another timestamp.
        BrokenVideoError: the time limit is exceeded.
    """
    context = stream.codec_context
    codec, order = context.name.removeprefix("lib"), getattr(context, "field_order", None)
    if codec not in _EXACT_CODECS or context.pix_fmt not in _EXACT_FORMATS:
        raise NotTheSameError(f"codec {codec} and pixel format {context.pix_fmt} may decode differently")
    if codec not in _PROGRESSIVE_ONLY and order != _PROGRESSIVE:  # most HEVC files do not record it
        raise NotTheSameError(f"the pictures are or may be interlaced: field order {order}")
    if context.width % 2 or context.height % 2:
        raise NotTheSameError(f"width and height are {context.width} x {context.height}")
    deadline.check()
    with _torchcodec_errors():
        decoder = _decoder(os.fspath(path), stream.index)
        total = len(decoder)
    if total != len(pts):
        raise NotTheSameError(f"torchcodec counts {total} frames, PyAV {len(pts)}")
    for index in indices:
        deadline.check()
        with _torchcodec_errors():
            frame = decoder.get_frame_at(index)
        found = round(frame.pts_seconds / float(stream.time_base))
        if found != pts[index]:
            raise NotTheSameError(f"frame {index} of torchcodec has timestamp {found}, expected {pts[index]}")
        height, width = frame.data.shape[:2]
        if {height, width} != {context.height, context.width}:  # which PyAV scales to the size of the first frame
            raise NotTheSameError(f"frame {index} is {width} x {height}, expected {context.width} x {context.height}")
        yield index, frame.data


def _decoder(source: str | bytes, stream: int) -> Any:
    decoders = importlib.import_module("torchcodec.decoders")
    return decoders.VideoDecoder(
        source, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
    )


@contextmanager
def _torchcodec_errors() -> Iterator[None]:
    """Turn any error of torchcodec into a NotTheSameError; PyAV then reports any damage."""
    try:
        yield
    except Exception as error:
        raise NotTheSameError(f"torchcodec fails: {error}") from error
