"""Frames of a video file by torchcodec, under the conditions in which they are the very bytes that PyAV gives.

Both decode with FFmpeg, torchcodec with the system's. What H.264, HEVC, VP9 and AV1 decode to is fixed to the bit by
their standards, so an undamaged file can differ in two ways only: in which frame has which index, and in the
conversion to RGB. The first is checked frame by frame, by its time. The second agrees where no colour sample lies
between others: for 8-bit 4:2:0 of even size in whole pictures. For 10 bits and odd sizes torchcodec interpolates
colour otherwise, and it converts interlaced pictures as if they were whole. Damaged files are not detected here: the
two conceal damage differently.

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

_WHOLE_PICTURES = frozenset({"vp9", "av1", "dav1d"})  # have no fields at all; dav1d is a decoder of AV1
_EXACT_CODECS = _WHOLE_PICTURES | {"h264", "hevc"}
_EXACT_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE of FFmpeg; older releases of PyAV do not tell the order of fields

# A GIF of one picture of one pixel. torchcodec can be imported without FFmpeg; it then fails when it decodes.
_SMALLEST_FILM = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


class NotTheSameError(Exception):
    """This file's frames by torchcodec are not, or might not be, those that PyAV gives: read it with PyAV."""


@functools.cache
def loads() -> bool:
    """Whether torchcodec is installed, finds FFmpeg's libraries, and decodes."""
    try:
        return tuple(_decoder(_SMALLEST_FILM, 0).get_frame_at(0).data.shape) == (1, 1, 3)
    except Exception:  # ImportError, OSError or RuntimeError, by release and by what is missing
        return False


def frames(
    path: str | os.PathLike[str],
    stream: Any,
    pts: Sequence[int],
    indices: Sequence[int],
    deadline: Deadline,
) -> Iterator[tuple[int, Tensor]]:
    """Yields frames one at a time, so only one is held at its full size.

    The deadline is looked at before each frame; decoding up to it from the key frame before is not interrupted.

    Args:
        path: the file.
        stream: its video stream, opened by PyAV; nothing is read from it.
        pts: the times of all frames of the stream in the order shown, in units of its time base.
        indices: the frames wanted, ascending.
        deadline: the end of the time that reading may take.

    Yields:
        The index and the frame, (H, W, 3) RGB uint8, turned the way it is to be shown.

    Raises:
        NotTheSameError: before the first frame, if this kind of file may come out otherwise than by PyAV; at any frame,
            if torchcodec fails or finds another frame at its index.
        BrokenVideoError: if the time is over.
    """
    context = stream.codec_context
    codec, order = context.name.removeprefix("lib"), getattr(context, "field_order", None)
    if codec not in _EXACT_CODECS or context.pix_fmt not in _EXACT_FORMATS:
        raise NotTheSameError(f"codec and pixel format are {codec} and {context.pix_fmt}")
    if codec not in _WHOLE_PICTURES and order != _PROGRESSIVE:  # of HEVC most files do not say
        raise NotTheSameError(f"the pictures are interlaced, or might be: the order of fields is {order}")
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
            raise NotTheSameError(f"at frame {index} torchcodec finds that of time {found}, not {pts[index]}")
        yield index, frame.data


def _decoder(source: str | bytes, stream: int) -> Any:
    decoders = importlib.import_module("torchcodec.decoders")
    return decoders.VideoDecoder(
        source, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
    )


@contextmanager
def _torchcodec_errors() -> Iterator[None]:
    """Whatever torchcodec raises becomes a NotTheSameError: PyAV then says what is wrong with the file, if anything."""
    try:
        yield
    except Exception as error:
        raise NotTheSameError(f"torchcodec fails: {error}") from error
