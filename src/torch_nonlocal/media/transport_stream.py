"""Joins of MPEG transport streams: places where complete streams were concatenated, as with `cat 1.ts 2.ts`.

The counter of packets jumps at a join, which FFmpeg reports like the loss of packets. A loss ends or starts within a
frame; after a join, the tables of the stream and a key frame follow, and the counter of a table jumps as well.

Reference: ISO/IEC 13818-1, sections 2.4.3.2 (packets), 2.4.3.4 (adaptation field).
"""

from __future__ import annotations

import os

from torch_nonlocal.media.broken import Deadline

_SYNC = 0x47
_LAYOUTS = ((188, 0), (192, 4), (204, 0))  # size of a packet, place of its header
_TABLES = 0  # PID of the first table
_DISCONTINUITY, _RANDOM_ACCESS = 0x80, 0x40  # marks of an adaptation field
_AT_A_TIME = 4096  # packets


def count_joins(path: str | os.PathLike[str], pid: int, deadline: Deadline) -> int | None:
    """The number of joins; None if packets are lost or damaged anywhere else.

    Args:
        path: an MPEG-TS or M2TS file.
        pid: the identifier of the packets of the video stream.
        deadline: time limit for reading.

    Raises:
        BrokenVideoError: the time limit is exceeded.
    """
    counters: dict[int, int] = {}
    between: set[int] = set()  # identifiers of packets since the last one of the video
    table_jumps, joins = False, 0
    with open(path, "rb") as file:
        head = file.read(1024)
        file.seek(0)
        size, start = next((one for one in _LAYOUTS if _is_layout(head, *one)), (0, 0))
        while size and (data := file.read(size * _AT_A_TIME)):
            deadline.check()
            for place in range(start, len(data) - size + start + 1, size):
                sync, high, low, flags = data[place : place + 4]
                if sync != _SYNC or high & 0x80:  # transport error
                    return None
                packet, count = (high & 31) << 8 | low, flags & 15
                marks = data[place + 5] if flags & 32 and data[place + 4] else 0
                jumps = False
                if flags & 16:  # has a payload
                    last = counters.get(packet, count)  # packets may be sent twice
                    jumps = count not in (last, last + 1 & 15) and not marks & _DISCONTINUITY
                    counters[packet] = count
                if packet != pid:
                    between.add(packet)
                    table_jumps = table_jumps or jumps
                    continue
                if jumps:
                    starts_key_frame = high & 0x40 and marks & _RANDOM_ACCESS
                    if not (starts_key_frame and table_jumps and _TABLES in between):
                        return None
                    joins += 1
                between, table_jumps = set(), False
    return joins if size else None


def _is_layout(head: bytes, size: int, start: int) -> bool:
    places = range(start, len(head), size)
    return len(places) > 1 and all(head[place] == _SYNC for place in places)
