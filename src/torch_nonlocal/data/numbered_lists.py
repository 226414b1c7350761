"""Lists without a header whose lines end in several numbers: number of frames, first frame, classes.

Folders of frames have TOTAL CLASS, TOTAL CLASS CLASS ... or FIRST TOTAL CLASS ... after their names, videos TOTAL CLASS
or CLASS CLASS ... (mmaction2). One form is chosen for the whole list: the only one that its numbers allow, for a clip
has at least one frame and does not have a class twice. Where several are possible, the folders decide, else the list is
refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch_nonlocal._common.text import excerpt
from torch_nonlocal.data.entries import Entry, invalid, plain_entry, unquoted
from torch_nonlocal.data.suffixes import has_suffix
from torch_nonlocal.media.frame_names import frame_number

Form = Literal["class", "classes", "several", "part"]
_DIGITS = 9  # of a number
_PROBED = 20  # folders that are looked at
_FEW = 10  # one line in 10 with fewer or more numbers than the others may be a mistake
_NUMBERS: dict[Form, str] = {
    "class": "number of frames, class",
    "classes": "number of frames, classes",
    "several": "classes",
    "part": "first frame, number of frames, class",
}


class Numbered(NamedTuple):
    """A line that ends in numbers.

    Attributes:
        line: number of the line.
        path: the text before all numbers.
        numbers: the numbers; empty for another line.
        text: the whole line.
        is_row: whether it is a row of a table, whose path is a cell.
    """

    line: int
    path: str
    numbers: tuple[int, ...]
    text: str
    is_row: bool = False

    def path_before(self, count: int) -> str:
        """The text before the last numbers; the name of a folder may end in a number after a blank."""
        return self.path if self.is_row else self.text.rsplit(None, count)[0]


class NumberedList(NamedTuple):
    """The entries of a list, what was recognized, and whether a clip can have several classes."""

    entries: list[Entry]
    recognized: str
    has_several: bool


def numbered_line(line: int, text: str) -> Numbered:
    """A line whose numbers are separated by blanks."""
    words = text.split()
    count = next((place for place, word in enumerate(reversed(words[1:])) if not _is_number(word)), len(words) - 1)
    if not count:
        return Numbered(line, text, (), text)
    return Numbered(line, text.rsplit(None, count)[0], tuple(map(int, words[-count:])), text)


def numbered_row(line: int, cells: Sequence[str]) -> Numbered:
    """A row of a table: a path and numbers."""
    numbers = [cell.strip() for cell in cells[1:]]
    text = ",".join(cells)
    is_numbered = bool(numbers) and all(map(_is_number, numbers))
    return Numbered(line, "".join(cells[:1]), tuple(map(int, numbers)) if is_numbered else (), text, True)


def read_numbered(file: Path, sample: Sequence[Numbered], rows: Iterable[Numbered]) -> NumberedList | None:
    """Read a list; None if its lines do not end in several numbers.

    Args:
        file: the list.
        sample: the first lines that are no comments.
        rows: all lines.

    Raises:
        ValueError: it is unclear what the numbers mean.
    """
    counted = [one for one in sample if len(one.numbers) > 1]
    if (len(sample) - len(counted)) * _FEW <= len(sample):
        sample = counted  # the others are mistakes, or videos of one class
    are_files = [has_suffix(unquoted(one.path.strip())) for one in sample]
    if len(set(are_files)) != 1 or not all(one.numbers for one in sample):
        return None
    form = _form_of_videos(file, sample) if are_files[0] else _form_of_folders(file, sample)
    if form is None:
        return None
    what = "video" if are_files[0] else "folder of frames"
    entries = []
    for one in rows:
        entry = _entry(file, one, form, f"{what}, {_NUMBERS[form]}")
        if not (entry.mistake and one.text.lstrip().startswith("#")):
            entries.append(entry)
    has_several = form in ("classes", "several") or any(entry.labels for entry in entries)
    if has_several:
        entries = [one if one.mistake or one.labels else one._replace(labels=(one.label,)) for one in entries]
    return NumberedList(entries, f"{file.name}: {what}, {_NUMBERS[form]}", has_several)


def _entry(file: Path, row: Numbered, form: Form, expected: str) -> Entry:
    first = {"class": 1, "classes": 1, "several": 0, "part": 2}[form]
    numbers = row.numbers[-2:] if form == "class" else row.numbers
    labels = tuple(map(str, numbers[first:]))
    if not labels or len(set(labels)) < len(labels):
        return invalid(file, row.line, f"got {excerpt(row.text.strip())!r}, expected {expected}, as in other lines")
    entry = plain_entry(row.path_before(2) if form == "class" else row.path, labels[0], file, row.line)
    if entry.mistake:
        return entry
    if form == "part":
        entry = entry._replace(frames=(numbers[0], numbers[1]))
    return entry._replace(labels=labels) if len(labels) > 1 or form in ("classes", "several") else entry


def _form_of_videos(file: Path, sample: Sequence[Numbered]) -> Form | None:
    counts = [len(one.numbers) for one in sample]
    if max(counts) == 1:
        return None
    are_classes = all(_are_distinct(one.numbers) for one in sample)
    are_sorted = all(list(one.numbers) == sorted(one.numbers) for one in sample)
    if min(counts) == 1:
        fewest = min(counts.count(1), len(counts) - counts.count(1))
        is_mistake = len(set(counts)) == 2 and (fewest < 2 or fewest * _FEW < len(counts))
        has_class_0 = any(len(one.numbers) > 1 and not one.numbers[0] for one in sample)  # which is no number of frames
        return "several" if are_classes and (has_class_0 or not is_mistake) else None
    firsts = {one.numbers[0] for one in sample}
    if set(counts) == {2}:
        if not are_classes or not (0 in firsts or (are_sorted and (len(sample) == 1 or len(firsts) > 1))):
            return "class"
        if are_sorted and min(firsts) < 2:
            return "several"
    elif are_classes and are_sorted and len(set(counts)) > 1:
        return "several"
    raise _unclear(file, sample, "the number of frames and a class, or classes")


def _form_of_folders(file: Path, sample: Sequence[Numbered]) -> Form | None:
    counts = [len(one.numbers) for one in sample]
    if min(counts) < 2:
        return None
    if max(counts) == 2:
        return "class"
    wide = [one for one in sample if len(one.numbers) > 2][:_PROBED]
    images = _images_below(file)
    if any(images(one.path_before(2)) and not images(one.path) for one in wide):
        return "class"  # of folders whose names end in a number
    totals: dict[str, set[int]] = {}
    for one in sample:
        totals.setdefault(one.path, set()).add(one.numbers[0])
    is_whole = all(one.numbers[0] and _are_distinct(one.numbers[1:]) for one in sample)
    is_whole = is_whole and all(len(own) == 1 for own in totals.values())
    is_part = min(counts) > 2 and all(one.numbers[1] and _are_distinct(one.numbers[2:]) for one in sample)
    if is_whole and is_part:
        found = [(one.numbers, count) for one in wide if (count := images(one.path))]
        is_part = bool(found) and all(first + total <= count for (first, total, *_), count in found)
        is_whole = bool(found) and all(total == count for (total, *_), count in found)
    if is_whole != is_part:
        return "part" if is_part else "classes"
    raise _unclear(
        file, sample, "the number of frames and classes, or the first frame, the number of frames and a class"
    )


def _unclear(file: Path, sample: Sequence[Numbered], either: str) -> ValueError:
    one = max(sample, key=lambda one: len(one.numbers))
    got = f"unclear numbers: got {excerpt(one.text.strip())!r}, which may be {either}"
    expected = "expected a first line with names of columns: 'path num_frames label', 'path offset num_frames label'"
    return ValueError(f"{file}:{one.line}: {got}; {expected}, or 'path labels' with '3;5' for two classes")


def _are_distinct(numbers: Sequence[int]) -> bool:
    return len(set(numbers)) == len(numbers)


def _is_number(word: str) -> bool:
    return len(word) <= _DIGITS and word.isascii() and word.isdecimal()


def _images_below(file: Path) -> Callable[[str], int]:
    """A function from a listed folder to its number of images; 0 if it is not below the list's folder or that above."""
    tops = [os.path.realpath(file.parent), os.path.realpath(file.parent.parent)]

    def count(name: str) -> int:
        for top in tops:
            folder = os.path.normpath(os.path.join(top, unquoted(name.strip()).replace("\\", "/")))
            if folder.startswith(top.rstrip(os.sep) + os.sep):
                try:
                    return sum(frame_number(one) is not None for one in os.listdir(folder))
                except (OSError, ValueError):
                    continue
        return 0

    return count
