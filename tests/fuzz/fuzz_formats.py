"""Mutations that keep a format valid in part: zip, pickle, safetensors, JSON, lists, MP4, RIFF, PNG, Parquet, npy."""

import io
import itertools
import json
import pickletools
import random
import struct
import warnings
import zipfile
import zlib
from typing import Any

from fuzz_mutations import BOUNDARIES, OF_BYTES, Mutation, integer
from fuzz_tables import npy_header, parquet_footer, parquet_page

_FOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"dinf"}
_RAW = "\ue000{}\ue000"  # a JSON text that is replaced by a value that json.dumps does not write
_NUMBERS = ("1e999", "-1e999", "NaN", "-Infinity", "9" * 400, "-0", "1e-999", "0.1", "true", "null")
_EVIL_TEXTS = (
    "", " ", "../../../etc/passwd", "/etc/passwd", "/dev/zero", "a\0b", "=1+1", "@SUM(A1)", "\x1b[31mred\x1b[0m",
    "\r\n", "\u202egpj.exe", "\ud800", "x" * 5000, "*" * 40, "(a+)+$", "file.py:function", "hf_hub:a/b", "__class__",
    "0", "-1", "1e999", "NaN", "{}", "[]", "</script><script>", "%s%n", "é\u0301",
)  # fmt: skip
_GLOBALS = (
    b"posix\nsystem", b"builtins\neval", b"builtins\nexec", b"os\nmkdir", b"functools\npartial", b"builtins\ngetattr",
    b"collections\nOrderedDict", b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_sparse_tensor",
    b"torch._utils\n_rebuild_qtensor", b"torch._utils\n_rebuild_meta_tensor_no_storage", b"torch\nFloatStorage",
    b"torch\nComplexFloatStorage", b"torch.storage\nUntypedStorage", b"torch\nSize", b"torch\ndevice",
    b"numpy.core.multiarray\n_reconstruct", b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode", b"builtins\nset",
    b"builtins\nbytearray", b"torch._tensor\n_rebuild_from_type_v2", b"torch.nn.parameter\nParameter",
)  # fmt: skip
_SNIPPETS = (
    b"2", b"0", b"1", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"R", b"b", b"s", b"u", b"a", b"e", b".", b"N",
    b"h\x00", b"h\x01", b"q\x00", b"\x94", b"K\xff", b"Q", b"\x81", b"\x8f", b"\x90", b"\x93",
)  # fmt: skip


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """A mutation of bytes, for a part of a file."""
    return rng.choice(OF_BYTES)(data or b"\0", rng)


# --- zip archives: files of torch.save ---


def zip_records(data: bytes, rng: random.Random) -> bytes:
    """Write the archive anew with one record changed, removed, repeated, renamed, exchanged, emptied or inflated."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    index = rng.randrange(len(records))
    name, content = records[index]
    action = rng.choice(("change", "remove", "repeat", "rename", "exchange", "empty", "inflate", "grow"))
    if action == "change":
        records[index] = (name, any_bytes(content, rng))
    elif action == "remove":
        del records[index]
    elif action == "repeat":
        records.insert(rng.randrange(len(records)), (name, any_bytes(content, rng)))
    elif action == "rename":
        records[index] = (rng.choice(("data.pkl", "archive/data.pkl", "../../up", "/abs", name + "x", "")), content)
    elif action == "exchange":
        other = rng.randrange(len(records))
        records[index], records[other] = (name, records[other][1]), (records[other][0], content)
    elif action == "empty":
        records[index] = (name, b"")
    elif action == "inflate":
        records[index] = (name, bytes(2**26))  # 64 MB of zeros in 64 KB
    else:
        records[index] = (name, content + bytes(rng.randint(1, 4096)))
    kind = zipfile.ZIP_DEFLATED if action == "inflate" or rng.random() < 0.2 else zipfile.ZIP_STORED
    return _zip(records, kind)


def zip_pickle(data: bytes, rng: random.Random) -> bytes:
    """Change the pickle in the archive, with a valid checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    return _zip(
        [(n, pickle_operations(c, rng) if n.endswith("data.pkl") else c) for n, c in records], zipfile.ZIP_STORED
    )


def zip_directory(data: bytes, rng: random.Random) -> bytes:
    """Change a number of the archive's directory: a size, an offset, a checksum or a count."""
    start = data.rindex(b"PK\x01\x02") if rng.random() < 0.7 else data.rindex(b"PK\x05\x06")
    at = start + rng.randrange(4, 42)
    new = integer(rng, rng.choice((2, 4)))
    return data[:at] + new + data[at + len(new) :]


