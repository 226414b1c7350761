"""Read folders of numbered images as clips.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.broken import BrokenVideoError, Deadline, SameSize

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Suffixes of images in a folder of frames."""

_NUMBER = re.compile(r"(\d+)\D*$")


def frame_number(name: str) -> int | None:
    """The number at the end of a frame's file name ("img_00012.jpg" is 12); None for other files."""
    stem, suffix = os.path.splitext(name)
    match = _NUMBER.search(stem)
    return int(match[1]) if match and suffix.lower() in PICTURES and not name.startswith(".") else None


def frame_files(folder: str | os.PathLike[str], names: Iterable[str] | None = None) -> list[Path]:
    """The frames of a folder, sorted by number; empty if it has no numbered images.

    Args:
        folder: the folder.
        names: its file names, if known; None lists the folder.
    """
    numbered = [(number, name) for name in names or os.listdir(folder) if (number := frame_number(name)) is not None]
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
    if not files:
        raise BrokenVideoError(f"{os.fspath(folder)!r} has no numbered images", "empty")
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
        BrokenVideoError: the image cannot be read.
        ImportError: Pillow is not installed.
    """
    image = require("PIL.Image", extra="video")
    operations = require("PIL.ImageOps", extra="video")
    np = require("numpy", extra="video")
    try:
        with image.open(path) as file:
            return torch.from_numpy(np.array(operations.exif_transpose(file).convert("RGB")))
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:  # Pillow's errors for bad files
        raise BrokenVideoError(f"the image {os.fspath(path)!r} cannot be read: {error}", "damaged") from error
