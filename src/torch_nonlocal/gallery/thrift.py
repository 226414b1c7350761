"""A strict reader of Thrift's compact protocol, in which Parquet files describe themselves.

What generated readers ignore, truncate or overwrite is an error, so that none of them reads something else: fields
given twice, large numbers of fields, integers beyond their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INT16, INT32, INT64, BINARY, LIST, STRUCT = 4, 5, 6, 8, 9, 12
_BITS = {INT16: 16, INT32: 32, INT64: 64}
_FIXED = {1: 0, 2: 0, 3: 1, 7: 8}  # bytes of booleans, which are in the head of the field, and others
_DEEPEST = 10

Fields = dict[int, tuple[int, Any]]
"""Fields of a struct by number: type and value. Lists are (type of the elements, values)."""


def read_struct(data: bytes) -> tuple[Fields, int]:
    """The struct with which bytes begin, and its number of bytes. Booleans, bytes and doubles are skipped.

    Raises:
        IndexError: the data end before the struct does.
        ValueError: it is damaged.
    """
    reader = _Reader(data)
    return reader.struct(_DEEPEST), reader.place


def value(fields: Mapping[int, tuple[int, Any]], number: int, kind: int) -> Any:
    """The value of a field; None if the struct has no such field of this type, which generated readers skip, too."""
    found, content = fields.get(number, (kind, None))
    return content if found == kind else None


def values(fields: Mapping[int, tuple[int, Any]], number: int, kind: int) -> list[Any]:
    """The values of a list with elements of a type.

    Raises:
        ValueError: there is no such list.
    """
    found, content = value(fields, number, LIST) or (None, [])
    if found != kind:
        raise ValueError(f"field {number} is missing, or of another type")
    return content


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def struct(self, depth: int) -> Fields:
        fields, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer(16)
            if number in fields or not 0 < number < 64 or depth == 0:
                raise ValueError("a header is damaged: its fields are repeated, unknown or nested")
            fields[number] = (head & 15, self._value(head & 15, depth))
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == STRUCT:
            return self.struct(depth - 1)
        if kind == LIST:
            head = self._byte()
            count, of = head >> 4 if head >> 4 < 15 else self._unsigned(31), head & 15
            if of not in (*_BITS, BINARY, STRUCT):
                raise ValueError(f"a header is damaged: it has a list of type {of}")
            return of, [self._value(of, depth) for _ in range(count)]
        if kind in _BITS:
            return self._integer(_BITS[kind])
        if kind not in (*_FIXED, BINARY):
            raise ValueError(f"a header is damaged: it has a field of type {kind}")
        size = _FIXED[kind] if kind in _FIXED else self._unsigned(31)
        self.place += size
        if self.place > len(self._data):
            raise IndexError
        return self._data[self.place - size : self.place] if kind == BINARY else None

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _unsigned(self, bits: int) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            shift += 7
            if found >> bits or shift > 70:
                raise ValueError("a header is damaged: it has a number that is too large")
            if byte < 128:
                return found

    def _integer(self, bits: int) -> int:
        found = self._unsigned(bits)
        return (found >> 1) ^ -(found & 1)
