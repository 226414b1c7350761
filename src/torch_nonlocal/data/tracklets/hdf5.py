"""Read one array of numbers from an HDF5 file, as MATLAB writes with `save -v7.3`. Nothing but the array is read.

Links to other files, external storage and filters other than deflate are refused, and sizes are checked before memory
is used. Addresses are relative to the base address of the file.

Reference: The HDF Group, HDF5 File Format Specification, version 1.1 (superblock 0, object headers 1).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _CONTINUATION = 1, 3, 8, 11, 16
_DEFLATE = 1
_MOST_NODES = 10_000
_MOST_ENTRIES = 2**22


class Hdf5Error(ValueError):
    """A file is damaged, or holds something else than an array of numbers."""


class Array(NamedTuple):
    """An array of numbers.

    Attributes:
        shape: its dimensions, the slowest first.
        values: the numbers, the last dimension fastest.
    """

    shape: tuple[int, ...]
    values: tuple[int | float, ...]


class _Dataset(NamedTuple):
    shape: tuple[int, ...]
    letter: str
    layout: bytes
    is_deflated: bool


def read_array(content: bytes, name: str) -> Array | list[str]:
    """Read an array in the root group.

    Args:
        content: of the file, from its first byte.
        name: of the array.

    Returns:
        The array, or the names of everything in the root group if nothing has this name.

    Raises:
        Hdf5Error: the file is damaged, or the array is of another kind.
    """
    try:
        return _File(content).read(name)
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError, OverflowError) as error:
        raise Hdf5Error(f"it is damaged: {error}") from error


class _File:
    def __init__(self, content: bytes) -> None:
        start = content.find(_SIGNATURE, 0, 1024)
        if start < 0 or content[start + 8] != 0 or content[start + 13 : start + 15] != b"\x08\x08":
            raise Hdf5Error("it has no HDF5 superblock of version 0")
        (base,) = struct.unpack_from("<Q", content, start + 24)
        self._bytes = content[base:]
        self._root = struct.unpack_from("<QQ", content, start + 80)
        self._nodes = 0

    def read(self, name: str) -> Array | list[str]:
        tree, heap = self._root
        (data,) = struct.unpack_from("<Q", self._at(heap, b"HEAP"), 24)
        names = []
        for node, _ in self._children(tree, 0, 8, None):
            block = self._at(node, b"SNOD")
            (count,) = struct.unpack_from("<H", block, 6)
            for entry in range(count):
                at, header = struct.unpack_from("<QQ", block, 8 + 40 * entry)
                text = self._bytes[data + at : data + at + 256].split(b"\0", 1)[0].decode()
                names.append(text)
                if text == name:
                    return self._values(self._dataset(header))
        return names

    def _at(self, address: int, signature: bytes) -> memoryview:
        """The bytes from an address on, which start with a signature."""
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise Hdf5Error("it has more parts than an array needs")
        if self._bytes[address : address + 4] != signature:
            raise Hdf5Error(f"it is damaged: no {signature.decode()} at byte {address}")
        return memoryview(self._bytes)[address:]

    def _children(self, address: int, kind: int, key: int, level: int | None) -> Iterator[tuple[int, bytes]]:
        """Children of the lowest nodes, with the key before each.

        Args:
            address: of a node.
            kind: 0 for groups, 1 for chunks.
            key: bytes of a key.
            level: the level that the node has to have; None for the root.
        """
        block = self._at(address, b"TREE")
        own_kind, own_level, count = struct.unpack_from("<BBH", block, 4)
        if own_kind != kind or (level is not None and own_level != level):
            raise Hdf5Error("it is damaged: a tree does not end")
        for entry in range(count):
            at = 24 + entry * (key + 8)
            (child,) = struct.unpack_from("<Q", block, at + key)
            if own_level:
                yield from self._children(child, kind, key, own_level - 1)
            else:
                yield child, bytes(block[at : at + key])

    def _messages(self, address: int) -> dict[int, bytes]:
        version, _, count, _, size = struct.unpack_from("<BBHII", self._bytes, address)
        if version != 1:
            raise Hdf5Error(f"it has an object header of version {version}, expected 1")
        found: dict[int, bytes] = {}
        blocks = [(address + 16, size)]
        while blocks and count > 0:
            at, left = blocks.pop(0)
            while left >= 8 and count > 0:
                kind, length = struct.unpack_from("<HH", self._bytes, at)
                data = self._bytes[at + 8 : at + 8 + length]
                if kind == _CONTINUATION:
                    blocks.append(struct.unpack("<QQ", data[:16]))
                found.setdefault(kind, data)
                at, left, count = at + 8 + length, left - 8 - length, count - 1
        return found

    def _dataset(self, header: int) -> _Dataset:
        messages = self._messages(header)
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= messages.keys():
            raise Hdf5Error("it is no array")
        space, kind = messages[_DATASPACE], messages[_DATATYPE]
        dimensions = space[1]
        shape = struct.unpack_from(f"<{dimensions}Q", space, 8 if space[0] == 1 else 4)
        if math.prod(shape) > _MOST_ENTRIES:
            raise Hdf5Error(f"it has the shape {shape}, expected at most {_MOST_ENTRIES:,} entries")
        (size,) = struct.unpack_from("<I", kind, 4)
        letters = {0: {1: "b", 2: "h", 4: "i", 8: "q"}, 1: {4: "f", 8: "d"}}.get(kind[0] & 15, {})
        if size not in letters or kind[1] & 1:
            raise Hdf5Error("it is no array of numbers in little-endian order")
        letter = letters[size] if kind[0] & 15 or kind[1] & 8 else letters[size].upper()
        return _Dataset(shape, letter, messages[_LAYOUT], self._is_deflated(messages.get(_FILTERS)))

    def _is_deflated(self, filters: bytes | None) -> bool:
        if not filters:
            return False
        start = 8 if filters[0] == 1 else 2
        if filters[1] != 1 or struct.unpack_from("<H", filters, start)[0] != _DEFLATE:
            raise Hdf5Error("it is compressed by another filter than deflate")
        return True

    def _values(self, one: _Dataset) -> Array:
        size, count = struct.calcsize(one.letter), math.prod(one.shape)
        version = one.layout[0]
        kind = one.layout[1 if version == 3 else 2]
        if version not in (1, 2, 3) or kind not in (1, 2):
            raise Hdf5Error(f"it has the layout {kind} of version {version}, expected contiguous or chunked numbers")
        if kind == 1:
            (at,) = struct.unpack_from("<Q", one.layout, 2 if version == 3 else 8)
            data = self._bytes[at : at + count * size]
            return Array(one.shape, struct.unpack(f"<{count}{one.letter}", data))
        return Array(one.shape, self._chunks(one, size, version))

    def _chunks(self, one: _Dataset, size: int, version: int) -> tuple[int | float, ...]:
        """The values of a chunked array of up to two dimensions."""
        dimensions = len(one.shape)
        if not 1 <= dimensions <= 2:
            raise Hdf5Error(f"it has {dimensions} dimensions, expected 2")
        (tree,) = struct.unpack_from("<Q", one.layout, 3 if version == 3 else 8)
        chunk = struct.unpack_from(f"<{dimensions}I", one.layout, 11 if version == 3 else 16)
        rows, columns = one.shape if dimensions == 2 else (1, one.shape[0])
        height, width = chunk if dimensions == 2 else (1, chunk[0])
        length = height * width * size
        if not 0 < height * width <= _MOST_ENTRIES:
            raise Hdf5Error(f"it has chunks of {chunk} entries")
        values: list[int | float] = [0] * (rows * columns)
        expanded = read = 0
        for address, key in self._children(tree, 1, 8 + 8 * (dimensions + 1), None):
            stored, mask = struct.unpack_from("<II", key)
            place = struct.unpack_from(f"<{dimensions}Q", key, 8)
            top, left = place if dimensions == 2 else (0, place[0])
            read += stored
            if read > len(self._bytes):
                raise Hdf5Error("its chunks overlap")
            data = self._bytes[address : address + stored]
            if one.is_deflated and not mask & 1:
                data = zlib.decompressobj().decompress(data, length)
            expanded += height * width
            if expanded > 2 * _MOST_ENTRIES or top >= rows or left >= columns:
                raise Hdf5Error("it has chunks outside of the array")
            numbers = struct.unpack(f"<{height * width}{one.letter}", data)
            used = min(width, columns - left)
            for row in range(min(height, rows - top)):
                at = (top + row) * columns + left
                values[at : at + used] = numbers[row * width : row * width + used]
        return tuple(values)
