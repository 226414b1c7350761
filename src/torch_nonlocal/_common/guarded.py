"""Opening a file that a stranger may have made: regular files only, and not those that are mostly holes."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_MAX_HOLES = 1 << 26
_MAX_PARTS = 10_000
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def open_guarded(path: Path, expected: str) -> tuple[BinaryIO, int]:
    """Open a file for reading without waiting for a writer; the file and its size in bytes.

    Args:
        path: the file.
        expected: what it should be, for messages, such as "a weights file".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, pipe, socket or device, or a sparse file with over 64 MB of holes, which would fill
            memory with zeros that the disk does not hold.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), None)
        if kind:
            raise ValueError(f"{path} is {kind}; expected {expected}")
        if _holes(handle, status.st_size) > _MAX_HOLES:
            raise ValueError(
                f"{path} is a sparse file: of its {status.st_size:,} bytes, {_holes(handle, status.st_size):,} are "
                f"holes; expected {expected}"
            )
        os.lseek(handle, 0, os.SEEK_SET)
        return os.fdopen(handle, "rb"), status.st_size
    except BaseException:
        os.close(handle)
        raise


def _holes(handle: int, size: int) -> int:
    """Bytes of a file that its disk does not hold; 0 where the system cannot tell."""
    if not hasattr(os, "SEEK_HOLE"):
        return 0
    total = position = 0
    with suppress(OSError):  # ENXIO: no data behind the position
        for _ in range(_MAX_PARTS):
            data = os.lseek(handle, position, os.SEEK_DATA)
            total += data - position
            position = os.lseek(handle, data, os.SEEK_HOLE)
            if position >= size:
                return total
        return total
    return total + size - position if position < size else total
