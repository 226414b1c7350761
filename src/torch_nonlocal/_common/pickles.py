"""Pickles of containers and NumPy values, read without executing anything.

A pickle names functions for its reader to call. The reader here accepts a short list of names and answers each with an
inert stand-in that records its arguments. NumPy objects are never built from the bytes of a file, so a pickle can
neither run code nor forge an array. Any other name is refused, and the error names it.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class RefusedError(ValueError):
    """The pickle asks for something that plain arrays do not need."""


def read_pickle(file: IO[bytes]) -> Any:
    """Read a pickle of containers and NumPy values. The NumPy values are stand-ins; `plain` converts them.

    Args:
        file: binary file. Python 2 pickles are supported; their strings are decoded as latin-1.

    Raises:
        RefusedError: the pickle names anything but NumPy arrays and plain containers, or holds arrays of objects or
            of a dtype that tensors do not have. The message names it.
        Exception: any error that a broken pickle causes.
    """
    return _Reader(file, encoding="latin1").load()


class NumpyDtype:
    """Stand-in for a NumPy dtype."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any, *_: Any) -> None:
        name = str(kind).lstrip("<=|")
        if name.startswith("O"):
            raise RefusedError("an array of Python objects")
        if name not in _DTYPES:
            raise RefusedError(f"an array of dtype {kind!r}, expected one of {', '.join(_DTYPES)}")
        self.kind = name

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, ...): numeric dtypes have None after the byte order
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise RefusedError("an array of structures")
        if state[1] == ">":
            raise RefusedError("an array in big-endian byte order")


class NumpyArray:
    """Stand-in for a NumPy array or scalar: its raw bytes, until they are known to fit the shape."""

    __slots__ = ("fortran", "is_scalar", "kind", "raw", "shape")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array in a form that NumPy does not write")
        _, shape, dtype, fortran, raw = state
        self.fill(shape, dtype, bool(fortran), raw)

    def fill(self, shape: Any, dtype: Any, fortran: bool, raw: Any, *, is_scalar: bool = False) -> "NumpyArray":
        """Set the content after checking the type of each part.

        Raises:
            RefusedError: a part has a type that NumPy does not write.
        """
        kind = getattr(dtype, "kind", None)
        if not isinstance(dtype, NumpyDtype) or kind not in _DTYPES or not isinstance(shape, tuple):
            raise RefusedError("an array in a form that NumPy does not write")
        if any(not isinstance(size, int) or size < 0 for size in shape):
            raise RefusedError(f"an array of shape {shape}")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes | bytearray):
            raise RefusedError(f"an array with data of type {type(raw).__name__}, expected bytes")
        self.shape, self.kind, self.fortran, self.raw, self.is_scalar = shape, kind, fortran, raw, is_scalar
        return self

    def tensor(self) -> Tensor:
        """The values as a tensor with memory of its own.

        Raises:
            RefusedError: the array was never filled, or the bytes do not fit the shape.
        """
        if not hasattr(self, "raw"):
            raise RefusedError("an array without content")
        dtype = _DTYPES[self.kind]
        expected = math.prod(self.shape) * dtype.itemsize
        if len(self.raw) != expected:
            raise RefusedError(f"an array of shape {self.shape} in {len(self.raw)} bytes, expected {expected}")
        if not expected:
            return torch.empty(self.shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(self.raw), dtype=dtype)
        if not self.fortran:
            return flat.reshape(self.shape)
        return flat.reshape(self.shape[::-1]).permute(*reversed(range(len(self.shape)))).contiguous()

    def value(self) -> Tensor | float | int | bool:
        """A scalar as a Python number, an array as a tensor."""
        return self.tensor().item() if hasattr(self, "raw") and self.is_scalar else self.tensor()


def plain(value: Any) -> Any:
    """Convert stand-ins at any depth: arrays to tensors, scalars to numbers. Dictionaries and lists change in place."""
    return _plain(value, {})


def _plain(value: Any, visited: dict[int, Any]) -> Any:
    if isinstance(value, NumpyArray):
        return value.value()
    if isinstance(value, NumpyDtype):
        return value.kind
    if not isinstance(value, dict | list | tuple | set | frozenset) or id(value) in visited:
        return value
    visited[id(value)] = value  # the reference keeps the id unique; a pickle can hold itself
    if isinstance(value, dict):
        items = [(_plain(key, visited), _plain(one, visited)) for key, one in value.items()]
        before = [part for pair in value.items() for part in pair]
        if any(new is not old for new, old in zip((part for pair in items for part in pair), before, strict=True)):
            value.clear()
            value.update(items)
        return value
    parts = [_plain(one, visited) for one in value]
    if all(new is old for new, old in zip(parts, value, strict=True)):
        return value
    if isinstance(value, list):
        value[:] = parts
        return value
    if isinstance(value, tuple):
        return tuple(parts)
    return type(value)(parts)


def _encode(text: str, encoding: str = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _reconstruct(*_: Any) -> NumpyArray:
    return NumpyArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> NumpyArray:
    return NumpyArray().fill(shape, dtype, order == "F", raw)


def _scalar(dtype: Any, raw: Any = b"") -> NumpyArray:
    return NumpyArray().fill((), dtype, False, raw, is_scalar=True)


STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": NumpyArray,
    "numpy.dtype": NumpyDtype,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
}
"""Full name in a pickle -> the inert stand-in for it."""


class _Call:
    """A callable that the pickle can call but not change; Python's unpickler would let it set attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedError("it changes a function of NumPy")

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it changes a function of NumPy")


_NAMES: dict[str, Any] = {
    **{name: _Call(stand_in) for name, stand_in in STAND_INS.items()},
    "_codecs.encode": _Call(_encode),
    "collections.OrderedDict": OrderedDict,
    **{f"{home}.{name}": kind for home in ("builtins", "__builtin__") for name, kind in _CONTAINERS.items()},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _NAMES:
            raise RefusedError(f"it asks for {full_name}, which arrays do not need")
        return _NAMES[full_name]
