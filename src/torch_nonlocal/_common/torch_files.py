"""Content of files of torch.save, all three containers, without PyTorch's unpickler.

A tensor is built only from a storage that the file really holds, and only if its offset, shape and strides stay inside
it. Tensors that are not plain numbers in memory (sparse, quantized, nested, on the meta device) become `Unsupported`,
so that the message can name the tensor.
"""

import io
import math
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torch_nonlocal._common import tar_files
from torch_nonlocal._common.foreign_objects import FOREIGN_CALLS, ForeignName, foreign_name
from torch_nonlocal._common.numpy_values import NUMPY_NAMES
from torch_nonlocal._common.pickles import CONTAINERS, Call, RefusedError, read_pickle
from torch_nonlocal._common.zip_records import DAMAGED, ZipRecords

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch.save before 1.6
_LEGACY_PROTOCOL = 1001
_MAX_AXES = 32
_MAX_SIZE = 1 << 48

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *(
        "uint64",
        "bool",
        "complex64",
        "complex128",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ),
)
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_qtensor": "quantized",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "on the meta device, which holds no values",
    "_rebuild_device_tensor_from_numpy": "of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "of another device",
    "_rebuild_wrapper_subclass": "of a class of its own",
}


class Unsupported:
    """A tensor that is not read, and what it is."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _StorageType:
    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.itemsize = 0 if dtype is None else dtype.itemsize


class _Storage:
    """Bytes that tensors can share."""

    def __init__(self, raw: bytearray, dtype: torch.dtype) -> None:
        self.raw, self.dtype = raw, dtype


class _TensorClass:
    """torch.Tensor or nn.Parameter by name."""


def read_zip(records: ZipRecords) -> Any:
    """The content of an archive of torch.save, with NumPy stand-ins.

    Raises:
        RefusedError: it asks for something that tensors and plain values do not need.
        ValueError: it is damaged; the message starts with a verb.
    """
    top = next((name.removesuffix("data.pkl") for name in records.records if name.endswith("/data.pkl")), None)
    if top is None:
        raise ValueError("is a zip archive without a checkpoint")
    if f"{top}byteorder" in records.records and records.read(f"{top}byteorder") != b"little":
        raise RefusedError("it is in big-endian byte order")
    program = records.read(f"{top}data.pkl")
    raws: dict[str, bytearray] = {}

    def storage(identifier: Any) -> Any:
        if kind := _module_class(identifier):
            return kind
        dtype, key, count = _identified(identifier)
        if dtype is None:
            return Unsupported("quantized")
        if identifier[3] == "meta":
            return Unsupported("on the meta device, which holds no values")
        size = count * dtype.itemsize
        if key not in raws:
            raws[key] = records.read(f"{top}data/{key}", size)
        if len(raws[key]) != size:
            raise ValueError(f"{DAMAGED}: a storage has two sizes")
        return _Storage(raws[key], dtype)

    return read_pickle(io.BytesIO(program), len(program), _NAMES, storage, foreign_name)


def read_legacy(file: BinaryIO, size: int) -> Any:
    """The content of a file of torch.save before 1.6, with NumPy stand-ins.

    Raises:
        RefusedError: it asks for something that tensors and plain values do not need.
        ValueError, EOFError: it is damaged.
    """
    file.seek(len(LEGACY_MAGIC))
    raws: dict[str, bytearray] = {}
    dtypes: dict[str, torch.dtype] = {}
    total = 0

    def pickled(persistent: Callable[[Any], Any] | None = None) -> Any:
        return read_pickle(file, size - file.tell(), _NAMES, persistent, foreign_name)

    def storage(identifier: Any) -> Any:
        nonlocal total
        if kind := _module_class(identifier):
            return kind
        dtype, key, count = _identified(identifier)
        if dtype is None:
            return Unsupported("quantized")
        if len(identifier) > 5 and identifier[5] is not None:
            raise RefusedError("it has a view of a storage")
        if key not in raws:
            total += count * dtype.itemsize
            if total > size:
                raise ValueError(f"{DAMAGED} or truncated: its tensors are larger than the file")
            raws[key], dtypes[key] = bytearray(count * dtype.itemsize), dtype
        if len(raws[key]) != count * dtype.itemsize:
            raise ValueError(f"{DAMAGED}: a storage has two sizes")
        return _Storage(raws[key], dtype)

    if pickled() != _LEGACY_PROTOCOL:
        raise ValueError("has an unknown version of the format")
    system = pickled()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise RefusedError("it is in big-endian byte order")
    content = pickled(storage)
    keys = pickled()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(raws):
        raise ValueError(f"{DAMAGED}: its list of storages differs from those that are used")
    for key in keys:
        head = file.read(8)
        if len(head) != 8 or struct.unpack("<q", head)[0] * dtypes[key].itemsize != len(raws[key]):
            raise ValueError(f"{DAMAGED} or truncated: a storage has another size")
        if file.readinto(raws[key]) != len(raws[key]):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"{DAMAGED} or truncated: a storage ends behind the file")
    return content


def read_plain(file: BinaryIO, size: int) -> Any:
    """The content of a pickle without PyTorch's container, such as NumPy arrays of Caffe2, with NumPy stand-ins."""
    return read_pickle(file, size, {**CONTAINERS, **NUMPY_NAMES, **FOREIGN_CALLS}, noted=foreign_name)


