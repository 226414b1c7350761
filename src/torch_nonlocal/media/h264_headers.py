"""Whether an H.264 stream can hold single fields of interlaced frames, from its sequence parameter sets.

A frame coded as two fields takes two packets. Streams whose parameter sets allow whole frames only have one packet a
frame.

Reference: ITU-T H.264, section 7.3.2.1 (sequence parameter set); ISO/IEC 14496-15, section 5.3.3 (MP4's form of it).
"""

from __future__ import annotations

_SEQUENCE = 7  # type of a NAL unit
_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})  # profiles
_MOST_BYTES = 2**16


def may_hold_fields(extradata: bytes | None) -> bool:
    """Whether frames may be coded as two fields; True also if the parameter sets are missing or damaged.

    Args:
        extradata: the decoder's configuration, in the form of MP4 or as NAL units with start codes.
    """
    try:
        sets = _sequence_sets((extradata or b"")[:_MOST_BYTES])
        return not sets or not all(_is_frames_only(data) for data in sets)
    except (IndexError, ValueError):
        return True


def _sequence_sets(extradata: bytes) -> list[bytes]:
    if extradata[0] != 1:
        units = extradata.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
        return [unit for unit in units if unit and unit[0] & 31 == _SEQUENCE]
    sets, place = [], 6
    for _ in range(extradata[5] & 31):
        size = int.from_bytes(extradata[place : place + 2])
        sets.append(extradata[place + 2 : place + 2 + size])
        place += 2 + size
    return sets


def _is_frames_only(unit: bytes) -> bool:
    """The flag frame_mbs_only_flag."""
    bits = _Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
    profile = bits.number(8)
    bits.number(16)  # constraints and level
    bits.golomb()  # identifier
    if profile in _WITH_CHROMA_FORMAT:
        chroma_format = bits.golomb()
        if chroma_format == 3:
            bits.number(1)  # separate planes
        bits.golomb()  # bit depths
        bits.golomb()
        bits.number(1)
        if bits.number(1):
            for index in range(12 if chroma_format == 3 else 8):
                if bits.number(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.golomb()  # log2 of the largest frame number
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.number(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.number(1)
    bits.golomb()  # width and height in macroblocks
    bits.golomb()
    return bits.number(1) == 1


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


class _Bits:
    """Reads bits from the most significant one on; an IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + (self._data[self._place // 8] >> (7 - self._place % 8) & 1)
            self._place += 1
        return value

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code."""
        zeros = 0
        while not self.number(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a code has more than 32 leading zeros")
        return 2**zeros - 1 + self.number(zeros)
