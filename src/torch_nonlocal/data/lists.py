"""Read lists of clips: tables with or without a header, text, JSON and JSON lines.

A list is read into entries; `find` maps classes to labels and names to files. `published` knows the data sets whose
lists cannot be told from their content.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import excerpt
from torch_nonlocal.data.columns import Columns, NoColumnError, columns_of, has_role
from torch_nonlocal.data.entries import (
    Entry,
    invalid,
    is_kept,
    labels_of,
    name_of_url,
    plain_entry,
    timed,
    times_of,
    with_split,
)
from torch_nonlocal.data.folders import SPLITS
from torch_nonlocal.data.published import class_names, hmdb51, hmdb51_files, is_ava, segments, ucf101
from torch_nonlocal.data.suffixes import LISTS, has_suffix
from torch_nonlocal.data.texts import json_of, lines_of
from torch_nonlocal.data.tree import Tree

_LIST_FOLDERS = re.compile(r"list|split|anno|label|meta", re.IGNORECASE)  # folders of lists, not of clips
_ENDS_IN_BLANKS = re.compile(r"\s\d+\s*$|^\s*([\"']).*\1\s+\S+\s*$")  # path and number, or a quoted path and a class
_FRAMES_AND_CLASS = re.compile(r"(.*\S)\s+(\d+)\s+(\d+)\s*")
_WORD = re.compile(r"[^\W\d][\w .-]*")
_DELIMITERS = ("\t", ";", ",", "|")
_SAMPLE = 1000  # lines that tell the kind of a list


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


@dataclass(frozen=True)
class Lists:
    """The lists of a dataset.

    Attributes:
        splits: the entries of each split; "all" for a list without splits.
        classes: class names, if the dataset lists them; else None.
        source: the file that lists the class names, or the first list.
        recognized: one line on how the lists were read.
        has_several: whether a clip can have several classes.
    """

    splits: dict[str, list[Entry]]
    classes: tuple[str, ...] | None
    source: Path
    recognized: str = ""
    has_several: bool = False


def find_lists(tree: Tree, fold: int) -> Lists | None:
    """Read the lists in a dataset's folder or in its folders named like "lists" or "annotations"; None without lists.

    Args:
        tree: the dataset's folders.
        fold: number of the split of UCF101 and HMDB51, 1 to 3, or value of the column "fold" whose clips are tested.

    Raises:
        ValueError: a list is malformed, or there are several lists for one split.
    """
    for folder in [tree.root, *(one for one in tree.folders(tree.root) if _LIST_FOLDERS.search(one.name))]:
        files = [folder / name for name in tree.listing(folder).lists]
        if any(file.name == "classInd.txt" for file in files):
            return Lists(*ucf101(files, fold), f"UCF101's lists, fold {fold}")
        if hmdb51_files(files):
            return Lists(*hmdb51(files, fold), f"HMDB51's lists, fold {fold}")
        if chosen := _by_split(files):
            read = {split: read_list(file, fold) for split, file in chosen.items()}
            splits = {split: _of_split(one.entries, split) for split, one in read.items()}
            # Some published test lists have no classes, for evaluation on a server.
            labelled = {split: entries for split, entries in splits.items() if is_kept(entries)}
            classes, source = class_names(files)
            recognized = "; ".join(dict.fromkeys(one.recognized for one in read.values()))
            several = any(one.has_several for one in read.values())
            return Lists(labelled or splits, classes, source or next(iter(chosen.values())), recognized, several)
        tables = [file for file in files if _is_table(file)]
        if len(tables) == 1:
            return lists_of_file(tables[0], files, fold)
    return None


def lists_of_file(file: Path, files: list[Path], fold: int) -> Lists:
    """A single list as the lists of a dataset; a column may name the split of each clip.

    Args:
        file: the list.
        files: the files beside it, one of which may list the classes.
        fold: value of the column "fold" whose clips are tested.

    Raises:
        ValueError: the list is malformed.
    """
    read = read_list(file, fold)
    splits = {"all": read.entries}
    if read.has_splits:
        splits = {split: [one for one in read.entries if one.split == split] for split in ("train", "val", "test")}
        rest = [one for one in read.entries if not one.split]  # mistakes, and rows without a split
        splits = {split: entries for split, entries in splits.items() if entries}
        if rest:
            first = next(iter(splits), "all")
            splits[first] = sorted([*splits.get(first, []), *rest], key=lambda one: abs(one.line))
    classes, source = class_names([one for one in files if one != file])
    return Lists(splits, classes, source or file, read.recognized, read.has_several)


def _of_split(entries: list[Entry], split: str) -> list[Entry]:
    """The entries of a list named after a split, without those that their column "split" puts elsewhere."""
    return [one for one in entries if one.split in ("", split)]


def read_list(file: Path, fold: int = 1) -> Read:
    """Read one list.

    Args:
        file: .json, .jsonl, .csv, .tsv or text. A header may name the columns; without one a table has two columns, the
            path and the class. Text is split at the last whitespace, or holds folder, number of frames and class.
        fold: value of the column "fold" whose clips are tested.

    Raises:
        ValueError: the file is not text, or has no entries, or it is unclear which column is the clip or the class.
    """
    if file.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return _read_json(file, fold)
    lines = list(lines_of(file))
    start = next((place for place, (_, line) in enumerate(lines) if not line.lstrip().startswith("#")), None)
    if start is None:
        start = 0
    if not lines:
        raise ValueError(f"{str(file)!r} lists no clips")
    first = lines[start][1]
    delimiter = next((mark for mark in _DELIMITERS if mark in first), None)
    text = [line for _, line in lines[start : start + _SAMPLE] if not line.lstrip().startswith("#")]
    if delimiter is None or (file.suffix == ".txt" and _ENDS_IN_BLANKS.search(first)):
        return _read_text(file, lines, text)
    if not first.lstrip().startswith("#"):
        lines = [*lines[start : start + 1], *lines[:start], *lines[start + 1 :]]  # the header before comments
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(lines[reader.line_num - 1][0], row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{str(file)!r} is not a list: {error}") from error
    return _read_table(file, rows, delimiter, fold)


def _read_text(file: Path, lines: list[tuple[int, str]], sample: list[str]) -> Read:
    frames = [_FRAMES_AND_CLASS.fullmatch(line) for line in sample]
    if sample and all(frames) and not any(found and has_suffix(found[1]) for found in frames):
        entries = []
        for number, line in lines:
            found = _FRAMES_AND_CLASS.fullmatch(line)
            if found:
                entries.append(plain_entry(found[1], found[3], file, number))
            elif not line.lstrip().startswith("#"):
                expected = "expected a folder of frames, their number and a class, as in other lines"
                entries.append(invalid(file, number, f"got {excerpt(line.strip())!r}, {expected}"))
        return Read(entries, f"{file.name}: folder of frames, number of frames, class")
    words = sample[0].split() if sample else []
    if len(words) == 2 and all(map(has_role, words)) and (columns := columns_of(words, str(file))):
        rows = [(number, line.rsplit(None, 1) if columns.clip == 0 else line.split(None, 1)) for number, line in lines]
        start = next(place for place, (_, row) in enumerate(rows) if row == words)
        cells = [(number, dict(enumerate(row)), " ".join(row)) for number, row in rows[start + 1 :]]
        return _read_columns(file, columns, cells, sample[0], 1)
    entries = []
    for number, line in lines:
        parts = line.rsplit(None, 1)
        entry = plain_entry(parts[0], parts[1] if len(parts) > 1 else "", file, number)
        if not (entry.mistake and line.lstrip().startswith("#")):
            entries.append(entry)
    return Read(entries, f"{file.name}: path, class")


def _read_table(file: Path, rows: list[tuple[int, list[str]]], delimiter: str, fold: int) -> Read:
    header = rows[0][1]
    if is_ava(rows[:_SAMPLE]):
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
    return _read_columns(file, columns, cells, ",".join(header), fold)


def _is_comment(row: list[str], width: int) -> bool:
    return len(row) != width and row[0].lstrip().startswith("#")


def _read_two_columns(file: Path, rows: list[tuple[int, list[str]]], delimiter: str) -> Read:
    width = len(rows[0][1])
    counted = [row for _, row in rows[:_SAMPLE] if not _is_comment(row, width)]
    if width == 3 and all(len(row) == 3 and row[1].strip().isdigit() and row[2].strip().isdigit() for row in counted):
        entries = [plain_entry(row[0], row[2], file, line) for line, row in rows if len(row) == 3]
        return Read(entries, f"{file.name}: folder of frames, number of frames, class")
    if width > 2 and any(cell.strip() for cell in rows[0][1][2:]):
        shown = excerpt(", ".join(rows[0][1]))
        expected = "expected two columns, path and class, or a header that names them, such as path,label"
        raise ValueError(f"{file}:{rows[0][0]}: {width} columns without a header: got {shown}; {expected}")
    _refuse_unknown_header(file, rows)
    entries = []
    for line, row in sorted(rows, key=itemgetter(0)):
        cells = row[:2] if width > 2 else row
        path = delimiter.join(cells[:-1])
        if len(cells) > 1:
            entry = plain_entry(path, cells[-1], file, line)
        else:
            entry = invalid(file, line, f"got {excerpt(''.join(cells))!r}, expected a path and a class")
        if not (entry.mistake and row and row[0].lstrip().startswith("#")):
            entries.append(entry)
    return Read(entries, f"{file.name}: path, class")


def _refuse_unknown_header(file: Path, rows: list[tuple[int, list[str]]]) -> None:
    """Refuse a first row of words over rows of paths: it is a header whose columns have unknown names."""
    (line, first), others = rows[0], [row for _, row in rows[1:_SAMPLE] if row]
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
    for line, cells, got in rows:
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
        if columns.split is not None:
            entry = with_split(entry, cells.get(columns.split, ""))
        entries.append(entry)
    has_splits = columns.split is not None and any(entry.split for entry in entries)
    if not has_splits and columns.fold is not None:
        entries, has_splits = (
            _by_fold(file, entries, [cells.get(columns.fold, "").strip() for _, cells, _ in rows], fold),
            True,
        )
    recognized = f"{file.name}: {columns.described()}"
    if several:
        recognized += f", several classes per clip, {unlabeled} clips without a class are not used"
    return Read(entries, recognized, has_splits, several)


def _by_fold(file: Path, entries: list[Entry], values: list[str], fold: int) -> list[Entry]:
    """The clips of one fold are tested, all others are trained on."""
    if str(fold) not in values:
        raise ValueError(f"{str(file)!r} has no fold {fold}: got {', '.join(sorted(set(values))[:10])}")
    return [
        entry._replace(split="test" if value == str(fold) else "train")
        for entry, value in zip(entries, values, strict=True)
    ]


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
    keys = tuple(dict.fromkeys(key for item in content[:_SAMPLE] if isinstance(item, dict) for key in item))
    try:
        columns = columns_of(keys, str(file))
    except NoColumnError:
        columns = None
    clip, label = (keys[columns.clip], keys[columns.label]) if columns else ("", "")
    several = any(isinstance(item, dict) and isinstance(item.get(label), list) for item in content[:_SAMPLE])
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


def _is_table(file: Path) -> bool:
    """Whether a file is a table whose header names the clip and the class."""
    if file.suffix.lower() not in (".csv", ".tsv"):
        return False
    try:
        _, first = next(lines_of(file))
        delimiter = next(mark for mark in _DELIMITERS if mark in first)
        return columns_of(next(csv.reader([first], delimiter=delimiter)), "") is not None
    except (ValueError, StopIteration, csv.Error):
        return False


def _by_split(files: list[Path]) -> dict[str, Path]:
    """The lists by split, from their file names (kinetics400_train.csv, something-something-v2-validation.json)."""
    chosen: dict[str, Path] = {}
    for split, names in SPLITS.items():
        matching = []
        for file in files:
            words = re.split(r"[^a-z]+", file.stem.lower())
            if file.suffix.lower() in LISTS and not {"labels", "classes"} & set(words):
                matching += [file] if set(names) & {word.removesuffix("list") for word in words} else []
        if len(matching) > 1:
            listed = ", ".join(file.name for file in matching)
            raise ValueError(
                f"{str(files[0].parent)!r} has several lists for {split!r}: {listed}; give one of them as the data"
            )
        if matching:
            chosen[split] = matching[0]
    return chosen
