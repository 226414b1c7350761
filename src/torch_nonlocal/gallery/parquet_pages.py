"""Checks of a Parquet file's pages, so that reading it takes memory in proportion to its size.

The footer of a Parquet file claims sizes and encodings, but readers follow the header of each page: a few bytes there
can repeat a text millions of times. Every header is read here first. Plain pages, plain dictionaries and their indices
are accepted, none of them compressed and none used twice.

Format: https://github.com/apache/parquet-format (parquet.thrift), headers in Thrift's compact protocol.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

MOST_EXPANDED = 2**26
"""Bytes that dictionaries of texts may expand to, in columns that are not read as dictionaries."""

_MOST_HEADER = 2**15  # bytes; headers may hold statistics: the smallest and largest text of a page
_MOST_FOOTER, _ROWS_PER_BYTE = 2**18, 4  # bytes, and one more for so many rows
_LEAST_PAGE = 4096  # bytes, on average
_DATA, _DICTIONARY = 0, 2  # kinds of pages
_ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
_OF_DICTIONARY = ("PLAIN_DICTIONARY", "RLE_DICTIONARY")
_REPEATED, _TEXT, _NUMBER = "repeated text", "text", "number"
_INT32, _BINARY, _STRUCT = 5, 8, 12  # types of the compact protocol
_BITS = {4: 16, _INT32: 32, 6: 64}  # of integers
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}  # bytes of booleans, which are in the head of the field, and others


def check_footer(file: BinaryIO, rows: int) -> None:
    """Check the size of a footer: readers take hundreds of times as much memory for it.

    Args:
        file: opened for reading.
        rows: expected number of rows.

    Raises:
        ValueError: it is no Parquet file, or its footer is larger than one of so many rows.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    footer = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or footer + 8 > size:
        raise ValueError("it is no Parquet file")
    most = _MOST_FOOTER + rows // _ROWS_PER_BYTE
    if footer > most:
        raise ValueError(f"its footer has {footer:,} bytes, expected at most {most:,}")


def check_pages(file: BinaryIO, about: Any, dictionaries: Collection[str]) -> None:
    """Check all pages.

    Args:
        file: opened for reading.
        about: metadata of the file, a `pyarrow.parquet.FileMetaData`.
        dictionaries: names of the columns that are read as dictionaries. Other columns of texts may have dictionaries
            that expand to `MOST_EXPANDED` bytes in all.

    Raises:
        ValueError: a column or page is compressed, of another encoding, larger than the file, or shared.
    """
    chunks = []
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        if group.num_columns != about.num_columns:
            raise ValueError(f"{group.num_columns} columns of some rows, expected {about.num_columns}")
        for column in range(about.num_columns):
            chunk = group.column(column)
            name, start = chunk.path_in_schema, chunk.data_page_offset
            if chunk.compression != "UNCOMPRESSED":
                raise ValueError(f"column {name}: {chunk.compression}, expected no compression")
            if chunk.num_values != group.num_rows:
                raise ValueError(f"column {name}: {chunk.num_values:,} values of {group.num_rows:,} rows")
            start = min(start, chunk.dictionary_page_offset or start)
            kind = _REPEATED if name in dictionaries else _TEXT if chunk.physical_type == "BYTE_ARRAY" else _NUMBER
            chunks.append(_Chunk(start, start + chunk.total_compressed_size, name, kind, group.num_rows))
    size, end = file.seek(0, os.SEEK_END), 0
    pages, expanded = 4 * len(chunks) + size // _LEAST_PAGE, 0
    for chunk in sorted(one for one in chunks if one.rows):  # readers read no page for no rows
        if not end <= chunk.start <= chunk.end <= size:
            raise ValueError(f"column {chunk.name} is larger than the file, or shares bytes with another column")
        end = chunk.end
        for page in _pages(file, chunk):
            pages -= 1
            if page.kind == _DICTIONARY and chunk.kind == _TEXT:
                expanded += page.size * chunk.rows
            if pages < 0 or expanded > MOST_EXPANDED:
                raise ValueError(f"column {chunk.name} has too many pages, or repeats long texts")


