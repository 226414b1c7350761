"""Fingerprints of clips by content: copies and renamed clips have the same one, wherever the data are.

A fingerprint covers the size of a file and three samples of 64 KiB (first, middle, last); of a folder of frames, the
number of frames and the fingerprints of the first, middle and last one. Reading whole files would take as long as an
epoch of training; samples take about 0.2 ms per clip on a local disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.frame_folders import frame_files

_SAMPLE = 2**16  # bytes
_FEWEST = 64  # bytes; the smallest GIF or image has more
_READERS = 8  # threads; they wait for the disk
_PART = 64  # clips per call of a thread


def content_digest(path: str | os.PathLike[str]) -> str:
    """The fingerprint of a file or folder of frames, 32 hexadecimal digits.

    Returns:
        "" if the file is missing or unreadable, or too small for a video, so that equal bytes mean nothing.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _of_folder(Path(path))
        if not stat.S_ISREG(status.st_mode) or status.st_size < _FEWEST:
            return ""
        found = hashlib.blake2b(f"{status.st_size}:".encode(), digest_size=16)
        last = max(status.st_size - _SAMPLE, 0)
        with open(path, "rb", buffering=0) as file:
            for start in sorted({0, last // 2, last}):
                file.seek(start)
                found.update(file.read(_SAMPLE))
    except (OSError, ValueError):  # ValueError: a null character
        return ""
    return found.hexdigest()


def content_digests(paths: Sequence[Path]) -> list[str]:
    """`content_digest` of each path, several at a time."""
    parts = [paths[first : first + _PART] for first in range(0, len(paths), _PART)]
    with ThreadPoolExecutor(_READERS) as pool:
        return [one for part in pool.map(lambda part: list(map(content_digest, part)), parts) for one in part]


def _of_folder(folder: Path) -> str:
    try:
        files = frame_files(folder)
    except BrokenVideoError:
        return ""
    parts = [content_digest(files[place]) for place in sorted({0, len(files) // 2, len(files) - 1})]
    if not all(parts):
        return ""
    return hashlib.blake2b(f"{len(files)}:{':'.join(parts)}".encode(), digest_size=16).hexdigest()
