"""Every guarded read and every write of tensors: the only module that opens such a file.

The container is detected by content, not by suffix: safetensors, torch.save (zip or legacy), or a pickle of NumPy
arrays such as those of Caffe2. Nothing in a file is executed, reading costs no more than the file holds, and damage is
found: zip containers by their checksums, files of this package by a checksum of the whole file.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from torch_nonlocal._common import files, safetensors_files
from torch_nonlocal._common.best_weights import bare_name, unwrapped
from torch_nonlocal._common.file_kinds import describe, describe_records
from torch_nonlocal._common.foreign_objects import without_notes
from torch_nonlocal._common.guarded import open_guarded
from torch_nonlocal._common.numpy_values import NumpyArray, plain
from torch_nonlocal._common.pickles import RefusedError, check_contents
from torch_nonlocal._common.tar_files import is_tar
from torch_nonlocal._common.text import listed, near_path
from torch_nonlocal._common.torch_files import LEGACY_MAGIC, Unsupported, read_legacy, read_plain, read_tar, read_zip
from torch_nonlocal._common.zip_records import SignedWriter, ZipRecords

Container = Literal["safetensors", "torch.save", "pickle"]

_ZIP = b"PK\x03\x04"
_OUR_FORMAT = re.compile(r"torch-nonlocal (.+) \d+")
_OUR_ENTRIES = {"format", "plan", "call", "architecture"}
_EXPECTED = "a weights file"
_MAX_TENSORS = 20_000
_MAX_NAME = 256  # characters
_MAX_SHARING = 1 << 26  # bytes by which tensors that share memory can exceed twice the file
_LONGEST = 800  # characters of a message


@dataclass(frozen=True)
class WeightsFile:
    """Content of a weights file.

    Attributes:
        path: the file.
        container: "safetensors", "torch.save" or "pickle".
        kind: "weights" (best.pt), "training state" (last.pt), "blocks" (`nl.save_blocks`) or "network"
            (`nonlocal convert`) for files of this package; "state dict" for any other.
        tensors: tensors by name, on the CPU, without the prefix "module." and the segments of other wrappers
            ("_orig_mod."); names in a file of blocks are unchanged.
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

    Reads safetensors under any name, files of `torch.save` of any age, and pickles of NumPy arrays (Caffe2). The
    weights can be in a larger dictionary, also nested, with other values beside them: under a usual key such as
    "state_dict", "model", "net" or "weights", where averages ("ema_state_dict") are the last choice; under any other
    key; or as several networks, whose keys become prefixes. NumPy arrays count as weights only where there are no
    tensors. A whole network counts as its state dict; class names and plain attributes of its modules are in
    `facts["modules"]`. Other objects, such as `argparse.Namespace`, become plain values in `facts`.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, damaged, of another kind, holds no tensors by name, calls a function,
            or holds a tensor with NaN, infinite or complex values, or a sparse, quantized, nested or meta tensor. The
            message says which, and names the tensor.
        ImportError: the file is in safetensors format and safetensors is not installed.
    """
    path = Path(path)
    container, content, metadata = _load(path)
    if not isinstance(content, dict):
        raise _error(path, f"holds a {type(content).__name__}, expected tensors by name")
    try:
        tensors, facts = unwrapped(content) or ({}, {})
        if not tensors:
            keys = listed(str(key)[:_MAX_NAME] for key in content) or "nothing"
            raise _error(path, f"holds no tensors by name; its keys: {keys}")
        facts = {**plain(facts), **metadata}
        found = facts.get("format")
        ours = _OUR_FORMAT.fullmatch(found) if isinstance(found, str) else None
        _check_names(tensors)
        _check_size(tensors.values(), path.stat().st_size)
        if ours is None or ours[1] != "blocks":  # names in block files are exact: a network may have a child `module`
            tensors = _without_prefixes(path, tensors)
            if isinstance(modules := facts.get("modules"), dict):
                facts["modules"] = {bare_name(f"{name}.")[:-1]: notes for name, notes in modules.items()}
        for name, tensor in tensors.items():
            _check_values(name, tensor)
    except RefusedError as error:
        raise _error(path, _refused(error)) from error
    return WeightsFile(path, container, ours[1] if ours else "state dict", tensors, facts)


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
        content = plain(content)
        _check_size((tensor for _, tensor in _tensors_in(content, "")), Path(path).stat().st_size)
        for name, tensor in _tensors_in(content, ""):
            _check_values(name, tensor)
        return content
    except RefusedError as error:
        raise _error(path, _refused(error)) from error


def write_content(path: Path, content: Any) -> None:
    """Write a file of `torch.save` atomically.

    Raises:
        OSError: the disk is full or the file cannot be written; an existing file at `path` is intact.
    """
    files.write_bytes(path, lambda file: _save_signed(file, content))


def _save_signed(file: BinaryIO, content: Any) -> None:
    writer = SignedWriter(file)
    torch.save(content, writer)  # pyright: ignore[reportArgumentType]
    writer.sign()


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
        with files.replacing(path) as temporary:
            safetensors_files.write(temporary, tensors, header)
    else:
        write_content(path, {**header, key: tensors})


def _load(path: Path) -> tuple[Container, Any, dict[str, str]]:
    """Container, content with NumPy stand-ins, and safetensors metadata."""
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        hint = f", such as {best}" if best.exists() else ""
        raise ValueError(f"{path} is a folder; expected {_EXPECTED}{hint}")
    if not path.exists():
        raise FileNotFoundError(f"no weights file at {path}{near_path(path)}")
    file, size = open_guarded(path, _EXPECTED)
    with file:
        head = file.read(512)
        file.seek(0)
        if not head:
            raise ValueError(f"{path} is empty")
        try:
            container, content, metadata = _content(path, file, size, head)
            content = without_notes(content)
            check_contents(content)
            _check_tensors(content, size)
            return container, content, metadata
        except (ImportError, MemoryError):
            raise
        except RefusedError as error:
            raise _error(path, _refused(error)) from error
        except Exception as error:  # a broken or hostile file can cause any error; the message names the file
            raise _error(path, _problem(path, head, error)) from error


def _content(path: Path, file: BinaryIO, size: int, head: bytes) -> tuple[Container, Any, dict[str, str]]:
    if safetensors_files.is_safetensors(head):
        tensors, metadata = safetensors_files.read(path, file, size)
        unknown = [key for key in metadata if key not in _OUR_ENTRIES]
        if unknown and _OUR_FORMAT.fullmatch(metadata.get("format", "")):
            raise ValueError(f"is damaged: its header has the unknown entry {unknown[0][:_MAX_NAME]!r}")
        return "safetensors", tensors, metadata
    if head.startswith(_ZIP):
        records = ZipRecords(file, size)
        if kind := describe_records(records.records):
            raise ValueError(f"cannot be read as a checkpoint: it is {kind}")
        return "torch.save", read_zip(records), {}
    if head.startswith(LEGACY_MAGIC):
        return "torch.save", read_legacy(file, size), {}
    if is_tar(head):
        return "torch.save", read_tar(file, size), {}
    return "pickle", read_plain(file, size), {}


def _check_tensors(content: Any, size: int) -> None:
    """Refuse tensors that are not read, and tensors that share memory and together far exceed the file."""
    found = dict(_by_identity(content))
    _check_size(found.values(), size)


def _by_identity(content: Any) -> Iterator[tuple[int, Any]]:
    """Each tensor once, although objects beside the weights, such as an optimizer, may hold it again."""
    for name, tensor in _tensors_in(content, ""):
        if isinstance(tensor, Unsupported):
            raise RefusedError(f"the tensor {name!r} is {tensor.kind}")
        yield id(tensor), tensor


def _check_size(tensors: Iterable[Any], size: int) -> None:
    total = 0
    for tensor in tensors:
        total += tensor.size if isinstance(tensor, NumpyArray) else tensor.numel() * tensor.element_size()
        if total > 2 * size + _MAX_SHARING:
            raise RefusedError("its tensors share memory and would take far more than the file if copied")


def _tensors_in(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors, NumPy arrays and unsupported tensors at any depth, each with its keys joined by dots."""
    if isinstance(value, Tensor | NumpyArray | Unsupported):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(one, dict | list | tuple | Tensor | NumpyArray | Unsupported):
                yield from _tensors_in(one, f"{name}.{key}" if name else str(key))


