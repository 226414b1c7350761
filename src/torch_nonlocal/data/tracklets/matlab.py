"""Read matrices of whole numbers from MATLAB files of versions 5 and 7.3, as the lists of public sets are stored.

Only numbers are read: objects, functions and text are never interpreted. A compressed matrix is expanded to the size
that its header declares and no further.

Reference: MathWorks, MAT-File Format, 2019, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch_nonlocal._common.text import listed, megabytes
from torch_nonlocal.data.tracklets.hdf5 import Hdf5Error, read_array

_MOST_BYTES = 2**26
_MOST_ENTRIES = 2**22
_MOST_VARIABLES = 1000
_HEAD = 4096  # bytes of an expanded matrix that hold its header
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_NUMERIC_CLASSES = range(6, 16)  # double, single, and integers of 8 to 64 bits
_IS_COMPLEX = 0x0800


class Matrix(NamedTuple):
    """A matrix of whole numbers.

    Attributes:
        rows: number of rows.
        columns: number of columns.
        entries: the numbers, row by row.
    """

    rows: int
    columns: int
    entries: tuple[int, ...]

    def row(self, index: int) -> tuple[int, ...]:
        """One row."""
        return self.entries[index * self.columns : (index + 1) * self.columns]


class _Header(NamedTuple):
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str
    end: int  # bytes before the numbers


def read_matrix(file: Path, name: str) -> Matrix:
    """Read a matrix of whole numbers.

    Args:
        file: MATLAB file of version 5 (`save -v7` or `-v6`), or of version 7.3.
        name: the variable.

    Raises:
        ValueError: the file is missing, too large, damaged or no such file; it has no such variable, or the variable
            is not a matrix of whole numbers.
    """
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"{str(file)!r} has {megabytes(size)}, expected at most {megabytes(_MOST_BYTES)}")
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error.strerror or error}") from error
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128], "")
    if not order or not content.startswith(b"MATLAB"):
        raise ValueError(f"{str(file)!r} is not a MATLAB file: expected one of version 5 (save -v7)")
    try:
        is_hdf5 = content[124:126] == b"\x00\x02"
        found = _find_in_hdf5(content, name) if is_hdf5 else _find(content, order, name)
    except Hdf5Error as error:
        raise ValueError(f"{str(file)!r}: the variable {name!r}: {error}; save it as version 5 (save -v7)") from error
    except (struct.error, zlib.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}") from error
    if isinstance(found, list):
        raise ValueError(f"{str(file)!r} has no variable {name!r}: it has {listed(found) or 'none'}")
    if isinstance(found, str):
        raise ValueError(f"{str(file)!r}: the variable {name!r} {found}, expected a matrix of whole numbers")
    return found


def _find(content: bytes, order: str, name: str) -> Matrix | list[str] | str:
    """The matrix; the names of all variables if none has this name; or why it is no matrix of whole numbers."""
    names = []
    for kind, data in islice(_elements(content, 128, order), _MOST_VARIABLES):
        if kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(data, _HEAD)
            kind, start, _ = _tag(head, 0, order)
        else:
            head, start = data[:_HEAD], 0
        if kind != _MATRIX:
            continue
        header = _header(head[start:], order)
        names.append(header.name)
        if header.name != name:
            continue
        count = math.prod(header.shape)
        if header.kind not in _NUMERIC_CLASSES or header.is_complex:
            return "holds no real numbers"
        if len(header.shape) != 2 or count > _MOST_ENTRIES:
            return f"has the shape {header.shape}"
        whole = zlib.decompressobj().decompress(data, _HEAD + 8 * count) if start else data
        return _matrix(whole[start:], header, order)
    return names


def _find_in_hdf5(content: bytes, name: str) -> Matrix | list[str] | str:
    """As `_find`, for files of version 7.3. Their arrays have MATLAB's dimensions in reverse order."""
    found = read_array(content, name)
    if isinstance(found, list):
        return found
    if len(found.shape) != 2:
        return f"has the shape {found.shape}"
    columns, rows = found.shape
    return _whole(rows, columns, found.values)


def _whole(rows: int, columns: int, values: Sequence[int | float]) -> Matrix | str:
    """A matrix of values that are stored column by column."""
    if not all(math.isfinite(value) and value == int(value) for value in values):
        return "has numbers that are not whole"
    return Matrix(rows, columns, tuple(int(values[row + rows * at]) for row in range(rows) for at in range(columns)))


def _matrix(whole: bytes, header: _Header, order: str) -> Matrix | str:
    kind, start, size = _tag(whole, header.end, order)
    rows, columns = header.shape
    letter = _NUMBERS.get(kind, "")
    if not letter or size != rows * columns * struct.calcsize("=" + letter):
        return f"does not hold the {rows} x {columns} numbers that it declares"
    values = struct.unpack_from(f"{order}{rows * columns}{letter}", whole, start)
    return _whole(rows, columns, values)


def _header(data: bytes, order: str) -> _Header:
    _, flags_at, _ = _tag(data, 0, order)
    (flags,) = struct.unpack_from(order + "I", data, flags_at)
    _, shape_at, shape_size = _tag(data, flags_at + 8, order)
    if not 0 < shape_size <= 128:
        raise struct.error("a variable has no dimensions")
    shape = struct.unpack_from(f"{order}{shape_size // 4}i", data, shape_at)
    if min(shape) < 0:
        raise struct.error("a dimension is negative")
    name_tag = shape_at + _padded(shape_size)
    _, name_at, name_size = _tag(data, name_tag, order)
    if name_at + name_size > len(data):
        raise struct.error("the name of a variable is cut off")
    name = data[name_at : name_at + name_size].decode("ascii")
    end = name_at + _padded(name_size) if name_at == name_tag + 8 else name_tag + 8
    return _Header(flags & 0xFF, bool(flags & _IS_COMPLEX), shape, name, end)


def _elements(content: bytes, start: int, order: str) -> Iterator[tuple[int, bytes]]:
    while start < len(content):
        kind, at, size = _tag(content, start, order)
        if at + size > len(content):
            raise struct.error(f"it ends at byte {len(content):,}, expected {at + size:,}")
        yield kind, content[at : at + size]
        start = at + (size if kind == _COMPRESSED else _padded(size))


def _tag(data: bytes, start: int, order: str) -> tuple[int, int, int]:
    """Type, place of the content, and its size in bytes; small elements have all of them in eight bytes."""
    kind, size = struct.unpack_from(order + "II", data, start)
    if kind >> 16:
        return kind & 0xFFFF, start + 4, kind >> 16
    return kind, start + 8, size


def _padded(size: int) -> int:
    return -(-size // 8) * 8
