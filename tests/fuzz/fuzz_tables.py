"""Mutations of the headers of Parquet tables and NumPy arrays, which leave the rest valid."""

import random
import re
import sys
from pathlib import Path
from typing import Any

from fuzz_mutations import BOUNDARIES

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))
from thrift_files import read_footer, read_struct, with_footer, write_struct

_SHAPES = ("(0,)", "()", "(2305843009213693952, 4)", "(999999999999,)", "(4, 4, 4)", "(-1, 4)", "(True, 4)", "('a',)")
_TYPES = ("<f8", "|O", ">f4", "|S9", "<M8[s]", "|V4", "<f2", "|u1", "[('a', '<f4')]", "<U1000000")


def parquet_footer(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or repeat fields of the footer."""
    footer = read_footer(data)
    for _ in range(rng.randint(1, 3)):
        _change(footer, rng)
    return with_footer(data, footer)


def parquet_page(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a page, and insert it in place of the first one."""
    columns = [column for group in read_footer(data)[4][1][1] for column in group[1][1][1]]
    start = rng.choice([(one[3][1].get(11) or one[3][1][9])[1] for one in columns])
    header, end = read_struct(data, start)
    _change(header, rng)
    changed = write_struct(header)
    keeps_length = rng.random() < 0.7
    return data[:start] + (changed[: end - start].ljust(end - start, b"\0") if keeps_length else changed) + data[end:]


def npy_header(data: bytes, rng: random.Random) -> bytes:
    """Change shape, type or order in the header of an array."""
    size = 10 + int.from_bytes(data[8:10], "little")
    text = data[10:size].decode("latin1")
    if rng.random() < 0.5:
        text = re.sub(r"\([^()]*\)", rng.choice(_SHAPES), text)
    elif rng.random() < 0.8:
        text = re.sub(r"'[<>|][^']*'", repr(rng.choice(_TYPES)), text)
    else:
        text = text.replace("False", "True")
    changed = (text.strip() + " " * size)[: size - 11].encode("latin1") + b"\n"
    return data[:10] + changed + data[size:]


def _change(fields: dict[int, tuple[int, Any]], rng: random.Random) -> None:
    holders = _holders(fields)
    holder = rng.choice(holders)
    if isinstance(holder, list):
        place = rng.randrange(len(holder))
        if rng.random() < 0.5:
            holder[place:place] = [holder[place]] * rng.choice((1, 10, 1000))
        else:
            del holder[place]
        return
    number = rng.choice(list(holder))
    kind, value = holder[number]
    if rng.random() < 0.15:
        del holder[number]
    elif isinstance(value, int):
        holder[number] = (kind, rng.choice((*BOUNDARIES, -1, -(2**31), value + 1, value - 1, value * 2)))
    elif isinstance(value, bytes):
        holder[number] = (kind, rng.choice((b"", value * 2, b"x" * 5000, b"\xff\x1b[31m", value[::-1])))
    else:
        holder[rng.randint(1, 15)] = (kind, value)


def _holders(value: Any) -> list[Any]:
    """All structs, and lists that are not empty."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and one:
            found.append(one)
            waiting += [content for _, content in one.values()]
        elif isinstance(one, tuple):
            waiting.append(one[1])
        elif isinstance(one, list) and one:
            found.append(one)
            waiting += one
    return found
