"""Number of samples that an MP4 or QuickTime file declares, counted without FFmpeg.

A sample table may give one size and one duration for any number of samples in a few bytes, and an edit list may repeat
them. FFmpeg expands these tables when it opens a file, about a hundred bytes per sample: a file of 80 kB that declares
20 million samples takes 2 GB. This module counts the samples first.

Reference: ISO/IEC 14496-12, sections 8.6 (time to sample, edit list), 8.7 (sample sizes) and 8.8 (fragments).
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from typing import Any, BinaryIO

from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.limits import quoted

_CONTAINERS = frozenset(b"moov trak mdia minf stbl edts mvex moof traf dinf udta tapt gmhd wave".split())
_FEW = 2**18  # samples that any file may declare: two hours of video at 30 frames per second
_MOST = 2**22  # samples of any file: a day and a half of video at 30 frames per second
_BYTES_PER_SAMPLE = 16  # fewest, on average, of files with more than a few samples
_DEPTH = 10
_CHUNK = 2**16  # bytes of a table read at a time
_SOUND = {b"soun", b"alis", b"url "}  # handlers of a sound track and of its data


def check_tables(path: str | os.PathLike[str]) -> None:
    """Check that a file does not declare more samples than it can hold. Files of other formats pass.

    Raises:
        BrokenVideoError: it declares too many, or its tables are compressed.
    """
    size = os.stat(path).st_size
    most = min(max(_FEW, size // _BYTES_PER_SAMPLE), _MOST)
    with open(path, "rb") as file:
        boxes = _Boxes(file, most)
        try:
            boxes.walk(0, size, _Track())
        except struct.error:  # the file ends within a box, which FFmpeg reports
            pass
        except _RefusedError as error:
            raise BrokenVideoError(f"{quoted(path)} has {size:,} bytes, but {error}", "damaged") from error


class _RefusedError(Exception):
    """What a file declares that it cannot hold."""


class _Track:
    """What the tables of a track declare: counts of samples, edits, and whether a sample is one value of sound."""

    def __init__(self) -> None:
        self.counts = [0]
        self.edits = 0
        self.handlers: set[bytes] = set()
        self.is_constant = False  # one size and a duration of 1 for all samples

    @property
    def samples(self) -> int:
        if self.is_constant and b"soun" in self.handlers and self.handlers <= _SOUND:
            return 0  # FFmpeg does not expand plain PCM
        return max(self.counts) * max(self.edits, 1)


class _Boxes:
    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most
        self._samples = 0

    def walk(self, start: int, end: int, track: _Track, depth: int = 0) -> None:
        """Count the samples that the boxes between two positions declare."""
        while start + 8 <= end:
            size, kind = self._unpack(start, ">I4s")
            header = 8
            if size == 1:
                header, size = 16, self._unpack(start + 8, ">Q")[0]
            stop = end if size == 0 else min(start + size, end)
            if stop < start + header:
                return
            if kind in _CONTAINERS and depth < _DEPTH:
                inside = _Track() if kind == b"trak" else track
                self.walk(start + header, stop, inside, depth + 1)
                if kind == b"trak":
                    self._add(inside.samples)
            else:
                self._read(kind, start + header, stop, track)
            start = stop
        if depth == 0:
            self._add(track.samples)

    def _read(self, kind: bytes, start: int, stop: int, track: _Track) -> None:
        if kind == b"cmov":
            raise _RefusedError("its tables are compressed, which is not supported")
        if kind == b"trun":
            self._add(self._unpack(start + 4, ">I")[0])
        elif kind == b"hdlr":
            track.handlers.add(self._unpack(start + 8, ">4s")[0])
        elif kind == b"elst":
            track.edits += self._unpack(start + 4, ">I")[0]
        elif kind in (b"stsz", b"stz2"):
            fixed, count = self._unpack(start + 4, ">II")
            track.counts.append(count)
            track.is_constant = track.is_constant or (kind == b"stsz" and fixed > 0)
        elif kind in (b"stts", b"ctts"):
            entries = self._unpack(start + 4, ">I")[0]
            track.counts.append(self._sum_of_counts(start + 8, min(stop, start + 8 + 8 * entries)))
            if kind == b"stts" and (entries != 1 or self._unpack(start + 12, ">I")[0] != 1):
                track.handlers.add(b"")  # not plain PCM

    def _sum_of_counts(self, start: int, stop: int) -> int:
        """Sum of the first of each pair of numbers of a table."""
        total = 0
        for position in range(start, stop - 7, _CHUNK):
            self._file.seek(position)
            data = self._file.read(min(_CHUNK, stop - position))
            numbers = array("I", data[: len(data) // 8 * 8])
            if sys.byteorder == "little":
                numbers.byteswap()
            total += sum(numbers[::2])
        return total

    def _add(self, samples: int) -> None:
        self._samples += samples
        if self._samples > self._most:
            raise _RefusedError(f"declares {self._samples:,} samples, expected at most {self._most:,}")

    def _unpack(self, position: int, layout: str) -> tuple[Any, ...]:
        self._file.seek(position)
        return struct.unpack(layout, self._file.read(struct.calcsize(layout)))
