"""The separator of a list's columns, and its rows: one decision for the whole list, from its first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch_nonlocal.data.columns import has_role
from torch_nonlocal.data.entries import unquoted
from torch_nonlocal.data.suffixes import VIDEOS, has_suffix

DELIMITERS = ("\t", ";", ",", "|")
SAMPLE = 1000  # lines that tell the kind of a list

Line = tuple[int, str]
"""Number and text of a line."""
Row = tuple[int, list[str]]
"""Number of a line and its cells."""

_ENDS_IN_BLANKS = re.compile(r"\s\d+\s*$|^\s*([\"']).*\1\s+\S+\s*$")  # path and number, or a quoted path and a class
_EXCEL = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # a first line that Excel writes and reads
_SUFFIXES = "|".join(re.escape(suffix[1:]) for suffix in sorted(VIDEOS))
_FILE_AND_CLASS = re.compile(rf"(.*\.(?:{_SUFFIXES})[\"']?)\s+(\S.*)", re.IGNORECASE)
_END = "end"


def is_comment(line: str) -> bool:
    """Whether a line starts with "#"."""
    return line.lstrip().startswith("#")


def sample_of(lines: Sequence[Line]) -> list[str]:
    """The first lines that are no comments; the first lines if all are."""
    texts = [line for _, line in lines[:SAMPLE]]
    return [line for line in texts if not is_comment(line)] or texts


def delimiter_of(file: Path, lines: list[Line]) -> tuple[str | None, list[Line]]:
    """The separator of the columns, None for blanks, and the lines without one that only names the separator.

    A header, or the suffixes of the clips' names, decide. In lists without either, it is the first of tab, semicolon,
    comma and bar in the first line, unless the line ends in a number after a blank and the others do not have the same
    columns.
    """
    if found := _EXCEL.fullmatch(lines[0][1]):
        return found[1], lines[1:]
    sample = sample_of(lines)
    first = sample[0]
    marks = [mark for mark in DELIMITERS if mark in first]
    for mark in marks:
        cells = [unquoted(cell.strip()) for cell in first.split(mark)]
        if len(cells) > 1 and any(map(has_role, cells)) and not any(map(has_suffix, cells)):
            return mark, lines
    scores = {mark: sum(_starts_with_file(line, mark) for line in sample) for mark in (*marks, None)}
    if best := max(scores.values()):
        return next(mark for mark, score in scores.items() if score == best), lines
    if file.suffix.lower() == ".txt" and _ENDS_IN_BLANKS.search(first):
        return next((mark for mark in marks if _is_regular(sample, mark)), None), lines
    return next(iter(marks), None), lines


def _starts_with_file(line: str, mark: str | None) -> bool:
    """Whether the separator leaves the name of a file with a suffix in front."""
    if mark is None:
        parts = line.rsplit(None, 1)
        return len(parts) > 1 and (
            has_suffix(unquoted(parts[0].strip())) or _FILE_AND_CLASS.fullmatch(line) is not None
        )
    cells = line.split(mark)
    return len(cells) > 1 and any(has_suffix(name.strip().strip("\"'")) for name in (cells[0], mark.join(cells[:-1])))


def _is_regular(sample: list[str], mark: str) -> bool:
    """Whether all lines have the same columns, without empty ones, and the last is no path."""
    rows = [line.split(mark) for line in sample]
    return len(rows) > 1 and all(
        len(row) == len(rows[0]) and all(map(str.strip, row)) and not re.search(r"[/\\]", row[-1]) for row in rows
    )


def rows_of(file: Path, lines: Sequence[Line], delimiter: str) -> list[Row]:
    """The rows of a table; a cell in quotation marks may hold separators and line breaks.

    Raises:
        ValueError: a quotation mark is not closed, so that the rest of the list is one cell.
    """

    def texts() -> Iterator[str]:
        for _, line in lines:
            yield line + "\n"
        yield _END

    reader = csv.reader(texts(), delimiter=delimiter, skipinitialspace=True)
    rows: list[Row] = []
    known: dict[str, str] = {}  # one object for equal cells: in a table of boxes, most are those of other rows
    start = 0
    try:
        for row in reader:
            start, place = reader.line_num, start
            if place == len(lines) and row == [_END]:
                return rows
            rows.append((lines[place][0], [known.setdefault(cell, cell) for cell in row]))
    except csv.Error as error:
        raise ValueError(f"{str(file)!r} is not a list: {error}") from error
    raise ValueError(f"{file}:{rows[-1][0]}: a quotation mark is not closed")


def table_rows(file: Path, lines: Sequence[Line], is_column: Callable[[str], bool]) -> list[Row]:
    """The header of a table and its rows; the separator is the one that gives the most known columns.

    Args:
        file: the table, for messages.
        lines: one or more; a first line that only names the separator, as Excel writes it, is skipped.
        is_column: whether a cell of the header is the name of a known column.

    Raises:
        ValueError: as for `rows_of`, or there is no header.
    """
    found = _EXCEL.fullmatch(lines[0][1])
    if found:
        lines = lines[1:]
    if not lines:
        raise ValueError(f"{str(file)!r} is empty: expected a header and rows")
    header = lines[0][1]
    mark = found[1] if found else max(DELIMITERS, key=lambda mark: sum(map(is_column, header.split(mark))))
    return rows_of(file, lines, mark)


def file_and_class(line: str) -> list[str]:
    """The path and the class of a line with blanks between them.

    Either may have blanks: the path ends at the suffix of a video, or at the last blank.
    """
    parts = line.rsplit(None, 1)
    if len(parts) > 1 and "." in parts[0] and not has_suffix(unquoted(parts[0].strip())):
        found = _FILE_AND_CLASS.fullmatch(line.strip())
        return [found[1], found[2]] if found else parts
    return parts
