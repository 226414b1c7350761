"""Configurations as text inside checkpoints: YAML as PySlowFast writes it, and Python as mmengine does. Nothing is run.

Both readers know the part of the language that these projects write: nested dictionaries and lists of texts and
numbers. The work is proportional to the length of the text, and nesting is bounded.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

_MAX_TEXT = 1 << 20  # characters
_MAX_DEPTH = 32
_MAX_ASSIGNMENTS = 16
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True"), True),
    **dict.fromkeys(("false", "False"), False),
    **dict.fromkeys(("null", "~", "None"), None),
}
_NUMBER = re.compile(r"[-+]?(\d{1,18}|\d{1,18}\.\d{0,18}|\.\d{1,18})([eE][-+]?\d{1,3})?")
_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>\#[^\n]*)|(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?P<word>[\w.+-]+)|(?P<mark>\S))"""
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class ConfigError(ValueError):
    """The text is not a configuration that the readers know."""


def read_yaml(text: str) -> dict[str, Any]:
    """Nested dictionaries and lists of a YAML text in block or flow style; an empty dictionary for any other text."""
    if text.lstrip().startswith("{"):
        value = _scalar(text[:_MAX_TEXT].strip())
        return value if isinstance(value, dict) else {}
    rows = [
        (len(line) - len(line.lstrip()), line.strip())
        for line in text[:_MAX_TEXT].splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    try:
        value, _ = _block(rows, 0, 0)
    except (ConfigError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}


def read_python(text: str, name: str) -> dict[str, Any]:
    """The dictionary that a text of Python assigns to a name; later assignments are merged into earlier ones.

    Args:
        text: such as "model = dict(backbone=dict(depth=50))".
        name: name of a variable at the start of a line.
    """
    merged: dict[str, Any] = {}
    for match in islice(re.finditer(rf"^{re.escape(name)} *= *", text[:_MAX_TEXT], re.MULTILINE), _MAX_ASSIGNMENTS):
        try:
            value = _value(_Tokens(text[match.end() : _MAX_TEXT]), 0)
        except ConfigError:
            continue
        if isinstance(value, dict):
            _merge(merged, value)
    return merged


def entry(config: Any, *path: str) -> Any:
    """The value at a path of keys, or None."""
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into[key] = value


def _block(rows: list[tuple[int, str]], start: int, depth: int) -> tuple[Any, int]:
    """The value of the rows from `start` with at least its indentation, and the row behind it."""
    if depth > _MAX_DEPTH:
        raise ConfigError("too deep")
    indent, i = rows[start][0], start
    if rows[start][1].startswith(("- ", "-")) and rows[start][1][1:2] in ("", " "):
        items: list[Any] = []
        while i < len(rows) and rows[i][0] == indent and rows[i][1][:1] == "-" and rows[i][1][1:2] in ("", " "):
            rest = rows[i][1][1:].lstrip()
            if rest:
                rows[i] = (indent + len(rows[i][1]) - len(rest), rest)
                item, i = _block(rows, i, depth + 1)
            else:
                item, i = _block(rows, i + 1, depth + 1)
            items.append(item)
        return items, i
    if ":" not in rows[start][1] or rows[start][1][0] in "[{'\"":
        return _scalar(rows[start][1]), start + 1
    values: dict[str, Any] = {}
    while i < len(rows) and rows[i][0] == indent and not rows[i][1].startswith("- "):
        key, colon, rest = rows[i][1].partition(":")
        i += 1
        if not colon:
            continue  # the rest of a long text
        if rest.strip():
            values[key.strip("'\"")] = _scalar(rest.strip())
            while i < len(rows) and rows[i][0] > indent:
                i += 1
        elif i < len(rows) and (rows[i][0] > indent or (rows[i][0] == indent and rows[i][1].startswith("-"))):
            values[key.strip("'\"")], i = _block(rows, i, depth + 1)
        else:
            values[key.strip("'\"")] = None
    return values, i


def _scalar(text: str) -> Any:
    if text[:1] in _CLOSING:
        try:
            return _value(_Tokens(text), 0)
        except ConfigError:
            return text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return _word(text)


def _word(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text)


class _Tokens:
    """Tokens of a text, with the next one in view."""

    def __init__(self, text: str) -> None:
        self._matches: Iterator[re.Match[str]] = _TOKEN.finditer(text)
        self.kind, self.text = "", ""
        self.move()

    def move(self) -> str:
        taken, match = self.text, next((one for one in self._matches if one.lastgroup != "comment"), None)
        self.kind = (match.lastgroup or "") if match else ""
        self.text = match[self.kind] if match and self.kind else ""
        return taken

    def take(self, mark: str) -> bool:
        if self.kind == "mark" and self.text == mark:
            self.move()
            return True
        return False


def _value(tokens: _Tokens, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ConfigError("too deep")
    if tokens.kind == "text":
        return tokens.move()[1:-1]
    if tokens.kind == "word":
        word = tokens.move()
        return _items(tokens, ")", depth) if word == "dict" and tokens.take("(") else _word(word)
    for opening, closing in _CLOSING.items():
        if tokens.take(opening):
            return _items(tokens, closing, depth)
    raise ConfigError(f"unexpected {tokens.text[:20]!r}")


def _items(tokens: _Tokens, closing: str, depth: int) -> Any:
    """What stands between brackets: a dictionary if there are keys, otherwise a list."""
    values: dict[str, Any] = {}
    items: list[Any] = []
    while not tokens.take(closing):
        one = _value(tokens, depth + 1)
        if tokens.take("=") or tokens.take(":"):
            values[str(one)] = _value(tokens, depth + 1)
        else:
            items.append(one)
        if not tokens.take(",") and not (tokens.kind == "mark" and tokens.text == closing):
            raise ConfigError(f"unexpected {tokens.text[:20]!r}")
    return items if items or closing == "]" or (not values and closing == ")") else values
