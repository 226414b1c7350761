"""Pickled numpy arrays, read without running anything.

A pickle names functions for the reader to call. This reader knows a handful of names, and answers each with a stand-in
of its own that only takes notes: numpy's array and dtype are never built from the file's bytes, so a pickle can neither
run code nor forge an array. Every other name is refused, and the error says which it was.
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


def load_arrays(file: IO[bytes]) -> Any:
    """What a pickle of containers and numpy arrays holds, the arrays as tensors.

    Args:
        file: opened for reading bytes; Python 2's pickles too (their strings are read as latin-1).

    Raises:
        RefusedError: it names anything but numpy's arrays and plain containers (the message says what), or holds
            arrays of objects or of a kind that a tensor does not have.
        Exception: whatever else a broken pickle provokes.
    """
    return _tensors(_Reader(file, encoding="latin1").load())


class _Call:
    """A name that the pickle may call, and may not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusedError("it changes a function of numpy")

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it changes a function of numpy")


class _Dtype:
    """Notes of a numpy dtype."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any, *_: Any) -> None:
        name = str(kind).lstrip("<=|")
        if name.startswith("O"):
            raise RefusedError("an array of Python objects")
        if name not in _DTYPES:
            raise RefusedError(f"an array of dtype {kind!r}, expected one of {', '.join(_DTYPES)}")
        self.kind = name

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, ...): plain numbers have nothing after the byte order
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise RefusedError("an array of structures")
        if state[1] == ">":
            raise RefusedError("an array in big-endian byte order")


class _Array:
    """Notes of a numpy array, until its bytes are known to fit its shape."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("an array in a form that numpy does not write")
        _, shape, dtype, fortran, raw = state
        self.fill(shape, dtype, bool(fortran), raw)

    def fill(self, shape: Any, dtype: Any, fortran: bool, raw: Any) -> "_Array":
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise RefusedError("an array in a form that numpy does not write")
        if any(not isinstance(size, int) or size < 0 for size in shape):
            raise RefusedError(f"an array of shape {shape}")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes | bytearray):
            raise RefusedError(f"an array made of a {type(raw).__name__}, expected bytes")
        self.shape, self.dtype, self.fortran, self.raw = shape, dtype, fortran, raw
        return self

    def tensor(self) -> Tensor:
        kind = _DTYPES[self.dtype.kind]
        expected = math.prod(self.shape) * kind.itemsize
        if len(self.raw) != expected:
            raise RefusedError(f"an array of shape {self.shape} in {len(self.raw)} bytes, expected {expected}")
        if not expected:
            return torch.empty(self.shape, dtype=kind)
        flat = torch.frombuffer(bytearray(self.raw), dtype=kind)
        if not self.fortran:
            return flat.reshape(self.shape)
        return flat.reshape(self.shape[::-1]).permute(*reversed(range(len(self.shape)))).contiguous()


def _encode(text: str, encoding: str = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: str = "C") -> _Array:
    return _Array().fill(shape, dtype, order == "F", raw)


def _scalar(dtype: Any, raw: Any = b"") -> _Array:
    return _Array().fill((), dtype, False, raw)


def _only_named(*_: Any) -> Any:
    raise RefusedError("a call of numpy.ndarray")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Call(_only_named),
    ("numpy", "dtype"): _Call(_Dtype),
    ("_codecs", "encode"): _Call(_encode),
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (f"numpy.{core}.multiarray", name): _Call(stand_in)
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", lambda *_: _Array()), ("scalar", _scalar))
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Call(_frombuffer) for core in ("core", "_core")},
    **{(home, name): kind for home in ("builtins", "__builtin__") for name, kind in _CONTAINERS.items()},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise RefusedError(f"it asks for {module}.{name}, which arrays do not need")
        return _NAMES[module, name]


def _tensors(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.tensor()
    if isinstance(value, dict):
        return {key: _tensors(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_tensors(one) for one in value]
    return value
