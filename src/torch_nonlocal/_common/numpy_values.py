"""Stand-ins for NumPy's arrays, scalars and dtypes in pickles.

NumPy objects are never built from the bytes of a file, so a pickle can neither run code nor forge an array: an array is
kept as bytes and shape until both are known to agree, and then becomes a tensor.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.pickles import Call, RefusedError, StandIn

_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "u2": torch.uint16,
    "u4": torch.uint32,
    "u8": torch.uint64,
    "b1": torch.bool,
}
_MAX_SIZE = 1 << 48
_MAX_TEXT = 4000  # bytes of a scalar text


class NumpyDtype(StandIn):
    """Stand-in for a NumPy dtype.

    Attributes:
        kind: its name, such as "f4".
        unread: why arrays of this dtype are not read as weights; None for numbers.
    """

    __slots__ = ("kind", "unread")

    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind = kind.lstrip("<=|") if isinstance(kind, str) else ""
        self.unread: str | None = None
        if self.kind.startswith("O"):
            self.unread = "an array of Python objects"
        elif self.kind not in _DTYPES:
            self.unread = f"an array of dtype {str(kind)[:40]!r}, expected one of {', '.join(_DTYPES)}"

    def set_state(self, state: Any) -> None:
        """Take (version, byte order, subarray, names, fields, ...); numeric dtypes have None after the byte order."""
        if self.unread:
            return
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            self.unread = "an array of structures"
        elif state[1] == ">":
            self.unread = "an array in big-endian byte order"


class NumpyArray(StandIn):
    """Stand-in for a NumPy array: its raw bytes, until they are known to fit the shape."""

    __slots__ = ("fortran", "kind", "raw", "shape", "unread")

    def set_state(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("it has an array in a form that NumPy does not write")
        _, shape, dtype, fortran, raw = state
        self.fill(shape, dtype, bool(fortran), raw)

    def fill(self, shape: Any, dtype: Any, fortran: bool, raw: Any) -> "NumpyArray":
        """Set the content after checking the type of each part.

        Raises:
            RefusedError: a part has a type that NumPy does not write, or the bytes do not fit the shape.
        """
        if not isinstance(dtype, NumpyDtype) or not isinstance(shape, tuple) or len(shape) > 32:
            raise RefusedError("it has an array in a form that NumPy does not write")
        if any(not isinstance(size, int) or not 0 <= size < _MAX_SIZE for size in shape):
            raise RefusedError(f"it has an array of shape {str(shape)[:100]}")
        self.unread = dtype.unread
        if dtype.unread:
            return self
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes):
            raise RefusedError(f"it has an array with data of type {type(raw).__name__}, expected bytes")
        expected = math.prod(shape) * _DTYPES[dtype.kind].itemsize
        if len(raw) != expected:
            raise RefusedError(f"it has an array of shape {shape} in {len(raw)} bytes, expected {expected}")
        self.shape, self.kind, self.fortran, self.raw = shape, dtype.kind, fortran, raw
        return self

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return len(getattr(self, "raw", b""))

    def tensor(self) -> Tensor:
        """The values as a tensor with memory of its own.

        Raises:
            RefusedError: the array was never filled, or does not hold numbers.
        """
        if getattr(self, "unread", None):
            raise RefusedError(f"it has {self.unread}")
        if not hasattr(self, "raw"):
            raise RefusedError("it has an array without content")
        dtype = _DTYPES[self.kind]
        if not self.raw:
            return torch.empty(self.shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(self.raw), dtype=dtype)
        if not self.fortran:
            return flat.reshape(self.shape)
        return flat.reshape(self.shape[::-1]).permute(*reversed(range(len(self.shape)))).contiguous()


def plain(value: Any) -> Any:
    """Convert arrays at any depth to tensors, and those of other things than numbers to a text that says so.

    Dictionaries and lists change in place.

    Args:
        value: content that passed `pickles.check_contents`.
    """
    return _plain(value, {})


def _plain(value: Any, visited: dict[int, tuple[Any, Any]]) -> Any:
    if not isinstance(value, NumpyArray | dict | list | tuple):
        return value.kind if isinstance(value, NumpyDtype) else value
    if id(value) in visited:
        return visited[id(value)][1]
    if isinstance(value, NumpyArray):
        new = value.unread if getattr(value, "unread", None) else value.tensor()
    elif isinstance(value, dict):
        new = value
        for key, one in value.items():
            value[key] = _plain(one, visited)
    elif isinstance(value, list):
        new = value
        value[:] = [_plain(one, visited) for one in value]
    else:
        parts = tuple(_plain(one, visited) for one in value)
        new = value if all(one is old for one, old in zip(parts, value, strict=True)) else parts  # keeps torch.Size
    visited[id(value)] = value, new  # the reference keeps the id unique
    return new


def _reconstruct(*_: Any) -> NumpyArray:
    return NumpyArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> NumpyArray:
    return NumpyArray().fill(shape, dtype, order == "F", raw)


def _scalar(dtype: Any, raw: Any = b"") -> float | int | bool | str | None:
    if isinstance(dtype, NumpyDtype) and dtype.unread:
        is_text = dtype.kind.startswith("U") and isinstance(raw, bytes) and len(raw) <= _MAX_TEXT
        return raw.decode("utf-32-le", "replace") if is_text else dtype.unread
    return NumpyArray().fill((), dtype, False, raw).tensor().item()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _frombuffer,
}
NUMPY_NAMES: dict[str, Call] = {
    "numpy.ndarray": Call(_reconstruct),
    "numpy.dtype": Call(NumpyDtype),
    **{f"numpy.{core}.{name}": Call(stand_in) for core in ("core", "_core") for name, stand_in in _FUNCTIONS.items()},
}
"""Full name in a pickle -> the inert stand-in for it."""
