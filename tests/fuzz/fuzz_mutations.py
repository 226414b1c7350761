"""Mutations of files by a seeded random generator: of bytes, and of the structure of a format (`fuzz_formats`)."""

import random
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

BOUNDARIES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
_LARGEST_FILE = 2**22


def integer(rng: random.Random, width: int) -> bytes:
    """A number at the boundary of some type, in either byte order."""
    value = rng.choice([*BOUNDARIES, *(2 ** (8 * width) - 1 - one for one in (0, 1, 15))]) % 2 ** (8 * width)
    return value.to_bytes(width, rng.choice(("little", "big")))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Flip one to eight bits anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_bits_of_the_start(data: bytes, rng: random.Random) -> bytes:
    """Flip bits in the first 256 bytes, where headers are."""
    return flip_bits(data[:256], rng) + data[256:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """Overwrite up to 64 bytes by one value, or by random ones."""
    start, length = rng.randrange(len(data)), rng.randint(1, 64)
    new = bytes([rng.choice((0, 255, 127, 128, 10, 32))]) * length if rng.random() < 0.5 else rng.randbytes(length)
    return data[:start] + new[: len(data) - start] + data[start + length :]


def overwrite_integer(data: bytes, rng: random.Random) -> bytes:
    """Overwrite 1, 2, 4 or 8 bytes by a number at the boundary of a type."""
    new = integer(rng, rng.choice((1, 2, 4, 8)))
    start = rng.randrange(max(1, len(data) - len(new)))
    return data[:start] + new + data[start + len(new) :]


def edit_length(data: bytes, rng: random.Random) -> bytes:
    """Change a number that may be a length or an offset: a small one in four or eight bytes."""
    for _ in range(50):
        width, order = rng.choice((4, 8)), rng.choice(("little", "big"))
        start = rng.randrange(max(1, len(data) - width))
        value = int.from_bytes(data[start : start + width], order)
        if 0 < value <= 2 * len(data):
            other = rng.choice(
                (value - 1, value + 1, value * 2, value + len(data), value << 16, rng.choice(BOUNDARIES))
            )
            return data[:start] + (other % 2 ** (8 * width)).to_bytes(width, order) + data[start + width :]
    return overwrite_integer(data, rng)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off, often near the end."""
    keep = rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, min(64, len(data)))))
    return data[:keep]


def append(data: bytes, rng: random.Random) -> bytes:
    """Add bytes at the end."""
    return data + (rng.randbytes(rng.randint(1, 256)) if rng.random() < 0.5 else bytes(rng.randint(1, 4096)))


def delete(data: bytes, rng: random.Random) -> bytes:
    """Remove a part."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, max(1, len(data) // 8)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Insert a part of the file somewhere else, once or many times."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    part = data[start : start + rng.randint(1, max(1, len(data) // 8))]
    return data[:at] + part * rng.choice((1, 1, 1, 2, 16)) + data[at:]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Exchange two neighboring parts."""
    first, middle, last = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[middle:last] + data[first:middle] + data[last:]


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The start of one file and the end of another."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


OF_BYTES: tuple[Mutation, ...] = (
    flip_bits, flip_bits_of_the_start, overwrite, overwrite_integer, edit_length, truncate, append, delete, repeat,
    swap,
)  # fmt: skip


def mutate(
    data: bytes, structural: tuple[Mutation, ...], others: list[bytes], rng: random.Random
) -> tuple[bytes, list[str]]:
    """Apply one to three mutations.

    Args:
        data: the file; it must not be empty.
        structural: mutations of the file's format; half of all mutations are of these.
        others: files to splice with.
        rng: decides everything.

    Returns:
        The new content and the names of the mutations. The content differs from `data`.
    """
    names: list[str] = []
    changed = data
    while changed == data or rng.random() < 0.4:
        draw = rng.random()
        if structural and draw < 0.5:
            mutation = rng.choice(structural)
            try:
                result = mutation(changed, rng)
            except Exception:  # an earlier mutation broke the structure; parsers raise anything
                continue
        elif draw < 0.55 and others:
            mutation, result = splice, splice(changed, rng.choice(others), rng)
        else:
            mutation = rng.choice(OF_BYTES)
            result = mutation(changed, rng)
        changed = result[:_LARGEST_FILE] or b"\0"
        names.append(mutation.__name__)
        if len(names) >= 20:  # a file that no mutation changes
            break
    return changed, names
