"""What tyro prints, as this command prints it: errors in one line, help wrapped to the terminal."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence

from torch_nonlocal._common.text import nearest

FORMER_TEST_OPTIONS = {"--batch": "--batch-size"}
"""Former names of options of `nonlocal test` and `nonlocal predict`, which are still accepted."""
_WIDEST = 100
_SUGGESTIONS = ("Perhaps you meant", "Arguments similar to")
_ANSI = r"\x1b\[[0-9;]*m"
_NO_TYPE = r"no type matching \{None\}\|(\w+) could be instantiated from \[(.*)\]\.?"
_HELP_COLUMN = 22  # where tyro's help of an option begins; longer names have a line of their own
_OPTION_ALONE = r"^(  --\S.{0,16}?) *\n {22}(?=\S)"
_HELP_INDENT = 6  # tyro indents option names by four, their help by eight


def with_current_names(arguments: Sequence[str], former: Mapping[str, str]) -> list[str]:
    """The arguments with former names of options replaced, as in --batch 4 and --batch=4."""
    words = (word.partition("=") for word in arguments)
    return [former.get(name, name) + sign + value for name, sign, value in words]


def one_line(box: str) -> str:
    """tyro's error box as one line: the message, and the options that it suggests.

    Args:
        box: printed to a stream without a terminal: a title, then sections below rules of hyphens.
    """
    sections: list[list[str]] = [[]]
    for line in re.sub(_ANSI, "", box).splitlines():
        row = line.removeprefix("  ").rstrip()
        if re.fullmatch(r" *-+", row):
            sections.append([])
        elif row:
            sections[-1].append(row)
    message, names = _without_help(sections[1] if len(sections) > 1 else sections[0])
    message = re.sub(r"^Error parsing __tyro\S*: | Got errors:.*", "", message)
    message = re.sub(_NO_TYPE, r"expected \1 or none, got \2", message)
    suggestions = [section for section in sections[2:] if section[0].startswith(_SUGGESTIONS)]
    hint = " or ".join(sorted({section[1].split()[0].rstrip(",") for section in suggestions}))
    if chosen := re.match(r"invalid choice '(.*?)' for .* one of \((.*)\)", message, flags=re.IGNORECASE):
        near = nearest(chosen[1], re.findall(r"'(.*?)'", chosen[2]), cutoff=0.6)
        hint = "" if near is None else repr(near)
    text = f"{message} {', '.join(names)}" if names else message.rstrip(".")
    return text[:1].lower() + text[1:] + (f"; did you mean {hint}?" if hint else "")


def wrapped(text: str) -> str:
    """tyro's help with its paragraphs wrapped to the width of the terminal; examples stay on one line."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    text = re.sub(r"\{None\}\|(\w+)(?= +\S)", r"\1" + " " * len("{None}|"), text)  # tyro's form of an optional value
    text = re.sub(r"\{None\}\|(\w+)", r"\1", text)
    text = re.sub(_OPTION_ALONE, lambda found: found[1].ljust(_HELP_COLUMN), text, flags=re.MULTILINE)
    text = re.sub(r"\s*\(default:\s*(None|'')?\s*\)", "", text)  # says nothing
    text = re.sub(r"\s*\(repeatable\)", "", text)
    lines = []
    for line in map(str.rstrip, text.splitlines()):
        is_paragraph = line[:1] not in ("", " ") and not line.startswith("Example: ")
        lines.append(textwrap.fill(line, width, break_on_hyphens=False) if is_paragraph else line)
    return "\n".join(lines)


def help_of(command: Callable[..., object]) -> str:
    """A docstring for tyro, which keeps some line breaks: one line per paragraph and per argument."""
    text = re.sub(r"\n {8}", " ", inspect.getdoc(command) or "")
    return re.sub(r"(?<=[^\n])\n(?=[^\s])", " ", text)


def summary_of(command: Callable[..., object]) -> str:
    """The first paragraph of a docstring."""
    return help_of(command).split("\n")[0]


def _without_help(rows: list[str]) -> tuple[str, list[str]]:
    """The text of a section, and the names of arguments in it, without their help."""
    indented = [(len(row) - len(row.lstrip()), row.strip()) for row in rows]
    text = " ".join(row for indent, row in indented if indent == 0)
    return text, [row for indent, row in indented if 0 < indent < _HELP_INDENT]