def _zip(records: list[tuple[str, bytes]], kind: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in records:
            info = zipfile.ZipInfo(name or "empty")
            info.compress_type = kind
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # names repeat on purpose
                archive.writestr(info, content)
    return out.getvalue()


# --- pickles ---


def pickle_operations(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, exchange or insert operations, or change an argument."""
    places = [place for _, _, place in pickletools.genops(data) if place is not None] + [len(data)]
    parts = [data[first:last] for first, last in itertools.pairwise(places)] + [data[places[-1] :]]
    for _ in range(rng.randint(1, 3)):
        index = rng.randrange(len(parts))
        action = rng.choice(("remove", "repeat", "exchange", "insert", "argument", "argument", "argument", "name"))
        if action == "remove":
            parts[index] = b""
        elif action == "repeat":
            parts.insert(index, parts[index])
        elif action == "exchange":
            other = rng.randrange(len(parts))
            parts[index], parts[other] = parts[other], parts[index]
        elif action == "insert":
            parts.insert(index, rng.choice(_SNIPPETS))
        elif action == "name":
            names = [i for i, part in enumerate(parts) if part[:1] == b"c"] or [index]
            parts[rng.choice(names)] = b"c" + rng.choice(_GLOBALS) + b"\n"
        else:
            parts[index] = _argument(parts[index], rng)
    return b"".join(parts)


def _argument(part: bytes, rng: random.Random) -> bytes:
    code = part[:1]
    if code in (b"K", b"M", b"J", b"\x8a", b"I", b"L"):
        value = rng.choice((*BOUNDARIES, -1, -(2**31), 2**62))
        width = max(1, (value.bit_length() + 8) // 8)
        return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)
    if code in (b"X", b"U", b"T", b"\x8c"):
        text = rng.choice(_EVIL_TEXTS).encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if code == b"G":
        return b"G" + struct.pack(">d", rng.choice((float("inf"), float("nan"), -1.0, 1e300, 0.0)))
    if code == b"\x89":
        return b"\x88"
    return any_bytes(part, rng) if part else part


# --- safetensors ---


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """Change the header's JSON, mostly with a correct length."""
    length = int.from_bytes(data[:8], "little")
    header = json_values(data[8 : 8 + length], rng)
    stated = len(header) if rng.random() < 0.9 else rng.choice(BOUNDARIES)
    return stated.to_bytes(8, "little") + header + data[8 + length :]


def safetensors_length(data: bytes, rng: random.Random) -> bytes:
    """Change the length of the header."""
    return integer(rng, 8) + data[8:]


# --- JSON ---


def json_values(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or repeat a value at any depth; values include deep nesting, huge numbers and wrong types."""
    content = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        holders = [one for one in _holders(content) if one]
        if not holders:
            break
        holder = rng.choice(holders)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        action = rng.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.3 and isinstance(holder, dict):
            holder[rng.choice((*_EVIL_TEXTS, *map(str, holder)))] = holder[key]
        elif action < 0.4 and isinstance(holder, list):
            holder.extend([holder[key]] * rng.choice((1, 10, 1000)))
        else:
            holder[key] = _value(holder[key], rng)
    return _dumped(content)


def _holders(value: Any) -> list[Any]:
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            found.append(one)
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return found


def _value(old: Any, rng: random.Random) -> Any:
    draw = rng.random()
    if draw < 0.3:
        return _RAW.format(rng.choice(_NUMBERS))
    if draw < 0.5:
        return rng.choice((*BOUNDARIES, -1, -(2**63)))
    if draw < 0.75:
        return rng.choice(_EVIL_TEXTS)
    if draw < 0.8:
        return _RAW.format("[" * 20_000 + "]" * 20_000)
    return rng.choice(([], {}, [old], {"a": old}, [old] * 50, None, True, [[], {}], str(old)))


def _dumped(content: Any) -> bytes:
    text = json.dumps(content)
    quoted = json.dumps(_RAW.format("|")).split("|")
    for number in (*_NUMBERS, "[" * 20_000 + "]" * 20_000):
        text = text.replace(number.join(quoted), number)
    return text.encode("utf-8", "surrogatepass")


# --- lists of clips ---


def list_cells(data: bytes, rng: random.Random) -> bytes:
    """Change a cell of a table."""
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    mark = next((mark for mark in (b",", b"\t", b";", b" ") if mark in lines[index]), b",")
    cells = lines[index].split(mark)
    cells[rng.randrange(len(cells))] = rng.choice(
        [*(text.encode("utf-8", "surrogatepass") for text in _EVIL_TEXTS), b"\xff\xfe", b'"', b'"' * 3, b"9" * 400]
    )
    lines[index] = mark.join(cells)
    return b"\n".join(lines)


def list_lines(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, exchange or join lines, change their ends, or add a cell."""
    lines = data.split(b"\n")
    index, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    action = rng.choice(("remove", "repeat", "exchange", "join", "ends", "cell", "long", "bom"))
    if action == "remove":
        del lines[index]
    elif action == "repeat":
        lines[index:index] = [lines[index]] * rng.choice((1, 2, 20_000))
    elif action == "exchange":
        lines[index], lines[other] = lines[other], lines[index]
    elif action == "join":
        lines[index : index + 2] = [b" ".join(lines[index : index + 2])]
    elif action == "ends":
        return rng.choice((b"\r\n", b"\r", b"\n\n", b"\x00", b"\x0b")).join(lines)
    elif action == "cell":
        lines[index] += rng.choice((b",1", b" 1", b"\t1", b",,,,", b'"'))
    elif action == "long":
        lines[index] *= 100_000 // max(1, len(lines[index]))
    else:
        lines[0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x1a")) + lines[0]
    return b"\n".join(lines)


# --- containers of video and images ---


def mp4_boxes(data: bytes, rng: random.Random) -> bytes:
    """Change the size or type of a box, remove, repeat or exchange boxes, or change a number at the start of one."""
    boxes = _boxes(data, 0, len(data))
    start, size = rng.choice(boxes)
    action = rng.choice(("size", "type", "remove", "repeat", "exchange", "number", "number", "number", "content"))
    if action == "size":
        return data[:start] + integer(rng, 4) + data[start + 4 :]
    if action == "type":
        other = rng.choice(boxes)[0]
        return data[: start + 4] + data[other + 4 : other + 8] + data[start + 8 :]
    if action == "remove":
        return data[:start] + data[start + size :]
    if action == "repeat":
        return data[:start] + data[start : start + size] * 2 + data[start + size :]
    if action == "exchange":
        other, other_size = rng.choice(boxes)
        first, last = sorted(((start, size), (other, other_size)))
        if first[0] + first[1] > last[0]:
            return data[:start] + data[start + size :]  # one box lies inside the other
        one, two = data[first[0] : sum(first)], data[last[0] : sum(last)]
        return data[: first[0]] + two + data[sum(first) : last[0]] + one + data[sum(last) :]
    leaves = [box for box in boxes if data[box[0] + 4 : box[0] + 8] not in _FOLDERS | {b"mdat"} and box[1] > 12]
    start, size = rng.choice(leaves)
    if action == "number":
        at = start + 8 + 4 * rng.randrange(min(size - 8, 64) // 4)
        return data[:at] + integer(rng, 4) + data[at + 4 :]
    content = any_bytes(data[start + 8 : start + size], rng)[: size - 8].ljust(size - 8, b"\0")
    return data[: start + 8] + content + data[start + size :]


def _boxes(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    found = []
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if not 8 <= size <= end - start:
            break
        found.append((start, size))
        if data[start + 4 : start + 8] in _FOLDERS:
            found += _boxes(data, start + 8, start + size)
        start += size
    return found


def riff_chunks(data: bytes, rng: random.Random) -> bytes:
    """Change the length or a number of a chunk of an AVI file's headers."""
    at = rng.randrange(12, max(13, min(len(data), 2048)) - 8) & ~3
    return data[:at] + integer(rng, 4) + data[at + 4 :]


def png_chunks(data: bytes, rng: random.Random) -> bytes:
    """Change a number or the content of a chunk and repair its checksum, or remove or repeat chunks."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    index = rng.randrange(len(chunks))
    action = rng.choice(("number", "number", "content", "remove", "repeat", "size"))
    kind, content = chunks[index]
    if action == "remove":
        del chunks[index]
    elif action == "repeat":
        chunks.insert(index, chunks[index])
    elif action == "size" and chunks[0][0] == b"IHDR":
        size = struct.pack(">II", rng.choice(BOUNDARIES) % 2**32, rng.choice(BOUNDARIES) % 2**32)
        chunks[0] = (b"IHDR", size + chunks[0][1][8:])
    elif action == "number" and len(content) >= 4:
        place = rng.randrange(len(content) - 3)
        chunks[index] = (kind, content[:place] + integer(rng, 4) + content[place + 4 :])
    else:
        chunks[index] = (kind, any_bytes(content, rng))
    parts = [data[:8]]
    for kind, content in chunks:
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(parts)


OF_FORMATS: dict[str, tuple[Mutation, ...]] = {
    "zip": (zip_records, zip_pickle, zip_pickle, zip_directory),
    "pickle": (pickle_operations,),
    "safetensors": (safetensors_header, safetensors_header, safetensors_length),
    "json": (json_values,),
    "list": (list_cells, list_lines),
    "mp4": (mp4_boxes,),
    "riff": (riff_chunks,),
    "png": (png_chunks,),
    "parquet": (parquet_footer, parquet_page),
    "npy": (npy_header,),
    "bytes": (),
}
