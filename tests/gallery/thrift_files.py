"""The compact protocol of Thrift, in which Parquet writes its headers: for tests that change them."""

import struct

TRUE, FALSE, BINARY, LIST, STRUCT = 1, 2, 8, 9, 12
_INTEGERS = (4, 5, 6)


def read_struct(data, place):
    """Fields of a struct as {number: (type, value)}, and where it ends."""
    fields, number = {}, 0
    while True:
        head = data[place]
        place += 1
        if head == 0:
            return fields, place
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_integer(data, place)
        fields[number] = (kind, None)
        if kind in (TRUE, FALSE):
            continue
        value, place = _read_value(kind, data, place)
        fields[number] = (kind, value)


def write_struct(fields):
    """The bytes of a struct as `read_struct` returns it."""
    parts, last = [], 0
    for number, (kind, value) in sorted(fields.items()):
        parts.append(bytes([(number - last) << 4 | kind]))
        last = number
        if kind not in (TRUE, FALSE):
            parts.append(_write_value(kind, value))
    return b"".join(parts) + b"\0"


def _read_value(kind, data, place):
    if kind in _INTEGERS:
        return _read_integer(data, place)
    if kind == 3:
        return data[place], place + 1
    if kind == 7:
        return struct.unpack_from("<d", data, place)[0], place + 8
    if kind == BINARY:
        size, place = _read_size(data, place)
        return data[place : place + size], place + size
    if kind == STRUCT:
        return read_struct(data, place)
    assert kind == LIST, kind
    head, place = data[place], place + 1
    count = head >> 4
    if count == 15:
        count, place = _read_size(data, place)
    values = []
    for _ in range(count):
        value, place = _read_value(head & 15, data, place)
        values.append(value)
    return (head & 15, values), place


def _write_value(kind, value):
    if kind in _INTEGERS:
        return _write_size(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == 3:
        return bytes([value])
    if kind == 7:
        return struct.pack("<d", value)
    if kind == BINARY:
        return _write_size(len(value)) + value
    if kind == STRUCT:
        return write_struct(value)
    of, values = value
    head = bytes([min(len(values), 15) << 4 | of]) + (_write_size(len(values)) if len(values) > 14 else b"")
    return head + b"".join(_write_value(of, one) for one in values)


def _read_size(data, place):
    value = shift = 0
    while True:
        value |= (data[place] & 127) << shift
        shift += 7
        place += 1
        if data[place - 1] < 128:
            return value, place


def _read_integer(data, place):
    value, place = _read_size(data, place)
    return (value >> 1) ^ -(value & 1), place


def _write_size(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def read_footer(data):
    """The fields of the footer of a Parquet file."""
    size = int.from_bytes(data[-8:-4], "little")
    return read_struct(data, len(data) - 8 - size)[0]


def with_footer(data, fields):
    """A Parquet file with another footer."""
    size = int.from_bytes(data[-8:-4], "little")
    footer = write_struct(fields)
    return data[: len(data) - 8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
