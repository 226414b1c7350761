"""Content of files of torch.save before PyTorch 0.1.10: a tar archive of storages, tensors and a pickle.

"storages" holds the raw memory, "tensors" the views of it, and "pickle" the object, which refers to tensors by number.
"""

import io
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from torch import Tensor

from torch_nonlocal._common.pickles import RefusedError

_BLOCK = 512
_MEMBERS = ("storages", "tensors", "pickle")
_MAX_MEMBERS = 64
_MAX_STORAGES = 100_000

Pickled = Callable[..., Any]
"""Reads a pickle: file, bytes left in it, and a function for persistent ids."""


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar archive."""
    return head[257:262] == b"ustar"


def read_tar(
    file: BinaryIO, size: int, pickled: Pickled, storage: Callable[[Any, bytearray], Any], view: Callable[..., Any]
) -> Any:
    """Read the object of such a file, with stand-ins.

    Args:
        file: binary file.
        size: its bytes.
        pickled: reads a pickle.
        storage: makes a storage of its type and bytes, after checking the type.
        view: makes a tensor of a storage, an offset, a shape and strides, after checking them.

    Raises:
        RefusedError: it asks for something that tensors and plain values do not need.
        ValueError: it is damaged, or another archive; the message starts with a verb.
    """
    members = _members(file, size)
    missing = [name for name in _MEMBERS if name not in members]
    if missing:
        raise ValueError(f"cannot be read as a checkpoint: it is a tar archive without {missing[0]!r}")
    storages = _storages(_Part(file, *members["storages"]), pickled, storage)
    tensors = _tensors(_Part(file, *members["tensors"]), pickled, storages, view)

    def persistent(identifier: Any) -> Any:
        if isinstance(identifier, tuple) and identifier:
            return identifier[0]  # the class of a module, with its source
        return _found(objects, identifier)

    objects = storages | tensors
    part = _Part(file, *members["pickle"])
    return pickled(part.file, part.left, persistent)


class _Part:
    """A member of the archive in memory."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        file.seek(start)
        self._size = size
        self.file = io.BytesIO(file.read(size))

    @property
    def left(self) -> int:
        return self._size - self.file.tell()

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError("is damaged or truncated: a storage ends behind the file")
        return self.file.read(count)

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count))


def _members(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Start and size of the members by name."""
    members: dict[str, tuple[int, int]] = {}
    at = 0
    for _ in range(_MAX_MEMBERS):
        file.seek(at)
        header = file.read(_BLOCK)
        if len(header) < _BLOCK or not header.strip(b"\0"):
            return members
        try:
            length = int(header[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            raise ValueError("is damaged: a header of the tar archive has no size") from None
        start = at + _BLOCK
        if not 0 <= length <= size - start:
            raise ValueError("is damaged or truncated: a member of the tar archive ends behind the file")
        if header[156:157] in (b"0", b"\0"):
            name = header[:100].partition(b"\0")[0].decode("latin-1").removeprefix("./")
            members.setdefault(name, (start, length))
        at = start + -(-length // _BLOCK) * _BLOCK
    return members


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MAX_STORAGES:
        raise RefusedError("it has a number of storages that torch.save does not write")
    return value


def _entry(value: Any) -> tuple[Any, Any, Any]:
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(value[0], int):
        raise RefusedError("it refers to data in a form that torch.save does not write")
    return value


def _found(objects: dict[int, Any], key: Any) -> Any:
    try:
        return objects[int(key)]
    except (KeyError, TypeError, ValueError):
        raise RefusedError("it refers to data that it does not hold") from None


def _storages(part: _Part, pickled: Pickled, storage: Callable[[Any, bytearray], Any]) -> dict[int, Any]:
    storages: dict[int, Any] = {}
    for _ in range(_count(pickled(part.file, part.left))):
        key, _, kind = _entry(pickled(part.file, part.left))
        (values,) = part.numbers(1)
        storages[key] = storage(kind, bytearray(part.take(values * getattr(kind, "itemsize", 0))))
    if pickled(part.file, part.left):
        raise RefusedError("it has a view of a storage")
    return storages


def _tensors(part: _Part, pickled: Pickled, storages: dict[int, Any], view: Callable[..., Any]) -> dict[int, Tensor]:
    tensors: dict[int, Tensor] = {}
    for _ in range(_count(pickled(part.file, part.left))):
        key, root, _ = _entry(pickled(part.file, part.left))
        axes = struct.unpack("<i", part.take(4))[0]
        part.take(4)  # the number of axes takes eight bytes
        if not 0 <= axes <= 32:
            raise RefusedError("it has a tensor in a form that torch.save does not write")
        shape, strides = part.numbers(axes), part.numbers(axes)
        (offset,) = part.numbers(1)
        tensors[key] = view(_found(storages, root), offset, shape, strides)
    return tensors
