"""Every guarded read and every write of tensors: the only module that opens such a file.

The container is detected by content, not by suffix: safetensors, torch.save (zip or legacy), or a pickle of NumPy
arrays such as those of Caffe2. Nothing in a file is executed.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from torch_nonlocal._common import files
from torch_nonlocal._common.file_kinds import describe
from torch_nonlocal._common.optional import require
from torch_nonlocal._common.pickles import STAND_INS, NumpyArray, RefusedError, plain, read_pickle
from torch_nonlocal._common.text import listed

Container = Literal["safetensors", "torch.save", "pickle"]

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "blobs", "tensors")
_MAX_DEPTH = 4  # of wrappers in wrappers; a hostile file can hold itself
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch.save before 1.6
_ZIP = b"PK\x03\x04"
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the format's own limit
_OUR_FORMAT = re.compile(r"torch-nonlocal (.+) \d+")
_safe_globals_lock = threading.Lock()


@dataclass(frozen=True)
class WeightsFile:
    """Content of a weights file.

    Attributes:
        path: the file.
        container: "safetensors", "torch.save" or "pickle".
        kind: "weights" (best.pt), "training state" (last.pt), "blocks" (`nl.save_blocks`) or "network"
            (`nonlocal convert`) for files of this package; "state dict" for any other.
        tensors: tensors by name, on the CPU, without the prefixes "module." and "_orig_mod.".
        facts: everything else in the file by key, such as epoch, metrics, config or optimizer state. For a safetensors
            file, its metadata.
    """

    path: Path
    container: Container
    kind: str
    tensors: dict[str, Tensor] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names that the weights were trained on, if the file holds them."""
        about = self.facts.get("about")
        names = about.get("classes") if isinstance(about, dict) else None
        return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def read_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """Read the tensors of a weights file by name. Nothing in the file is executed.

    Reads safetensors under any name, files of `torch.save`, and pickles of NumPy arrays (Caffe2). The weights can be in
    a larger dictionary, under "state_dict", "model_state_dict", "model_state", "model" or "blobs", also nested, with
    other values beside them. NumPy arrays count as weights only where there are no tensors.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, of another kind, holds no tensors by name, or asks for code to be
            executed. The message says which.
        ImportError: the file is in safetensors format and safetensors is not installed.
    """
    path = Path(path)
    container, content, metadata = _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    try:
        tensors, facts = _unwrapped(content) or ({}, {})
        facts = {**plain(facts), **metadata}
    except RefusedError as error:
        raise ValueError(f"{path} {_refused(error)}") from error
    if not tensors:
        keys = listed(map(str, content)) or "nothing"
        raise ValueError(f"{path} holds no tensors by name; its keys: {keys}")
    ours = _OUR_FORMAT.fullmatch(str(facts.get("format")))
    return WeightsFile(path, container, ours[1] if ours else "state dict", _without_prefixes(path, tensors), facts)


def read_content(path: str | os.PathLike[str]) -> Any:
    """Read the content of a tensor file as stored: for formats that hold more than weights. Nothing is executed.

    Returns:
        The object that was saved, tensors on the CPU, NumPy scalars as numbers and NumPy arrays as tensors; the
        tensors by name of a safetensors file.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `read_weights`.
    """
    path = Path(path)
    content = _load(path)[1]
    try:
        return plain(content)
    except RefusedError as error:
        raise ValueError(f"{path} {_refused(error)}") from error


def write_content(path: Path, content: Any) -> None:
    """Write a file of `torch.save` atomically.

    Raises:
        OSError: the disk is full or the file cannot be written; an existing file at `path` is intact.
    """
    files.write_bytes(path, lambda file: torch.save(content, file))


def write_tensors(path: Path, tensors: dict[str, Tensor], header: Mapping[str, str], *, key: str) -> None:
    """Write tensors and a header of texts atomically.

    Args:
        path: with the suffix .safetensors, the header becomes the file's metadata; with any other, the file is a
            `torch.save` dictionary of the header and the tensors.
        tensors: by name, contiguous.
        header: texts by name.
        key: key of the tensors in the dictionary.

    Raises:
        ValueError: the folder does not exist, or `path` is a folder.
        OSError: the file cannot be written.
        ImportError: safetensors is needed and not installed.
    """
    if path.suffix == ".safetensors":
        safetensors = require("safetensors.torch")
        with files.replacing(path) as temporary:
            safetensors.save_file(tensors, temporary, metadata=dict(header))
    else:
        write_content(path, {**header, key: tensors})


