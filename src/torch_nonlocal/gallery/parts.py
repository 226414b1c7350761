"""Files of a gallery: arrays without pickle, memory-mapped, named and described in `gallery.json`.

A file is written under a new name and becomes part of the gallery when `gallery.json`, which names it, is replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from torch_nonlocal._common.files import write_bytes

_NAME = re.compile(r"(vectors|tracklets|persons|codes|codebook|rotation|deleted)-\d{6,9}-\d{1,6}\.(npy|parquet)")
_TEMPORARY = re.compile(
    r"\.(vectors|tracklets|persons|codes|codebook|rotation|deleted|gallery)[-.].*\.part\.(npy|parquet|json)"
)
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z]\d{0,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}(?:, \d{1,19}){0,8},?)?)\), \}\s*"
)


class DamagedGalleryError(ValueError):
    """A file of a gallery is missing, damaged or of another version; the message names it."""


@dataclass(frozen=True)
class Part:
    """A file of a gallery.

    Attributes:
        file: name in the folder of the gallery.
        rows: number of rows.
        sha256: digest of the file, in hexadecimal.
    """

    file: str
    rows: int
    sha256: str

    @classmethod
    def read(cls, values: Any) -> Part:
        """A part from `gallery.json`.

        Raises:
            ValueError: it is not one; names of other folders are refused.
        """
        if not isinstance(values, dict) or set(values) != {"file", "rows", "sha256"}:
            raise ValueError("expected file, rows and sha256 of each file")
        file, rows, sha256 = values["file"], values["rows"], values["sha256"]
        if not isinstance(file, str) or not _NAME.fullmatch(file):
            raise ValueError(f"unexpected name of a file: {str(file)[:80]!r}")
        if type(rows) is not int or rows < 0 or not isinstance(sha256, str):
            raise ValueError(f"{file}: expected a number of rows and a digest")
        return cls(file, rows, sha256)


def write_part(folder: Path, name: str, rows: int, fill: Callable[[BinaryIO], object]) -> Part:
    """Write a file atomically; `fill` gets it opened for binary writing.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    path = folder / name
    write_bytes(path, fill)
    return Part(name, rows, digest_of(path))


def write_array(folder: Path, name: str, array: np.ndarray) -> Part:
    """Write an array atomically as .npy without pickle; see `write_part`."""
    contiguous = np.ascontiguousarray(array)

    def fill(file: BinaryIO) -> None:
        unnamed: Any = SimpleNamespace(write=file.write)  # NumPy's own writing to files hides why it failed
        np.lib.format.write_array(unnamed, contiguous, allow_pickle=False)

    return write_part(folder, name, len(contiguous), fill)


def open_array(folder: Path, part: Part, width: int, dtype: str = "<f4", *, verify: bool = True) -> np.ndarray:
    """Map an array of shape (rows, width) into memory, read-only.

    Args:
        folder: of the gallery.
        part: the file.
        width: expected number of columns.
        dtype: expected type.
        verify: compare the file with its digest, which reads it once.

    Raises:
        DamagedGalleryError: the file is missing, has another shape, holds less than it claims, or was changed.
    """
    path = check_part(folder, part, verify=verify)
    try:
        with path.open("rb") as file:
            shape, fortran, found, start = _read_header(file)
    except (ValueError, TypeError, OSError) as error:
        raise DamagedGalleryError(f"{path} is damaged: it is no array ({error})") from error
    if shape != (part.rows, width) or found != np.dtype(dtype) or fortran:
        raise DamagedGalleryError(
            f"{path} is damaged: it claims an array of shape {shape} and type {found}, "
            f"gallery.json expects {(part.rows, width)} and {np.dtype(dtype)}"
        )
    expected, size = start + part.rows * width * np.dtype(dtype).itemsize, path.stat().st_size
    if size != expected:
        raise DamagedGalleryError(f"{path} is damaged: it has {size:,} bytes, expected {expected:,}")
    if part.rows == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset=start, shape=shape)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order, type and start of the values of an array.

    NumPy's own reader evaluates the header as Python code would, with more kinds of errors than damage has.

    Raises:
        ValueError: it is no .npy file of version 1.
        TypeError: there is no such type.
    """
    head = file.read(10)
    size = int.from_bytes(head[8:], "little")
    found = _HEADER.fullmatch(file.read(size))
    if head[:8] != b"\x93NUMPY\x01\x00" or found is None:
        raise ValueError("its header is not that of a .npy file of version 1")
    kind, order, shape = (text.decode() for text in found.groups())
    return tuple(map(int, shape.replace(",", " ").split())), order == "True", np.dtype(kind), 10 + size


def check_part(folder: Path, part: Part, *, verify: bool = True) -> Path:
    """The path of a part.

    Raises:
        DamagedGalleryError: it is missing, not a plain file, or differs from its digest.
    """
    path = folder / part.file
    if path.is_symlink() or not path.is_file():
        raise DamagedGalleryError(f"{path} is missing, or not a plain file")
    if verify and digest_of(path) != part.sha256:
        raise DamagedGalleryError(f"{path} is damaged: its content differs from the digest in gallery.json")
    return path


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_others(folder: Path, used: set[str]) -> None:
    """Remove files of earlier revisions and of killed processes. The caller holds the lock of the folder."""
    for path in folder.iterdir():
        if (_NAME.fullmatch(path.name) and path.name not in used) or _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def is_part(name: str) -> bool:
    """Whether a file name is one of a gallery's files, or of an unfinished write of one."""
    return bool(_NAME.fullmatch(name) or _TEMPORARY.fullmatch(name))
