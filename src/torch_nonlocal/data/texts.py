"""Read the text of lists: encodings, sizes, lines and JSON."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import megabytes

_MOST_BYTES = 2**26  # of a list; that of the largest public dataset has 45 MB
_MOST_LINES = 10**6
_LONGEST_LINE = 2**14  # characters
_FEWEST_PER_OBJECT = 16  # characters of JSON; shorter objects take many times their text in memory
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")
_HEAD = 64  # bytes that tell UTF-16 without a byte order mark


def text_of(file: Path) -> str:
    """The text of a list in UTF-8 or UTF-16. Other bytes, such as names in Latin-1, become surrogates, as in paths.

    Raises:
        ValueError: the file is too large or is not text.
    """
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"{str(file)!r} has {megabytes(size)}, expected a list of at most {megabytes(_MOST_BYTES)}")
    raw = file.read_bytes()
    try:
        text = raw.decode(_encoding(raw))
        if text.isascii() or raw[:1] not in b"\xff\xfe" or any(char.isascii() for char in text):
            return text.replace("\r\n", "\n").replace("\r", "\n")
        problem = "no character of UTF-16 is a separator"
    except UnicodeDecodeError as error:
        text = raw.decode("utf-8", "surrogateescape")
        if not _BINARY.search(text):
            return text.replace("\r\n", "\n").replace("\r", "\n")
        problem = f"{error.reason} at byte {error.start}"
    expected = "expected a folder of clips, or a list in text"
    raise ValueError(f"{str(file)!r} is not a text file in UTF-8 ({problem}): {expected}")


def _encoding(raw: bytes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = raw[:_HEAD]
    if len(head) >= 4 and not any(head[1::2]) and all(head[::2]):
        return "utf-16-le"
    if len(head) >= 4 and not any(head[::2]) and all(head[1::2]):
        return "utf-16-be"
    return "utf-8-sig"


def lines_of(file: Path, *, longest: int = _LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank.

    Args:
        file: the list.
        longest: most characters of a line.

    Raises:
        ValueError: the file is not a text, or has too many or too long lines for a list.
    """
    text = text_of(file)
    if (count := text.count("\n")) > _MOST_LINES:
        raise ValueError(f"{str(file)!r} has {count:,} lines, expected at most {_MOST_LINES:,}")
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > longest:
            expected = f"expected at most {longest:,}"
            raise ValueError(f"{file}:{number}: the line has {len(line):,} characters, {expected}")
        if line and not line.isspace():
            yield number, line


def json_of(file: Path) -> Any:
    """The content of a JSON file; of JSON lines, a list.

    Raises:
        ValueError: the file is not JSON, or nested too deeply for a list.
    """
    text = text_of(file)
    if text.count("[") + text.count("{") > len(text) / _FEWEST_PER_OBJECT + _MOST_LINES:
        raise ValueError(f"{str(file)!r} is not a list of clips: it holds mostly brackets")
    if file.suffix.lower() == ".json":
        return _parsed(file, text, None)
    return [_parsed(file, line, number) for number, line in lines_of(file)]


def _parsed(file: Path, text: str, line: int | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{line or error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
        raise ValueError(f"{str(file)!r} is not a list of clips: {error}") from error


def json_as(file: Path, kind: type) -> Any:
    """The content of a JSON file that must be a `kind`.

    Raises:
        ValueError: as for `json_of`, or another kind.
    """
    content = json_of(file)
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} contains a {type(content).__name__}, expected a {kind.__name__}")
    return content


def whole_number(text: str) -> int | None:
    """The number that a text is; None for other text. Numbers of more than 18 digits, which no list needs, are cut."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    return int(text[:19]) if digits.isdecimal() and digits.isascii() else None
