"""safetensors files, with a checksum of the whole file among the metadata of those that this package writes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from torch_nonlocal._common.optional import require

_CHECKSUM = "torch_nonlocal_sha256"
_UNSIGNED = "0" * 64
_MAX_HEADER = 1 << 24  # bytes; about 150,000 tensors
_LARGEST_HEADER = 100_000_000  # the format's own limit
_CHUNK = 1 << 20


def is_safetensors(head: bytes) -> bool:
    """Whether a file is in safetensors format, from its first bytes."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def read(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        ValueError: the file is truncated, or its checksum differs; the message starts with a verb.
        ImportError: safetensors is not installed.
    """
    count = int.from_bytes(file.read(8), "little")
    if count > min(_MAX_HEADER, size):
        raise ValueError(f"is refused: its header takes {count:,} bytes, of {size:,} in the file")
    with require("safetensors").safe_open(path, framework="pt") as opened:
        metadata = dict(opened.metadata() or {})
        checksum = metadata.pop(_CHECKSUM, None)
        if checksum is not None and checksum != _digest(file, checksum):
            raise ValueError("is damaged: the checksum of the file differs from the one that it holds")
        return {key: opened.get_tensor(key) for key in opened.keys()}, metadata  # noqa: SIM118 (not a dict)


def write(path: Path, tensors: dict[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and metadata, and the checksum."""
    seen: set[int] = set()
    for name, tensor in tensors.items():  # safetensors refuses tensors that share memory, such as two equal networks
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensors = {**tensors, name: tensor.clone()}
        seen.add(address)
    require("safetensors.torch").save_file(tensors, path, metadata={**header, _CHECKSUM: _UNSIGNED})
    with path.open("r+b") as file:
        checksum = _digest(file, _UNSIGNED)
        file.seek(_place(_header(file), _UNSIGNED))
        file.write(checksum.encode())


def _digest(file: BinaryIO, checksum: str) -> str:
    """SHA-256 of a file with zeros instead of its checksum."""
    header = _header(file)
    place = _place(header, checksum)
    digest = hashlib.sha256(header[:place] + _UNSIGNED.encode() + header[place + len(_UNSIGNED) :])
    while data := file.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


def _header(file: BinaryIO) -> bytes:
    """Length and header; the file is left behind it."""
    file.seek(0)
    length = file.read(8)
    return length + file.read(int.from_bytes(length, "little"))


def _place(header: bytes, checksum: str) -> int:
    entry = f'"{_CHECKSUM}":"{checksum}"'.encode()
    if len(checksum) != len(_UNSIGNED) or header.count(entry) != 1:
        raise ValueError("is damaged: its checksum cannot be found in the header")
    return header.index(entry) + len(entry) - 1 - len(_UNSIGNED)
