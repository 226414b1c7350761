"""One line of a list as an entry: possible names of the clip, its classes as written, its times and its split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from torch_nonlocal._common.text import excerpt
from torch_nonlocal.data.columns import Columns
from torch_nonlocal.data.folders import split_named
from torch_nonlocal.data.texts import whole_number

_LATEST = 10**6  # seconds; file names of Kinetics have six digits
_CLOCK = re.compile(r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d(?:\.\d{1,9})?)")
_DECIMAL_COMMA = re.compile(r"\d{1,9},\d{1,9}")
_URL = re.compile(r"https?://|www\.|(?:m\.)?youtube\.com/|youtu\.be/", re.IGNORECASE)
_CHARADES = re.compile(r"(c\d{3}) -?[\d.]+ -?[\d.]+(?:;|$)")


class Entry(NamedTuple):
    """One line of a list.

    Attributes:
        names: possible names of the clip, most likely first, with or without suffix and folders.
        label: the class as written, a name or a number; the first of several.
        file: the list.
        line: line in the file; for JSON, the negative number of the entry.
        mistake: the problem of an invalid line; "" for a valid one.
        start: begin of the clip in the file, in seconds; None for the start of the file.
        end: end of the clip in the file, in seconds; None for the end of the file.
        labels: all classes, in lists where a clip can have several.
        split: "train", "val" or "test"; "" if the line names none.
        cuts: how many of `names`, from the first, are files that hold only the span.
        frames: the clip's first frame, from 0, and its number of frames; None for the whole file or a span in seconds.
        may_be_comment: the line starts with "#": it is a comment if no such clip exists.
    """

    names: tuple[str, ...]
    label: str
    file: Path
    line: int
    mistake: str = ""
    start: float | None = None
    end: float | None = None
    labels: tuple[str, ...] = ()
    split: str = ""
    cuts: int = 0
    frames: tuple[int, int] | None = None
    may_be_comment: bool = False

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}:{self.line}" if self.line > 0 else f"{self.file}: entry {-self.line}"


def invalid(file: Path, line: int, message: str, split: str = "") -> Entry:
    """An entry that only reports a mistake."""
    entry = Entry((), "", file, line, split=split)
    return entry._replace(mistake=f"{entry.where}: {message}")


def plain_entry(path: str, label: str, file: Path, line: int) -> Entry:
    """An entry of a path and a class."""
    path, label = unquoted(path.strip()), label.strip()
    if not path or not label:
        return invalid(file, line, f"got {excerpt(f'{path} {label}')!r}, expected a path and a class")
    if "\n" in path or "\n" in label:
        got = excerpt(f"{path},{label}")
        return invalid(file, line, f"got {got!r}, expected one line; a quotation mark is not closed")
    return Entry((path,), label, file, line, "", None, None, (), "", 0, None, path[0] == "#")


def unquoted(path: str) -> str:
    """A path without quotation marks around it."""
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'" else path


def span_of(start: str, end: str) -> tuple[float | None, float | None] | None:
    """Begin and end in seconds, None where not given; None if they are no times."""
    try:
        times = tuple(_seconds(text) if text else None for text in (start, end))
    except (ValueError, OverflowError):
        return None
    return (times[0], times[1]) if all(time is None or time == time for time in times) else None


def _seconds(text: str) -> float:
    """Seconds of a number, or of a time such as "1:02:03.5"."""
    found = _CLOCK.fullmatch(text)
    return 3600 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3]) if found else float(text)


def times_of(cells: Mapping[Any, str], columns: Columns) -> tuple[str, str]:
    """Begin and end of a clip as written, "" where not given; the end may come from a duration."""
    start, end, duration = (
        "" if place is None else cells.get(place, "").strip()
        for place in (columns.start, columns.end, columns.duration)
    )
    if duration and (span := span_of(start, duration)) is not None:
        end = str((span[0] or 0.0) + (span[1] or 0.0))
    return start, end or duration


def timed(entry: Entry, start: str, end: str, *, is_id: bool, got: str, header: str) -> Entry:
    """An entry with a time span; a clip named by an id may be a file ID_START_END, as in Kinetics.

    Args:
        entry: the entry without times.
        start: begin as written.
        end: end as written.
        is_id: whether the name is an id without suffix.
        got: the whole row, for messages.
        header: the names of the columns, for messages.
    """
    span = span_of(start.strip(), end.strip())
    if span is None or float("inf") in span or float("-inf") in span:
        return invalid(entry.file, entry.line, f"got {excerpt(got)!r}, expected {excerpt(header)}")
    first, last = span
    if first is None and last is None:
        return entry
    if not 0 <= (first or 0) <= (_LATEST - 1 if last is None else last) < _LATEST:
        expected = f"expected 0 <= time_start <= time_end < {_LATEST:,} seconds"
        return invalid(entry.file, entry.line, f"got {excerpt(got)!r}, {expected}")
    cuts: tuple[str, ...] = ()
    if is_id and first is not None and last is not None:
        begin, stop, name = int(first), int(last), entry.names[0]
        cuts = tuple(dict.fromkeys((f"{name}_{begin:06d}_{stop:06d}", f"{name}_{begin}_{stop}")))
    names = (*cuts, *entry.names)
    if first is not None and first == last:
        if first and not cuts:
            return invalid(entry.file, entry.line, f"got {excerpt(got)!r}, expected time_start < time_end")
        names = cuts if first else names  # a whole file of this name, or of no times
        first = last = None
    return entry._replace(names=names, start=first, end=last, cuts=len(cuts))


def labels_of(cell: str) -> tuple[str, ...]:
    """The classes in a cell: Charades' "c092 11.90 21.20;c147 0.00 12.60", or names separated by ";" or "|"."""
    parts = [part.strip() for part in re.split(r"[;|]", cell)]
    if all(not part or _CHARADES.fullmatch(part) for part in parts):
        parts = [part.split()[0] for part in parts if part]
    return tuple(dict.fromkeys(part for part in parts if part))


