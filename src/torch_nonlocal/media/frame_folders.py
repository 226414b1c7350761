"""Read folders of numbered images as clips.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline, SameSize
from torch_nonlocal.media.limits import MOST_PIXELS, check_file, check_pixels, quoted

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Suffixes of images in a folder of frames."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow runs Ghostscript for EPS
_STRIP = 1024  # rows copied at a time
_NUMBER = re.compile(r"(\d+)\D*$")


def frame_number(name: str) -> int | None:
    """The number at the end of a frame's file name ("img_00012.jpg" is 12); None for other files."""
    stem, suffix = os.path.splitext(name)
    match = _NUMBER.search(stem)
    return int(match[1]) if match and suffix.lower() in PICTURES and not name.startswith(".") else None


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The frames of a folder, sorted by number.

    Raises:
        BrokenVideoError: the folder cannot be read, or it has no numbered images.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise BrokenVideoError(f"{quoted(folder)} cannot be read: {error.strerror or error}", "unreadable") from error
    numbered = [(number, name) for name in names if (number := frame_number(name)) is not None]
    if not numbered:
        raise BrokenVideoError(f"{quoted(folder)} has no numbered images", "empty")
    return [Path(folder, name) for _, name in sorted(numbered)]


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

    Raises:
        BrokenVideoError: the image is not a regular file, is too large, or cannot be read.
        ImportError: Pillow is not installed.
    """
    operations = require("PIL.ImageOps", extra="video")
    name = f"the image {quoted(path)}"
    with _opened(path, name) as picture:
        check_pixels(name, picture.height, picture.width)
        operations.exif_transpose(picture, in_place=True)
        return _pixels(picture if picture.mode == "RGB" else picture.convert("RGB"))


def check_picture_size(path: str | os.PathLike[str]) -> None:
    """Check the size in the header of a file, if Pillow reads it as an image.

    Raises:
        BrokenVideoError: more than `MOST_PIXELS` pixels.
    """
    try:
        with _opened(path, quoted(path)) as picture:
            check_pixels(quoted(path), picture.height, picture.width)
    except (BrokenVideoError, ImportError) as error:
        if isinstance(error, BrokenVideoError) and error.kind == "too large":
            raise


@contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[Any]:
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
    except BrokenVideoError:
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