class _Chunk(NamedTuple):
    """A column in a group of rows: its bytes, name and rows, and whether it is read as a dictionary, text or number."""

    start: int
    end: int
    name: str
    kind: str
    rows: int


class _Page(NamedTuple):
    kind: int
    size: int


def _pages(file: BinaryIO, chunk: _Chunk) -> Iterator[_Page]:
    """Check the pages of a column one after the other."""
    column, values, has_dictionary, place = f"column {chunk.name}", 0, False, chunk.start
    while place < chunk.end:
        file.seek(place)
        try:
            header, length = _Compact(file.read(min(chunk.end - place, _MOST_HEADER))).header()
        except IndexError:
            raise ValueError(f"{column}: a page is cut off") from None
        kind, size = header.get(1, -1), header.get(3)
        if not isinstance(size, int) or size < 0 or header.get(2) != size or place + length + size > chunk.end:
            raise ValueError(f"{column}: a page claims another size than it has")
        about = header.get({_DATA: 5, _DICTIONARY: 7}.get(kind, 0))
        count, number = (about.get(1), about.get(2)) if isinstance(about, dict) else (None, None)
        if not isinstance(count, int) or not isinstance(number, int) or count < 0:
            raise ValueError(f"{column}: a page of an unknown kind")
        encoding = _ENCODINGS.get(number, f"{number}")
        is_plain = encoding == "PLAIN" or (kind == _DICTIONARY and encoding == "PLAIN_DICTIONARY")
        if kind == _DICTIONARY:
            is_accepted = is_plain and place == chunk.start
            has_dictionary = True
        else:
            is_accepted = is_plain or (has_dictionary and encoding in _OF_DICTIONARY)
            values += count
        if not is_accepted:
            raise ValueError(f"{column}: a page of encoding {encoding}; expected plain or dictionary encoding")
        if is_plain and chunk.kind != _NUMBER and 4 * count > size:
            raise ValueError(f"{column}: a text is missing, {size:,} bytes claim to be {count:,} texts")
        yield _Page(kind, size)
        place += length + size
    if values != chunk.rows:
        raise ValueError(f"{column}: pages of {values:,} rows, expected {chunk.rows:,}")


class _Compact:
    """A page header in Thrift's compact protocol.

    What generated readers ignore, truncate or overwrite is an error, so that none of them reads another header: fields
    given twice, large numbers of fields, integers beyond their type.

    Args:
        data: bytes that begin with the header.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def header(self) -> tuple[dict[int, Any], int]:
        """Fields by number, and the number of bytes. Of values, 32-bit integers and structs are kept.

        Raises:
            IndexError: the data end before the header does.
            ValueError: it is no page header.
        """
        return self._struct(3), self._place

    def _struct(self, depth: int) -> dict[int, Any]:
        fields, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer(16)
            if number in fields or not 0 < number < 64 or depth == 0:
                raise ValueError("a page header is damaged: its fields are repeated, unknown or nested")
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRUCT:
            return self._struct(depth - 1)
        if kind in _BITS:
            value = self._integer(_BITS[kind])
            return value if kind == _INT32 else None
        if kind not in (*_FIXED, _BINARY):
            raise ValueError(f"a page header is damaged: it has a field of type {kind}")
        size = _FIXED[kind] if kind in _FIXED else self._unsigned(31)
        self._place += size
        return None

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _unsigned(self, bits: int) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if value >> bits or shift > 70:
                raise ValueError("a page header is damaged: it has a number that is too large")
            if byte < 128:
                return value

    def _integer(self, bits: int) -> int:
        value = self._unsigned(bits)
        return (value >> 1) ^ -(value & 1)
