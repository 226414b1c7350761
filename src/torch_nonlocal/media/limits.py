"""Checks of a file before it is read: what it is, whether its bytes exist, and the size of its frames."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from torch_nonlocal._common.text import megabytes
from torch_nonlocal.media.broken import BrokenVideoError

MOST_PIXELS = 2**26
"""Pixels of the largest frame, twice those of 8K. Decoders hold several frames, of up to 8 bytes per pixel."""

_SPARSE = 2**26  # bytes; holes of smaller files cost little
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as error messages show it."""
    return repr(os.fspath(path))


def check_file(path: str | os.PathLike[str], expected: str) -> None:
    """Check that a path is a regular file with content, without opening it: opening a FIFO or device may block.

    Args:
        path: the file.
        expected: what it is read as, such as "video", for the message.

    Raises:
        BrokenVideoError: it is missing, empty, not a regular file, or mostly holes.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenVideoError(f"there is no file {quoted(path)}", "missing") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise BrokenVideoError(f"{quoted(path)} cannot be opened: {reason}", "unreadable") from error
    if stat.S_ISDIR(status.st_mode):
        raise BrokenVideoError(f"{quoted(path)} is a folder, not a {expected}", "not a video")
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special")
        raise BrokenVideoError(
            f"{quoted(path)} is {kind}: it is not a regular file and not a {expected}", "not a video"
        )
    if status.st_size == 0:
        raise BrokenVideoError(f"{quoted(path)} is not a {expected}: the file has 0 bytes", "empty")
    held = _held_bytes(path, status)
    if status.st_size > _SPARSE and held < status.st_size // 2:
        of = f"{megabytes(held)} of {megabytes(status.st_size)}"
        raise BrokenVideoError(f"{quoted(path)} is incomplete: it holds {of}, the rest are holes", "damaged")


def check_pixels(name: str, height: int, width: int) -> None:
    """Check the size of a frame before it is decoded.

    Args:
        name: the file, as the message shows it.
        height: in pixels.
        width: in pixels.

    Raises:
        BrokenVideoError: more than `MOST_PIXELS` pixels.
    """
    if height * width > MOST_PIXELS:
        raise BrokenVideoError(
            f"{name} has frames of {width} x {height}, expected at most {MOST_PIXELS:,} pixels", "too large"
        )


def reduced(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The size of a frame scaled down to a short side, (height, width); smaller frames keep their size.

    Args:
        height: in pixels.
        width: in pixels.
        short_side: largest short side, in pixels; None keeps any size.
    """
    scale = 1.0 if short_side is None else min(1.0, short_side / min(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _held_bytes(path: str | os.PathLike[str], status: os.stat_result) -> int:
    """Bytes of a file on the disk, without the holes of a sparse file."""
    if not hasattr(os, "SEEK_DATA") or status.st_blocks * 512 >= status.st_size // 2:
        return status.st_size
    held = end = 0
    with open(path, "rb") as file, suppress(OSError):  # an error: no data after the last hole
        while end < status.st_size:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            held += end - start
    return held