def name_of_url(name: str) -> str:
    """The clip that a URL names: the id of a video page, or the last part of the path."""
    if not _URL.match(name):
        return name
    try:
        parts = urlsplit(name if "://" in name else f"https://{name}")
        last = parts.path.rstrip("/").rsplit("/", 1)[-1]
        return parse_qs(parts.query).get("v", [""])[0] or unquote(last) or name
    except ValueError:
        return name


def with_decimal_points(cells: Mapping[Any, str], columns: Columns) -> dict[Any, str]:
    """Cells with times such as "1,5" as "1.5", which Excel writes in tables whose separator is no comma."""
    times = (columns.start, columns.end, columns.duration)
    return {
        place: cell.replace(",", ".") if place in times and _DECIMAL_COMMA.fullmatch(cell.strip()) else cell
        for place, cell in cells.items()
    }


def with_split(entry: Entry, value: str) -> Entry:
    """An entry with the split as written."""
    value = value.strip()
    if not value or entry.mistake:
        return entry
    split = split_named(value)
    if not split:
        return invalid(entry.file, entry.line, f"split {excerpt(value)!r}, expected train, val or test")
    return entry._replace(split=split)


def with_frames(entry: Entry, first: str, total: str, got: str) -> Entry:
    """An entry that is a part of a video or folder, from its first frame and its number of frames as written."""
    start, count = whole_number(first.strip()), whole_number(total.strip())
    if entry.mistake:
        return entry
    if start is None or count is None or start < 0 or count < 1:
        expected = "expected the first frame, 0 or more, and the number of frames, 1 or more"
        return invalid(entry.file, entry.line, f"got {excerpt(got)!r}, {expected}")
    return entry._replace(frames=(start, count))


def is_kept(entries: Sequence[Entry]) -> bool:
    """Whether any entry is valid."""
    return any(not entry.mistake for entry in entries)
