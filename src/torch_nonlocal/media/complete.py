"""Whether a video file is cut short: it ends before the end that its own headers declare.

The number of frames does not tell: an edit list hides frames of a complete file. Formats without a declared end (MPEG
program and transport streams, Ogg, raw streams, recordings of unknown length) cannot be checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, Literal

from torch_nonlocal.media.broken import BrokenVideoError, Deadline
from torch_nonlocal.media.limits import quoted

_SLACK = 0.25  # seconds; the time of the last frames is not exact
_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"sidx", b"styp", b"mfra", b"uuid", b"pnot"}
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_WITHOUT_END = 2**63  # bytes of a file whose end is a mark that is missing
_PIPED = 2**32 - 1  # size of an AVI file that could not be gone back into
_HEADERS_WITH_DURATION = frozenset({"matroska", "flv"})


def check_bytes(path: str | os.PathLike[str], deadline: Deadline) -> None:
    """Check that a file has the bytes that its headers declare. Missing files pass.

    Raises:
        BrokenVideoError: the file is cut short, or the time limit is exceeded.
    """
    try:
        declared, size = _declared_bytes(path, deadline), os.stat(path).st_size
    except OSError:
        return
    if declared > size:
        of = f"{size:,} bytes of the {declared:,}" if declared < _WITHOUT_END else f"{size:,} bytes and not the end"
        raise BrokenVideoError(f"{quoted(path)} is cut short: it has {of} that its headers declare", "damaged")


def check_end(
    path: str | os.PathLike[str], container: Any, stream: Any, packets: int, end: float | None, deadline: Deadline
) -> None:
    """Check that a file has the packets and the duration that its headers declare.

    Args:
        path: the file.
        container: the file, open in PyAV and read to its end.
        stream: its video stream.
        packets: number of its packets.
        end: time at which the last one ends, in seconds; None if unknown.
        deadline: time limit for reading.

    Raises:
        BrokenVideoError: the file is cut short, or the time limit is exceeded.
    """
    size = os.stat(path).st_size
    if packets < stream.frames and any(entry.pos + entry.size > size for entry in getattr(stream, "index_entries", ())):
        raise BrokenVideoError(
            f"{quoted(path)} is cut short: it has {packets} of the {stream.frames} frames that its header counts",
            "damaged",
        )
    formats = set(container.format.name.split(","))
    if end is None or not container.duration or not formats & _HEADERS_WITH_DURATION:
        return
    seconds = container.duration / 1_000_000
    slack = max(_SLACK, 2 / float(stream.average_rate or 25))
    if seconds - end > slack:
        end = max(end, _end_of_all_streams(container, deadline))
        if seconds - end > slack:
            raise BrokenVideoError(
                f"{quoted(path)} is cut short: it ends after {end:.2f} of the {seconds:.2f} s that its header declares",
                "damaged",
            )


def _end_of_all_streams(container: Any, deadline: Deadline) -> float:
    """End of the last packet in seconds; sound may be longer than the picture."""
    container.seek(0)
    end = 0.0
    for packet in container.demux():
        deadline.check()
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def _declared_bytes(path: str | os.PathLike[str], deadline: Deadline) -> int:
    """Number of bytes that the file should have at least; 0 if it does not tell."""
    with open(path, "rb") as file, suppress(EOFError):
        head = file.read(16)
        for signature, declared in _SIGNATURES.items():
            if head.startswith(signature):
                file.seek(0)
                return declared(_Reader(file, deadline))
        if head[4:8] in _BOXES:
            file.seek(0)
            return _boxes(_Reader(file, deadline))
    return 0


class _Reader:
    """Reads numbers and bytes of a file.

    Raises:
        EOFError: the file ends before.
        BrokenVideoError: the time limit is exceeded.
    """

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file = file
        self._deadline = deadline

    def data(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def number(self, size: int, order: Literal["big", "little"] = "big") -> int:
        return int.from_bytes(self.data(size), order)

    def place(self) -> int:
        return self._file.tell()

    def skip(self, size: int) -> None:
        self.move(size, os.SEEK_CUR)

    def move(self, place: int, whence: int = os.SEEK_SET) -> int:
        self._deadline.check()
        return self._file.seek(place, whence)


def _boxes(reader: _Reader) -> int:
    """MP4 and QuickTime: end of the last known box. Some cameras append data that are no boxes."""
    end = 0
    with suppress(EOFError):
        while True:
            size, kind, header = reader.number(4), reader.data(4), 8
            if size == 1:
                size, header = reader.number(8), 16
            if kind not in _BOXES or size < header:
                break
            end += size
            reader.skip(size - header)
    return end


def _ebml(reader: _Reader) -> int:
    """Matroska and WebM: end of the segment."""
    reader.skip(4)
    reader.skip(_ebml_size(reader) or 0)
    if reader.data(4) != b"\x18\x53\x80\x67":
        return 0
    size = _ebml_size(reader)
    return 0 if size is None else reader.place() + size


def _ebml_size(reader: _Reader) -> int | None:
    """A number of variable size; None if all its bits are set, which means unknown."""
    first = reader.number(1)
    more = 8 - first.bit_length()
    if more > 7:
        return None
    value = (first & (1 << 7 - more) - 1) << 8 * more | reader.number(more)
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _riff(reader: _Reader) -> int:
    """AVI and WebP: end of the last list; long AVI files have several. A stream that was piped has no size."""
    end = 0
    with suppress(EOFError):
        while reader.data(4) == b"RIFF":
            size = reader.number(4, "little")
            if size == _PIPED:
                return 0
            end = reader.place() + size
            reader.skip(size + size % 2)
    return end


def _gif(reader: _Reader) -> int:
    """GIF: 0 if its trailer is found."""
    try:
        reader.skip(10)
        flags = reader.number(1)
        reader.skip(2 + _color_table(flags))
        while True:
            kind = reader.number(1)
            if kind == 0x3B:
                return 0
            if kind == 0x2C:
                reader.skip(8)
                reader.skip(_color_table(reader.number(1)) + 1)
            elif kind == 0x21:
                reader.skip(1)
            else:
                return 0  # no valid GIF, which the decoder reports
            while size := reader.number(1):
                reader.skip(size)
    except EOFError:
        return _WITHOUT_END


def _color_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png(reader: _Reader) -> int:
    """PNG and APNG: end of the chunk that ends the file."""
    reader.skip(8)
    while True:
        try:
            size, kind = reader.number(4), reader.data(4)
        except EOFError:
            return _WITHOUT_END
        reader.skip(size + 4)
        if kind == b"IEND":
            return reader.place()


def _flv(reader: _Reader) -> int:
    """Flash video: the last number is the size of the last tag, which starts that far before."""
    end = reader.move(0, os.SEEK_END)
    with suppress(EOFError, OSError):  # OSError: a place before the start
        reader.move(end - 4)
        size = reader.number(4)
        reader.move(end - 4 - size)
        kind, length = reader.number(1) & 31, reader.number(3)
        if kind in (8, 9, 18) and length == size - 11:  # sound, video, script
            return 0
    return _WITHOUT_END


def _asf(reader: _Reader) -> int:
    """ASF and WMV: the size of the file; broadcasts have none."""
    reader.skip(16 + 8)
    for _ in range(min(reader.number(4, "little"), 100)):
        reader.skip(2 if reader.place() == 28 else 0)
        name, size = reader.data(16), reader.number(8, "little")
        if name == _ASF_PROPERTIES:
            reader.skip(16)
            declared = reader.number(8, "little")
            reader.skip(8 + 8 + 8 + 8 + 8)
            return 0 if reader.number(4, "little") & 1 else declared
        reader.skip(max(size - 24, 0))
    return 0


def _mxf(reader: _Reader) -> int:
    """MXF: the header tells where the partition that ends the file is; 0 while it is being recorded."""
    reader.skip(16)
    size = reader.number(1)
    reader.skip(size - 0x80 if size > 0x80 else 0)
    reader.skip(2 + 2 + 4 + 8 + 8)
    footer = reader.number(8)
    return footer + 16 if footer else 0


_SIGNATURES: dict[bytes, Callable[[_Reader], int]] = {
    b"\x1a\x45\xdf\xa3": _ebml,
    b"RIFF": _riff,
    b"GIF8": _gif,
    b"\x89PNG": _png,
    b"FLV": _flv,
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02": _mxf,
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": _asf,
}