def _check_values(name: str, tensor: Tensor) -> None:
    """Refuse values that weights cannot have."""
    if tensor.is_complex():
        raise RefusedError(f"the tensor {name!r} is complex ({tensor.dtype}); expected real numbers")
    if not tensor.is_floating_point() or not tensor.numel():
        return
    flat = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # 8-bit floats have no minimum
    low, high = (float(one) for one in torch.aminmax(flat))
    if not (math.isfinite(low) and math.isfinite(high)):
        what = "NaN" if math.isnan(low) or math.isnan(high) else "infinite values"
        raise RefusedError(f"the tensor {name!r} has {what}; expected finite numbers")


def _error(path: Path, problem: str) -> ValueError:
    """An error in one line: file and problem, without control characters and of bounded length."""
    text = files.printable(problem)
    return ValueError(f"{path} {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}")


def _refused(error: RefusedError) -> str:
    return f"is refused; nothing in it was executed: {error}"


def _problem(path: Path, head: bytes, error: Exception) -> str:
    """What is wrong with a file that no reader accepts."""
    message = str(error).strip()
    if isinstance(error, ValueError) and message.startswith(("is ", "has ", "cannot ")):
        return message
    kind = describe(path, head)
    if kind:
        return f"cannot be read as a checkpoint: it is {kind}"
    first_line = message.partition("\n")[0]
    reason = f" ({first_line})" if first_line else ""
    return f"cannot be read as a checkpoint: it is truncated, damaged or of another kind{reason}"


def _check_names(tensors: dict[str, Tensor]) -> None:
    if len(tensors) > _MAX_TENSORS:
        raise RefusedError(f"it holds {len(tensors):,} tensors, expected at most {_MAX_TENSORS:,}")
    for name in tensors:
        if len(name) > _MAX_NAME or not name.isprintable():
            raise RefusedError(f"it has a tensor named {name[:_MAX_NAME]!r}")


def _without_prefixes(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the network itself, without the segments of wrappers."""
    bare: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = bare_name(key)
        if name in bare:
            raise _error(path, f"holds {name!r} twice, with and without a prefix")
        bare[name] = tensor
    return bare
