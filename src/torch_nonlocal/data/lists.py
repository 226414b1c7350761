"""Read lists of clips: tables with or without a header, text, JSON and JSON lines.

A list is read into entries; `find` maps classes to labels and names to files. `published` knows the data sets whose
lists cannot be told from their content.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import excerpt, listed
from torch_nonlocal.data.columns import Columns, NoColumnError, columns_of, has_role
from torch_nonlocal.data.entries import (
    Entry,
    invalid,
    labels_of,
    name_of_url,
    plain_entry,
    timed,
    times_of,
    with_decimal_points,
    with_frames,
    with_split,
)
from torch_nonlocal.data.numbered_lists import numbered_line, numbered_row, read_numbered
from torch_nonlocal.data.published import is_ava, segments
from torch_nonlocal.data.rows import SAMPLE, Line, Row, delimiter_of, file_and_class, is_comment, rows_of, sample_of
from torch_nonlocal.data.split_columns import splits_of
from torch_nonlocal.data.suffixes import has_suffix
from torch_nonlocal.data.texts import json_of, lines_of

_WORD = re.compile(r"[^\W\d][\w .-]*")
_NUMBERS = re.compile(r"\d+(?:\s+\d+)+")
_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Read:
    """The entries of one list, and how it was read.

    Attributes:
        entries: one per line.
        recognized: what was recognized, for messages.
        has_splits: whether the entries name their split.
        has_several: whether a clip can have several classes.
    """

    entries: list[Entry]
    recognized: str
    has_splits: bool = False
    has_several: bool = False


def read_list(file: Path, fold: int = 1) -> Read:
    """Read one list.

    Args:
        file: .json, .jsonl, .csv, .tsv or text. A header may name the columns; without one a list has two columns, the
            path and the class, or the forms of `numbered_lists`.
        fold: value of the column "fold" whose clips are tested.

    Raises:
        ValueError: the file is not text, or has no entries, or it is unclear which column is the clip or the class.
    """
    if file.suffix.lower() in _JSON:
        return _read_json(file, fold)
    lines = list(lines_of(file))
    if not lines:
        raise ValueError(f"{str(file)!r} lists no clips")
    delimiter, lines = delimiter_of(file, lines)
    if delimiter is None:
        return _read_text(file, lines, fold)
    start = next((place for place, (_, line) in enumerate(lines) if not is_comment(line)), 0)
    lines = [*lines[start : start + 1], *lines[:start], *lines[start + 1 :]]  # the header before comments
    if not lines:
        raise ValueError(f"{str(file)!r} lists no clips")
    return _read_table(file, rows_of(file, lines, delimiter), delimiter, fold)


def _read_text(file: Path, lines: list[Line], fold: int) -> Read:
    sample = sample_of(lines)
    numbered = (numbered_line(number, line) for number, line in lines)
    counted = [numbered_line(number, line) for number, line in lines[:SAMPLE] if not is_comment(line)]
    if counted and (found := read_numbered(file, counted, numbered)):
        return Read(found.entries, found.recognized, has_several=found.has_several)
    if (columns := _header_of(file, sample)) is not None:
        names = sample[0].split()
        rows = [(number, _cells(line, len(names), columns.clip)) for number, line in lines]
        start = next(place for place, (_, line) in enumerate(lines) if line == sample[0])
        cells = [
            (number, dict(enumerate(row)), " ".join(row))
            for number, row in rows[start + 1 :]
            if not (len(row) != len(names) and row[0].startswith("#"))
        ]
        return _read_columns(file, columns, cells, sample[0], fold)
    start = next((number for number, line in lines if line == sample[0]), 1)
    _refuse_unknown_header(file, [(start, line.rsplit(None, 1)) for line in sample])
    is_reversed = all(_starts_with_class(line.split(None, 1)) for line in sample)
    entries = []
    for number, line in lines:
        parts = line.split(None, 1)[::-1] if is_reversed else file_and_class(line)
        entry = plain_entry(parts[0], parts[1] if len(parts) > 1 else "", file, number)
        if not entry.mistake and _NUMBERS.fullmatch(entry.label):
            entry = invalid(file, number, f"got {excerpt(line.strip())!r}, expected a path and one class")
        if not (entry.mistake and is_comment(line)):
            entries.append(entry)
    return Read(entries, f"{file.name}: {'class, path' if is_reversed else 'path, class'}")


def _header_of(file: Path, sample: list[str]) -> Columns | None:
    """The columns of a text whose first line names them, one word each; None without a header."""
    names = sample[0].split()
    roles = [has_role(name) for name in names]
    if any(map(has_suffix, names)) or any(map(str.isdigit, names)) or sum(roles) < 2:
        return None
    if len(names) > 2 and any(len(line.split()) < len(names) for line in sample):
        return None
    return columns_of(names, str(file))


def _cells(line: str, width: int, clip: int) -> list[str]:
    """The cells of a line with blanks between them; the path may have blanks if it is the first or the last."""
    return line.rsplit(None, width - 1) if clip == 0 else line.split(None, width - 1)


def _starts_with_class(cells: list[str]) -> bool:
    """Whether a row is a class and the name of a file, in this order."""
    return len(cells) == 2 and has_suffix(cells[1]) and not has_suffix(cells[0]) and not re.search(r"[/\\]", cells[0])


def _read_table(file: Path, rows: list[Row], delimiter: str, fold: int) -> Read:
    header = rows[0][1]
    if is_ava(rows[:SAMPLE]) or is_ava(rows[1:SAMPLE]):
        raise ValueError(
            f"{str(file)!r} lists boxes of persons (AVA): expected a list of whole clips, a path and a class per line"
        )
    columns = None
    if not any(has_suffix(cell) or "/" in cell for cell in header) and any(map(has_role, header)):
        try:
            columns = columns_of(header, f"{file}:{rows[0][0]}")
        except NoColumnError as error:
            return Read([invalid(file, rows[0][0], str(error))], "")
    if columns is None:
        return _read_two_columns(file, rows, delimiter)
    cells = [(line, dict(enumerate(row)), ",".join(row)) for line, row in rows[1:] if not _is_comment(row, len(header))]
    if delimiter in ";\t":
        cells = [(line, with_decimal_points(row, columns), got) for line, row, got in cells]
    return _read_columns(file, columns, cells, ",".join(header), fold)


def _is_comment(row: list[str], width: int) -> bool:
    return len(row) != width and row[0].lstrip().startswith("#")


def _read_two_columns(file: Path, rows: list[tuple[int, list[str]]], delimiter: str) -> Read:
    width = len(rows[0][1])
    counted = [row for _, row in rows[:SAMPLE] if not _is_comment(row, width)]
    numbered = [numbered_row(line, row) for line, row in rows[:SAMPLE] if not _is_comment(row, width)]
    if numbered and (found := read_numbered(file, numbered, (numbered_row(line, row) for line, row in rows))):
        return Read(found.entries, found.recognized, has_several=found.has_several)
    if width > 2 and any(cell.strip() for cell in rows[0][1][2:]):
        shown = excerpt(", ".join(rows[0][1]))
        expected = "expected two columns, path and class, or a header that names them, such as path,label"
        raise ValueError(f"{file}:{rows[0][0]}: {width} columns without a header: got {shown}; {expected}")
    _refuse_unknown_header(file, rows)
    is_reversed = all(_starts_with_class(row) for row in counted)
    entries = []
    for line, row in sorted(rows, key=itemgetter(0)):
        cells = row[1::-1] if is_reversed else row[:2] if width > 2 else row
        path = delimiter.join(cells[:-1])
        if len(cells) > 1:
            entry = plain_entry(path, cells[-1], file, line)
        else:
            entry = invalid(file, line, f"got {excerpt(''.join(cells))!r}, expected a path and a class")
        if not (entry.mistake and row and row[0].lstrip().startswith("#")):
            entries.append(entry)
    return Read(entries, f"{file.name}: {'class, path' if is_reversed else 'path, class'}")


def _refuse_unknown_header(file: Path, rows: list[tuple[int, list[str]]]) -> None:
    """Refuse a first row of words over rows of paths: it is a header whose columns have unknown names."""
    (line, first), others = rows[0], [row for _, row in rows[1:SAMPLE] if row]
    looks = [has_suffix(row[0]) or "/" in row[0] or "\\" in row[0] for row in others]
    numbers = [row[-1].strip().isdigit() for row in others]
    words = len(first) == 2 and all(_WORD.fullmatch(cell.strip()) and not has_suffix(cell) for cell in first)
    is_other = (all(looks) and all(numbers)) or (len(others) > 1 and (all(looks) or all(numbers)))
    if words and others and is_other:
        shown = excerpt(", ".join(first))
        raise ValueError(
            f"{file}:{line}: unclear header: got {shown}; expected names such as path and label, or no header"
        )


def _read_columns(
    file: Path, columns: Columns, rows: list[tuple[int, dict[Any, str], str]], header: str, fold: int
) -> Read:
    """The entries of rows whose cells are found by column."""
    clip, label, several = columns.clip, columns.label, columns.has_several
    entries, unlabeled = [], 0
    timed_rows = columns.start is not None or columns.end is not None
    if columns.first_frame is not None and not timed_rows:
        _refuse_frame_spans(file, columns.first_frame, rows)
    splits, about = splits_of(file, columns, [cells for _, cells, _ in rows], fold)
    for (line, cells, got), split in zip(rows, splits, strict=True):
        name = name_of_url(cells.get(clip, "").strip())
        written = cells.get(label, "").strip()
        labels = labels_of(written) if several else ()
        if several and name and not labels:
            unlabeled += 1
            continue
        entry = plain_entry(name, labels[0] if labels else written, file, line)
        if entry.mistake:
            message = (
                f"got {excerpt(got)!r}, expected {excerpt(header)}"
                if timed_rows
                else f"got {excerpt(got)!r}, expected a path and a class"
            )
            entry = invalid(file, line, message)
        else:
            entry = entry._replace(labels=labels) if several else entry
            if timed_rows:
                times = times_of(cells, columns)
                is_id = not has_suffix(name) and "/" not in name
                entry = timed(entry, *times, is_id=is_id, got=got, header=header)
            if columns.part is not None:
                first, total = columns.part
                entry = with_frames(entry, cells.get(first, ""), cells.get(total, ""), got)
        entries.append(with_split(entry, split) if split else entry)
    has_splits = any(entry.split for entry in entries)
    recognized = f"{file.name}: {columns.described()}{about}"
    if several:
        recognized += f", several classes per clip, {unlabeled} clips without a class are not used"
    if ignored := [name for name in columns.ignored if repr(name) not in about]:
        recognized += f"; other columns: {listed(ignored)}"
    return Read(entries, recognized, has_splits, several)


def _refuse_frame_spans(file: Path, column: Any, rows: list[tuple[int, dict[Any, str], str]]) -> None:
    for line, cells, got in rows:
        if cells.get(column, "0").strip() not in ("", "0", "1"):
            expected = "expected times in seconds (columns start and end), or clips that are cut already"
            raise ValueError(f"{file}:{line}: the clip starts at a frame number: got {excerpt(got)!r}; {expected}")


def _read_json(file: Path, fold: int) -> Read:
    content = json_of(file)
    if (found := segments(file, content)) is not None:
        about = f"{file.name}: videos with annotations (ActivityNet, Kinetics)"
        return Read(found, about, any(one.split for one in found))
    if not isinstance(content, list):
        raise ValueError(f"{str(file)!r} contains a {type(content).__name__}, expected a list")
    keys = tuple(dict.fromkeys(key for item in content[:SAMPLE] if isinstance(item, dict) for key in item))
    try:
        columns = columns_of(keys, str(file))
    except NoColumnError:
        columns = None
    clip, label = (keys[columns.clip], keys[columns.label]) if columns else ("", "")
    several = any(isinstance(item, dict) and isinstance(item.get(label), list) for item in content[:SAMPLE])
    rows, mistakes = [], []
    expected = "expected an object with a path or id, and a label or template, each a text or a whole number"
    for number, item in enumerate(content, 1):
        values = item if columns and isinstance(item, dict) else {}
        labels = values.get(label)
        if not all(map(_is_plain, [values.get(clip), *(labels if several and isinstance(labels, list) else [labels])])):
            mistakes.append(invalid(file, -number, f"got {excerpt(json.dumps(item))!r}, {expected}"))
            continue
        rows.append((-number, {place: _cell(values.get(key)) for place, key in enumerate(keys)}, _shown(item)))
    if columns is None:
        return Read(mistakes, "")
    read = _read_columns(file, columns._replace(has_several=several or columns.has_several), rows, ",".join(keys), fold)
    entries = sorted([*read.entries, *mistakes], key=lambda one: -one.line) if mistakes else read.entries
    if label == "template":  # Something-Something's class list has no brackets
        entries = [one._replace(label=one.label.replace("[", "").replace("]", "")) for one in entries]
    return replace(read, entries=entries)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _shown(item: Any) -> str:
    return excerpt(", ".join(f"{key}: {value}" for key, value in item.items()))


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ";".join(map(str, value))
    return "" if value is None else str(value)
