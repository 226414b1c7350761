"""Plain values from files: JSON of bounded size and depth, and values checked by type before use. No torch here."""

import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.guarded import open_guarded

_MAX_JSON = 1 << 26  # bytes; the list of 650,000 clips takes 40 MB
_MAX_CONTAINERS, _MAX_VALUES = 1 << 20, 1 << 22  # of a JSON text
_MAX_TEXT = 1000  # characters of a text
_Settings = TypeVar("_Settings")


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file of at most 64 MB.

    Args:
        path: the file.
        expected: what it should be, for messages, such as "the configuration of a run".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, too large, too deep, not JSON, or has a number that is not finite.
    """
    file, size = open_guarded(path, expected)
    with file:
        if size > _MAX_JSON:
            raise ValueError(f"{path} has {size:,} bytes, expected {expected} of at most {_MAX_JSON:,}")
        data = file.read()
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{path} is not {expected}: {shown(error)}") from error


def parse_json(text: str | bytes) -> Any:
    """Content of a JSON text.

    Raises:
        ValueError: it is not JSON, larger than 64 MB, too deep, or has a number that is not finite.
    """
    if len(text) > _MAX_JSON:
        raise ValueError(f"JSON of {len(text):,} characters, expected at most {_MAX_JSON:,}")
    marks = ("[", "{", ",") if isinstance(text, str) else (b"[", b"{", b",")
    lists, objects, commas = (text.count(mark) for mark in marks)  # pyright: ignore[reportArgumentType]
    if lists + objects > _MAX_CONTAINERS or commas > _MAX_VALUES:
        raise ValueError(f"JSON of {lists + objects:,} containers and {commas:,} commas")
    try:
        return json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("JSON with too many containers in each other") from error


def settings_from(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """A dataclass of plain values, made of values from a file.

    Args:
        kind: its fields are annotated with bool, int, float, str, None, Literal, unions and tuples of these.
        values: by field name; fields with a default can be missing.

    Raises:
        ValueError: an unknown name, a value of another type or out of range. The message names it.
    """
    types = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"unknown setting {shown(unknown[0])}; settings: {', '.join(known)}")
    for name, value in values.items():
        if not fits(value, types[name]):
            raise ValueError(f"{name}={shown(value)}: expected {_words(types[name])}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(shown(error)) from error


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from a file has a type; True and False are no numbers, and numbers are finite."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) <= _MAX_TEXT and all(fits(v, arguments[0]) for v in value)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 2**63 and math.isfinite(value)
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is str:
        return isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()
    if kind in (None, NoneType):
        return value is None
    return type(value) is kind if kind is bool else isinstance(value, origin or kind)


def check_entries(values: Any, expected: Mapping[str, Any]) -> None:
    """Check that a dictionary from a file has entries of these types; others are allowed.

    Raises:
        ValueError: an entry is missing or has another type. The message names it.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, expected a dictionary with {', '.join(expected)}")
    missing = [name for name in expected if name not in values]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    for name, kind in expected.items():
        if not fits(values[name], kind):
            raise ValueError(f"its {name} is {shown(values[name])}, expected {_words(kind)}")


def check_names(what: str, names: Any) -> tuple[str, ...]:
    """Names from a file, such as those of classes: a list of different texts.

    Raises:
        ValueError: they are anything else.
    """
    if not isinstance(names, list | tuple) or not names or not all(fits(one, str) for one in names):
        raise ValueError(f"{what} {shown(names)}: expected a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{what}: a name is listed twice")
    return tuple(names)


def shown(value: Any) -> str:
    """A value from a file for a message: one line, at most 200 characters, whatever it is."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a very large integer"
    text = printable(str(value) if isinstance(value, Exception) else repr(value))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(kind)))}"
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> Any:
    raise ValueError(f"the number {text[:40]} is not finite")
