"""Encode frames as MP4 and GIF files.

`write_mp4` consumes frames one by one, so a generator can write a video of any length in the memory of one frame. Files
are written atomically: to a temporary name that is then renamed. Equal frames make equal files on every machine: clips
are told apart by their bytes, so the split of written clips does not depend on the number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch_nonlocal._common.files import replacing
from torch_nonlocal._common.optional import require

# A fixed number of threads: by default x264 takes one and a half of each core, which changes the bytes of the file.
_H264 = {"crf": "18", "threads": "4", "x264-params": "cpu-independent=1"}


def write_mp4(path: str | os.PathLike[str], frames: Iterable[Any], fps: float) -> Path:
    """Write an H.264 video in yuv420p, which every player and browser supports.

    Args:
        path: the file to write.
        frames: (T, H, W, 3) RGB uint8 in [0, 255], a tensor or an array, or any iterable of (H, W, 3) frames. An odd
            height or width is padded by repeating the last row or column (yuv420p needs even sizes).
        fps: frames per second, more than 0.

    Returns:
        The path written.

    Raises:
        ValueError: no frames, a wrong shape, dtype or size, an fps that is not positive, or a missing folder. No file
            is written.
        ImportError: PyAV is not installed.
    """
    av = require("av", extra="video")
    np = require("numpy", extra="video")
    _check_fps(fps)
    checked = _checked(frames)
    first = next(checked)
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_H264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = (
            6  # BT.601, which swscale converts RGB to; without the tag, players guess by size
        )
        for frame_HWC in _chain(first, checked):
            padding = ((0, height - frame_HWC.shape[0]), (0, width - frame_HWC.shape[1]), (0, 0))
            picture = np.ascontiguousarray(np.pad(frame_HWC, padding, mode="edge"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return Path(path)


def write_gif(path: str | os.PathLike[str], frames: Iterable[Any], fps: float) -> Path:
    """Write a looping animated GIF with 256 colors per frame.

    GIF stores durations in hundredths of a second; they are rounded such that the total duration is kept. Viewers slow
    down GIFs of more than 50 frames per second, so no frame lasts less than 0.02 s.

    Args:
        path: the file to write.
        frames: as for `write_mp4`.
        fps: frames per second, more than 0.

    Returns:
        The path written.

    Raises:
        ValueError: as for `write_mp4`.
        ImportError: Pillow is not installed.
    """
    image = require("PIL.Image", extra="video")
    _check_fps(fps)
    pictures = []
    for frame_HWC in _checked(frames):
        picture = image.fromarray(frame_HWC)
        palette = picture.quantize(256, method=image.Quantize.FASTOCTREE)  # keeps rare colors, unlike the median cut
        pictures.append(picture.quantize(palette=palette, dither=image.Dither.FLOYDSTEINBERG))
    ends = [round(100 * (index + 1) / fps) for index in range(len(pictures))]
    milliseconds = [10 * max(2, end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0
        )
    return Path(path)


def _check_fps(fps: float) -> None:
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps must be finite and more than 0, got {fps}")


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _checked(frames: Iterable[Any]) -> Iterator[Any]:
    """Yield the frames as (H, W, 3) uint8 arrays of one size; raise a ValueError if there are none."""
    np = require("numpy", extra="video")
    shape = None
    for index, frame in enumerate(frames):
        array = frame.detach().cpu().numpy() if hasattr(frame, "detach") else np.asarray(frame)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
            raise ValueError(
                f"frames must be (T, H, W, 3) uint8 RGB; frame {index} is {tuple(array.shape)} {array.dtype}"
            )
        if shape is not None and array.shape != shape:
            raise ValueError(f"frame {index} is {array.shape}, expected {shape} as the frames before it")
        shape = array.shape
        yield array
    if shape is None:
        raise ValueError("no frames to write, expected at least one")