def _load(path: Path) -> tuple[Container, Any, dict[str, str]]:
    """Container, content with NumPy stand-ins, and safetensors metadata."""
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        hint = f", such as {best}" if best.exists() else ""
        raise ValueError(f"{path} is a folder; expected a weights file{hint}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path} is empty")
    if head.startswith(_ZIP) and (kind := describe(path, head)):
        raise ValueError(f"{path} cannot be read as a checkpoint: it is {kind}")
    try:
        if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER:
            return "safetensors", *_load_safetensors(path)
        if head.startswith((_ZIP, _TORCH_LEGACY)):
            return "torch.save", _load_torch(path), {}
        with path.open("rb") as file:
            return "pickle", read_pickle(file), {}
    except ImportError:
        raise
    except RefusedError as error:
        raise ValueError(f"{path} {_refused(error)}") from error
    except Exception as error:  # a broken or hostile file can cause any error; the message names the file
        advises = "weights_only" in str(error)  # torch's messages advise to trust the file
        raise ValueError(f"{path} {_problem(path, head, str(error))}") from (None if advises else error)


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with require("safetensors").safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)


def _load_torch(path: Path) -> Any:
    with _numpy_stand_ins(), path.open("rb") as file:  # given a path, torch.load also considers the suffix
        return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def _numpy_stand_ins() -> Iterator[None]:
    """Let torch's restricted unpickler map NumPy's names to stand-ins, even if the process allows NumPy itself."""
    with _safe_globals_lock:
        before = get_safe_globals()
        others = [entry for entry in before if _full_name(entry) not in STAND_INS]
        try:
            clear_safe_globals()
            add_safe_globals([*others, *((stand_in, name) for name, stand_in in STAND_INS.items())])
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(before)


def _full_name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def _refused(error: RefusedError) -> str:
    return f"is refused; nothing in it was executed: {files.printable(str(error))}"


def _problem(path: Path, head: bytes, message: str) -> str:
    """What is wrong with a file that no reader accepts, without torch's advice to trust the file."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named:
        return (
            f"is refused; nothing in it was executed: it asks for {files.printable(named[1])}, "
            "which tensors do not need. Files of torch.save(model.state_dict(), path) can be read"
        )
    kind = describe(path, head)
    if kind:
        return f"cannot be read as a checkpoint: it is {kind}"
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", message)
    first_line = (detail[1] if detail else message).strip().partition("\n")[0]
    reason = f" ({files.printable(first_line)})" if first_line and "weights_only" not in first_line else ""
    return f"cannot be read as a checkpoint: it is truncated, damaged or of another kind{reason}"


def _unwrapped(content: dict[Any, Any], depth: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors by name and everything beside them, from the innermost wrapper that has tensors; None if none has."""
    if depth < _MAX_DEPTH:
        for key in _WRAPPERS:
            inner = content.get(key)
            if isinstance(inner, dict) and (found := _unwrapped(inner, depth + 1)):
                tensors, facts = found
                return tensors, {**facts, **{str(name): one for name, one in content.items() if name != key}}
    names = [key for key, value in content.items() if isinstance(value, Tensor)]
    if not names:
        names = [key for key, value in content.items() if isinstance(value, NumpyArray) and not value.is_scalar]
    if not names:
        return None
    tensors = {str(key): plain(content[key]).detach() for key in names}
    chosen = set(names)
    return tensors, {str(key): value for key, value in content.items() if key not in chosen}


def _without_prefixes(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the network itself: without the prefixes of data-parallel and compiled modules."""
    bare: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = re.sub(r"(?<![^.])_orig_mod\.", "", key)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in bare:
            raise ValueError(f"{path} holds {name!r} twice, with and without a prefix")
        bare[name] = tensor
    return bare