def read_tar(file: BinaryIO, size: int) -> Any:
    """The content of a file of torch.save before 0.1.10, with NumPy stand-ins.

    Raises:
        RefusedError: it asks for something that tensors and plain values do not need.
        ValueError, EOFError: it is damaged.
    """

    def pickled(part: BinaryIO, left: int, persistent: Callable[[Any], Any] | None = None) -> Any:
        return read_pickle(part, left, _NAMES, persistent, foreign_name)

    def storage(kind: Any, raw: bytearray) -> _Storage | Unsupported:
        if not isinstance(kind, _StorageType):
            raise RefusedError("it refers to data in a form that torch.save does not write")
        return Unsupported("quantized") if kind.dtype is None else _Storage(raw, kind.dtype)

    return tar_files.read_tar(file, size, pickled, storage, _tensor)


def _module_class(identifier: Any) -> ForeignName | None:
    """The class of a module, which files before PyTorch 1.6 refer to with its source; None for any other identifier."""
    if isinstance(identifier, tuple) and len(identifier) == 4 and isinstance(identifier[1], ForeignName):
        return identifier[1]
    return None


def _identified(identifier: Any) -> tuple[torch.dtype | None, str, int]:
    """dtype, key and number of items of a storage."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise RefusedError("it refers to data in a form that torch.save does not write")
    _, kind, key, _, count = identifier[:5]
    known = isinstance(kind, _StorageType) and isinstance(key, str) and isinstance(count, int)
    if not known or not 0 <= count < _MAX_SIZE:
        raise RefusedError("it refers to data in a form that torch.save does not write")
    return kind.dtype, key, count


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None = None) -> Any:
    if isinstance(storage, Unsupported):
        return storage
    axes = (shape, strides)
    if not isinstance(storage, _Storage) or any(not isinstance(one, tuple) or len(one) > _MAX_AXES for one in axes):
        raise RefusedError("it has a tensor in a form that torch.save does not write")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(not isinstance(one, int) or not 0 <= one < _MAX_SIZE for one in numbers):
        raise RefusedError("it has a tensor in a form that torch.save does not write")
    dtype = dtype or storage.dtype
    held = len(storage.raw) // dtype.itemsize
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= held:
        raise RefusedError(f"it has a tensor of shape {shape} outside of its storage of {held:,} values")
    if count > held:
        return Unsupported(f"expanded: {count:,} values from {held:,}; save tensor.contiguous()")
    return torch.frombuffer(storage.raw, dtype=dtype, count=held).as_strided(shape, strides, offset)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    """_rebuild_tensor, and _rebuild_tensor_v2 with requires_grad, hooks and metadata."""
    if len(rest) > 2 and rest[2]:
        return Unsupported("a view with a pending conjugation or negation")
    return _tensor(storage, offset, shape, strides)


def _rebuild_3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *rest: Any
) -> Any:
    if not isinstance(dtype, torch.dtype) or (rest and rest[0]):
        return Unsupported("of a dtype that is not read")
    return _tensor(storage, offset, shape, strides, dtype)


def _parameter(data: Any = None, *_: Any) -> Any:
    return _only_tensor(data)


def _only_tensor(data: Any) -> Any:
    if not isinstance(data, Tensor | Unsupported):
        raise RefusedError("it has a parameter without a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    if not isinstance(kind, _TensorClass) or function not in _REBUILDERS.values() or not isinstance(args, tuple):
        return Unsupported("of a class of its own")
    return _only_tensor(function(*args))


def _size(shape: Any = ()) -> torch.Size:
    if not isinstance(shape, tuple | list) or any(not isinstance(one, int) or abs(one) > _MAX_SIZE for one in shape):
        raise RefusedError("it has a torch.Size of other things than sizes")
    return torch.Size(shape)


def _device(name: Any = "", index: Any = None) -> torch.device:
    if not isinstance(name, str) or not isinstance(index, int | None):
        raise RefusedError("it has a device without a name")
    return torch.device(name if index is None else f"{name}:{index}")


class _TypeCall(Call, _TensorClass):
    """nn.Parameter, which old files call."""


_REBUILDERS = {
    "_rebuild_tensor": Call(_rebuild),
    "_rebuild_tensor_v2": Call(_rebuild),
    "_rebuild_tensor_v3": Call(_rebuild_3),
    "_rebuild_parameter": Call(_parameter),
    "_rebuild_parameter_with_state": Call(_parameter),
}
_NAMES: dict[str, Any] = {
    **CONTAINERS,
    **NUMPY_NAMES,
    **FOREIGN_CALLS,
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(torch.uint8),
    **{f"torch.{name}": _StorageType(None) for name in ("QUInt8Storage", "QInt8Storage", "QInt32Storage")},
    **{f"torch.{name}": getattr(torch, name) for name in _DTYPES if hasattr(torch, name)},
    "torch.Size": Call(_size),
    "torch.device": Call(_device),
    "torch.Tensor": _TensorClass(),
    "torch.nn.parameter.Parameter": _TypeCall(_parameter),
    **{f"torch._utils.{name}": call for name, call in _REBUILDERS.items()},
    "torch._tensor._rebuild_from_type_v2": Call(_rebuild_from_type),
    "torch.serialization._get_layout": Call(lambda name="", *_: name),
    **{f"torch._utils.{name}": Call(lambda *_, kind=kind: Unsupported(kind)) for name, kind in _OTHER_TENSORS.items()},
    **{
        f"torch.{name}": name
        for name in ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")
    },
}
"""Full name in a file of torch.save -> what it stands for."""
