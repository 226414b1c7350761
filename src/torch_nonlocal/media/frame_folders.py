"""Read folders of numbered images as clips.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline, SameSize
from torch_nonlocal.media.frame_names import in_order
from torch_nonlocal.media.limits import MOST_PIXELS, check_file, check_pixels, quoted

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow runs Ghostscript for EPS
_STRIP = 1024  # rows copied at a time
_DEEP = 257
"""Ratio of a 16-bit to an 8-bit value: 65,535 to 255."""


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The frames of a folder, in the order of `frame_names.in_order`.

    Raises:
        BrokenVideoError: the folder cannot be read, it has no numbered images, or their order is undecidable.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise BrokenVideoError(f"{quoted(folder)} cannot be read: {error.strerror or error}", "unreadable") from error
    try:
        frames = in_order(names)
    except ValueError as error:
        raise BrokenVideoError(f"{quoted(folder)} is not a clip: {error}", "unreadable") from error
    if not frames:
        raise BrokenVideoError(f"{quoted(folder)} has no numbered images", "empty")
    return [Path(folder, name) for name in frames]


def read_frame_folder(
    folder: str | os.PathLike[str],
    choose: Callable[[int], Sequence[int]],
    convert: Callable[[Tensor], Tensor],
    deadline: Deadline,
) -> Tensor:
    """Read frames of a folder; arguments and result are those of `read_sampled`.

    Raises:
        BrokenVideoError: no frames, an unreadable image, images of different sizes, or an exceeded time limit.
        ValueError: an index is outside the clip.
        ImportError: Pillow is not installed.
    """
    files = frame_files(folder)
    wanted = list(choose(len(files)))
    outside = [index for index in wanted if not 0 <= index < len(files)]
    if outside:
        raise ValueError(f"{os.fspath(folder)!r} has {len(files)} frames (0 to {len(files) - 1}); got {outside}")
    converted: dict[int, Tensor] = {}
    same_size = SameSize(repr(os.fspath(folder)))
    for index in sorted(set(wanted)):
        deadline.check()
        picture = read_picture(files[index])
        same_size.check(picture, f"in {files[index].name}")
        converted[index] = convert(picture)
    return torch.stack([converted[index] for index in wanted])


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """Read an image as (H, W, 3) RGB uint8, with its EXIF orientation applied.

    Gray images of 16 bits are divided by 257. Floating-point images have values in [0, 1], which are multiplied by 255.

    Raises:
        BrokenVideoError: the image is not a regular file, is too large, or cannot be read; or it has floating-point
            values outside [0, 1], or integers above 65,535.
        ImportError: Pillow is not installed.
    """
    operations = require("PIL.ImageOps", extra="video")
    name = f"the image {quoted(path)}"
    with opened_picture(path, name) as picture:
        check_pixels(name, picture.height, picture.width)
        operations.exif_transpose(picture, in_place=True)
        if picture.mode == "F" or picture.mode.startswith("I"):
            return _deep_pixels(picture, name)
        return _pixels(picture if picture.mode == "RGB" else picture.convert("RGB"))


def check_picture_size(path: str | os.PathLike[str]) -> None:
    """Check the size in the header of a file, if Pillow reads it as an image.

    Raises:
        BrokenVideoError: more than `MOST_PIXELS` pixels.
    """
    try:
        with opened_picture(path, quoted(path)) as picture:
            check_pixels(quoted(path), picture.height, picture.width)
    except (BrokenVideoError, ImportError) as error:
        if isinstance(error, BrokenVideoError) and error.kind == "too large":
            raise


@contextmanager
def opened_picture(path: str | os.PathLike[str], name: str) -> Iterator[Any]:
    """Open an image; Pillow's errors become BrokenVideoErrors that name the file."""
    image = require("PIL.Image", extra="video")
    check_file(path, "picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images and damaged tags
            with image.open(path, formats=_FORMATS) as picture:
                yield picture
    except image.DecompressionBombError as error:
        raise BrokenVideoError(f"{name} is too large: expected at most {MOST_PIXELS:,} pixels", "too large") from error
    except (BrokenVideoError, ImportError):  # a package that the caller needs
        raise
    except Exception as error:  # Pillow's readers raise almost anything for bad files
        raise BrokenVideoError(f"{name} cannot be read: {error}", "damaged") from error


def _pixels(picture: Any) -> Tensor:
    """The pixels of an RGB image; they are copied in strips, since Pillow's export holds a second copy."""
    np = require("numpy", extra="video")
    pixels = torch.empty((picture.height, picture.width, 3), dtype=torch.uint8)
    for top in range(0, picture.height, _STRIP):
        strip = picture.crop((0, top, picture.width, min(top + _STRIP, picture.height)))
        pixels[top : top + _STRIP] = torch.from_numpy(np.array(strip))
    return pixels


def _deep_pixels(picture: Any, name: str) -> Tensor:
    """The pixels of a gray image of more than 8 bits as RGB."""
    np = require("numpy", extra="video")
    values_HW = torch.from_numpy(np.array(picture).astype(np.float32 if picture.mode == "F" else np.int64))
    is_float = values_HW.is_floating_point()
    highest = 1 if is_float else 65_535
    if not bool(((values_HW >= 0) & (values_HW <= highest)).all()):  # also False for NaN
        kind = "floating-point" if is_float else "32-bit"
        low, high = values_HW.min().item(), values_HW.max().item()
        message = f"{name} has {kind} values from {low:g} to {high:g}, expected 0 to {highest:,}"
        raise BrokenVideoError(f"{message}; scale them when writing the image", "unreadable")
    scaled_HW = values_HW * 255 if is_float else values_HW / _DEEP
    return scaled_HW.round().to(torch.uint8).unsqueeze(-1).expand(-1, -1, 3).contiguous()
