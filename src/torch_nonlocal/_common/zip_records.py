"""Records of a zip archive as torch.save writes it: uncompressed, apart from each other, with their checksums verified.

Files of this package carry a checksum of the whole file in the archive's comment; `SignedWriter` adds it while a file
is written. Archives of others have no comment, and the checksum of each record that is read is verified.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from typing import Any, BinaryIO, NamedTuple

_END = b"PK\x05\x06"
_END_SIZE = 22
_END_64 = b"PK\x06\x06"
_LOCAL = b"PK\x03\x04"
_LOCAL_SIZE = 30
_COMMENT = b"torch-nonlocal sha256 "
_COMMENT_SIZE = len(_COMMENT) + 64
_MAX_DIRECTORY = 1 << 24  # bytes; about 150,000 records
_CHUNK = 1 << 20
DAMAGED = "is damaged"


class Record(NamedTuple):
    """Where a record starts (its local header), its size in bytes and the CRC-32 of its content."""

    start: int
    size: int
    crc: int


class ZipRecords:
    """The records of an archive by name.

    Args:
        file: opened for reading.
        size: of the file.

    Raises:
        ValueError: the archive is truncated, damaged, compressed or too large; the message starts with a verb.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.is_signed = self._verified()
        try:
            entries = zipfile.ZipFile(file).infolist()
        except Exception as error:  # whatever a broken directory causes
            raise ValueError(f"{DAMAGED}: its list of records cannot be read") from error
        self.records: dict[str, Record] = {}
        self._compressed = {entry.filename for entry in entries if entry.compress_type or entry.flag_bits & 1}
        end = 0
        for entry in sorted(entries, key=lambda one: one.header_offset):
            if entry.header_offset < end or entry.filename in self.records:
                raise ValueError(f"{DAMAGED}: its records overlap")
            end = entry.header_offset + _LOCAL_SIZE + entry.compress_size
            if end > size:
                raise ValueError(f"{DAMAGED}: a record ends behind the file")
            self.records[entry.filename] = Record(entry.header_offset, entry.file_size, entry.CRC)

    def read(self, name: str, size: int | None = None) -> bytearray:
        """The content of a record.

        Args:
            name: the record.
            size: bytes that it should have.

        Raises:
            ValueError: there is no such record, it has another size, is compressed, or its checksum differs.
        """
        record = self.records.get(name)
        if record is None:
            raise ValueError(f"{DAMAGED}: the record {name[:100]!r} is missing")
        if name in self._compressed:
            raise ValueError(f"is refused: its record {name[:100]!r} is compressed, which torch.save does not do")
        if size is not None and size != record.size:
            raise ValueError(f"{DAMAGED}: its record {name[:100]!r} has {record.size:,} bytes, expected {size:,}")
        self._file.seek(record.start)
        header = self._file.read(_LOCAL_SIZE)
        if len(header) != _LOCAL_SIZE or not header.startswith(_LOCAL):
            raise ValueError(f"{DAMAGED}: the record {name[:100]!r} is not where the list of records says")
        start = record.start + _LOCAL_SIZE + sum(struct.unpack("<HH", header[26:]))
        if start + record.size > self._size:
            raise ValueError(f"{DAMAGED}: the record {name[:100]!r} ends behind the file")
        self._file.seek(start)
        content = bytearray(record.size)
        if self._file.readinto(content) != record.size:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{DAMAGED}: the record {name[:100]!r} is truncated")
        if zlib.crc32(content) != record.crc:
            raise ValueError(f"{DAMAGED}: the checksum of its record {name[:100]!r} differs")
        return content

    def _verified(self) -> bool:
        """Verify the checksum of the file, if it has one, and the size of the list of records before it is read."""
        signed = self._tail(_END_SIZE + _COMMENT_SIZE)
        is_signed = signed[_END_SIZE:].startswith(_COMMENT) and signed.startswith(_END)
        end = signed[:_END_SIZE] if is_signed else signed[-_END_SIZE:]
        comment = _COMMENT_SIZE if is_signed else 0
        if not end.startswith(_END) or struct.unpack("<H", end[-2:])[0] != comment:
            raise ValueError(f"{DAMAGED} or truncated: it does not end like a file of torch.save")
        if is_signed and _digest(self._file, self._size) != signed[-64:].decode("latin-1"):
            raise ValueError(f"{DAMAGED}: the checksum of the file differs from the one that it holds")
        directory = struct.unpack("<I", end[12:16])[0]
        if directory == 0xFFFFFFFF:
            self._file.seek(max(0, self._size - comment - _END_SIZE - 76))
            wide = self._file.read(56)
            directory = struct.unpack("<Q", wide[40:48])[0] if wide.startswith(_END_64) else self._size
        if directory > _MAX_DIRECTORY:
            raise ValueError(f"is refused: its list of records takes {directory:,} bytes")
        return is_signed

    def _tail(self, count: int) -> bytes:
        self._file.seek(max(0, self._size - count))
        return self._file.read(count)


class SignedWriter:
    """A file to write an archive to; `sign` adds the checksum of the whole file as the archive's comment."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes."""
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def sign(self) -> None:
        """Add the checksum; call it once, after the archive is complete."""
        self._file.seek(-2, os.SEEK_END)
        self._file.write(struct.pack("<H", _COMMENT_SIZE))
        self._file.write(_COMMENT + self._hash.hexdigest().encode())


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of an archive as it was before it got its comment."""
    digest = hashlib.sha256()
    left = size - _COMMENT_SIZE - 2
    file.seek(0)
    while left > 0:
        data = file.read(min(_CHUNK, left))
        if not data:
            break
        digest.update(data)
        left -= len(data)
    digest.update(b"\0\0")
    return digest.hexdigest()
