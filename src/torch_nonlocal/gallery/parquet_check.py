"""Checks of a Parquet file, so that reading it takes memory in proportion to its size and cannot end the process.

The footer of a Parquet file claims sizes and encodings, but readers follow the header of each page: a few bytes there
can repeat a text millions of times. Footer and headers are read here first. Plain pages, plain dictionaries and their
indices are accepted, none of them compressed and none used twice. PyArrow is not asked for metadata: it aborts the
process on unknown values.

Format: https://github.com/apache/parquet-format (parquet.thrift).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, NamedTuple

from torch_nonlocal.gallery.thrift import BINARY, INT32, INT64, STRUCT, Fields, read_struct, value, values

MOST_EXPANDED = 2**26
"""Bytes that dictionaries of texts may expand to, in columns that are not read as dictionaries."""

_MOST_HEADER = 2**15  # bytes; headers may hold statistics: the smallest and largest text of a page
_MOST_FOOTER, _ROWS_PER_BYTE = 2**18, 4  # bytes, and one more for so many rows
_LEAST_PAGE = 4096  # bytes, on average
_TYPES = {"int32": 1, "int64": 2, "text": 6}
_DATA, _DICTIONARY = 0, 2  # kinds of pages
_ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
# Readers do not check the types of elements of lists that they know.
_LISTS_OF_FOOTER, _LISTS_OF_GROUP = {2: STRUCT, 4: STRUCT, 5: STRUCT, 7: STRUCT}, {1: STRUCT, 4: STRUCT}
_LISTS_OF_COLUMN = {2: INT32, 3: BINARY, 8: STRUCT, 13: STRUCT}


class _Chunk(NamedTuple):
    """A column in a group of rows: its bytes, name, type and number of rows."""

    start: int
    end: int
    name: str
    type: str
    rows: int


class _Page(NamedTuple):
    kind: int
    size: int


def check_table(file: BinaryIO, rows: int, columns: Mapping[str, str], dictionaries: Collection[str]) -> None:
    """Check a Parquet file.

    Args:
        file: opened for reading.
        rows: expected number of rows.
        columns: type of each expected column: int32, int64 or text.
        dictionaries: names of the columns that are read as dictionaries. Other columns of texts may have dictionaries
            that expand to `MOST_EXPANDED` bytes in all.

    Raises:
        ValueError: another number of rows, other columns, or a column or page that is compressed, of another encoding,
            larger than the file, or shared.
    """
    chunks = _chunks(_footer(file, rows), rows, columns)
    size, end = file.seek(0, os.SEEK_END), 0
    pages, expanded = 4 * len(chunks) + size // _LEAST_PAGE, 0
    for chunk in sorted(one for one in chunks if one.rows):  # readers read no page for no rows
        if not end <= chunk.start <= chunk.end <= size:
            raise ValueError(f"column {chunk.name} is larger than the file, or shares bytes with another column")
        end = chunk.end
        for page in _pages(file, chunk):
            pages -= 1
            if page.kind == _DICTIONARY and chunk.type == "text" and chunk.name not in dictionaries:
                expanded += page.size * chunk.rows
            if pages < 0 or expanded > MOST_EXPANDED:
                raise ValueError(f"column {chunk.name} has too many pages, or repeats long texts")


def _footer(file: BinaryIO, rows: int) -> Fields:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or footer + 8 > size:
        raise ValueError("it is not a Parquet file")
    most = _MOST_FOOTER + rows // _ROWS_PER_BYTE  # readers take hundreds of times as much memory
    if footer > most:
        raise ValueError(f"its footer has {footer:,} bytes, expected at most {most:,}")
    file.seek(size - 8 - footer)
    try:
        return read_struct(file.read(footer))[0]
    except IndexError:
        raise ValueError("its footer is cut off") from None


def _chunks(footer: Fields, rows: int, columns: Mapping[str, str]) -> list[_Chunk]:
    """The columns of all groups of rows."""
    root, *leaves = values(footer, 2, STRUCT)
    names = [str(value(leaf, 4, BINARY) or b"", "utf-8", "backslashreplace") for leaf in leaves]
    if names != list(columns) or value(root, 5, INT32) != len(columns):
        raise ValueError(f"columns {', '.join(names)[:200]}; expected {', '.join(columns)}")
    for leaf, (name, kind) in zip(leaves, columns.items(), strict=True):
        if value(leaf, 1, INT32) != _TYPES[kind] or value(leaf, 3, INT32) not in (0, 1) or 5 in leaf:
            raise ValueError(f"column {name} has another type than {kind}")
    if value(footer, 3, INT64) != rows:
        raise ValueError(f"it has {value(footer, 3, INT64)} rows, gallery.json expects {rows:,}")
    if 8 in footer or 9 in footer:
        raise ValueError("its footer is encrypted")
    _check_lists(footer, _LISTS_OF_FOOTER)
    chunks, total = [], 0
    for group in values(footer, 4, STRUCT):
        _check_lists(group, _LISTS_OF_GROUP)
        found, held = value(group, 3, INT64), values(group, 1, STRUCT)
        if not isinstance(found, int) or found < 0 or len(held) != len(columns):
            raise ValueError(f"{len(held)} columns of {found} rows, expected {len(columns)}")
        total += found
        chunks += [_chunk(one, name, kind, found) for one, (name, kind) in zip(held, columns.items(), strict=True)]
    if total != rows:
        raise ValueError(f"it has groups of {total:,} rows, gallery.json expects {rows:,}")
    return chunks


def _check_lists(fields: Fields, known: Mapping[int, int]) -> None:
    for number, kind in known.items():
        if number in fields:
            values(fields, number, kind)


def _chunk(column: Fields, name: str, kind: str, rows: int) -> _Chunk:
    about = value(column, 3, STRUCT) or {}
    codec, count, size = value(about, 4, INT32), value(about, 5, INT64), value(about, 7, INT64)
    pages, dictionary = value(about, 9, INT64), value(about, 11, INT64)
    _check_lists(about, _LISTS_OF_COLUMN)
    if codec != 0:
        shown = _CODECS[codec] if isinstance(codec, int) and 0 <= codec < len(_CODECS) else codec
        raise ValueError(f"column {name}: compression {shown}, expected UNCOMPRESSED")
    if count != rows:
        raise ValueError(f"column {name}: {count} values of {rows:,} rows")
    if value(about, 1, INT32) != _TYPES[kind] or values(about, 3, BINARY) != [name.encode()]:
        raise ValueError(f"column {name}: it is described as another one")
    if not isinstance(pages, int) or not isinstance(size, int) or 1 in column or 8 in column or 9 in column:
        raise ValueError(f"column {name}: it has no place in this file, or is encrypted")
    start = pages if dictionary is None else min(pages, dictionary)
    return _Chunk(start, start + size, name, kind, rows)


def _pages(file: BinaryIO, chunk: _Chunk) -> Iterator[_Page]:
    """Check the pages of a column one after the other."""
    column, total, has_dictionary, place = f"column {chunk.name}", 0, False, chunk.start
    while place < chunk.end:
        file.seek(place)
        try:
            header, length = read_struct(file.read(min(chunk.end - place, _MOST_HEADER)))
        except IndexError:
            raise ValueError(f"{column}: a page is cut off") from None
        kind, size = value(header, 1, INT32), value(header, 3, INT32)
        if (
            not isinstance(size, int)
            or size < 0
            or value(header, 2, INT32) != size
            or place + length + size > chunk.end
        ):
            raise ValueError(f"{column}: a page claims another size than it has")
        about = value(header, {_DATA: 5, _DICTIONARY: 7}.get(kind, 0), STRUCT) or {}
        count, number = value(about, 1, INT32), value(about, 2, INT32)
        if not isinstance(count, int) or not isinstance(number, int) or count < 0:
            raise ValueError(f"{column}: a page of an unknown kind")
        encoding = _ENCODINGS.get(number, f"{number}")
        is_plain = encoding == "PLAIN" or (kind == _DICTIONARY and encoding == "PLAIN_DICTIONARY")
        if kind == _DICTIONARY:
            is_accepted = is_plain and place == chunk.start
            has_dictionary = True
        else:
            is_accepted = is_plain or (has_dictionary and encoding in ("PLAIN_DICTIONARY", "RLE_DICTIONARY"))
            total += count
        if not is_accepted:
            raise ValueError(f"{column}: a page of encoding {encoding}; expected plain or dictionary encoding")
        if is_plain and chunk.type == "text" and 4 * count > size:
            raise ValueError(f"{column}: a text is missing, {size:,} bytes claim to be {count:,} texts")
        yield _Page(kind, size)
        place += length + size
    if total != chunk.rows:
        raise ValueError(f"{column}: pages of {total:,} rows, expected {chunk.rows:,}")
