"""Parse lists of clips: Kinetics, UCF101, HMDB51, Something-Something and plain lists.

A list is parsed into entries (name of the clip, class as written, position in the file); `clips` maps classes to labels
and names to files.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch_nonlocal._common.text import excerpt, megabytes
from torch_nonlocal.data.folders import SPLITS
from torch_nonlocal.data.tree import LISTS, Tree

_MOST_BYTES = 2**26  # of a list; that of the largest public dataset has 45 MB
_MOST_LINES = 10**6
_LONGEST_LINE = 2**14  # characters
_FEWEST_PER_OBJECT = 16  # characters of JSON; shorter objects take many times their text in memory
_LATEST = 10**6  # seconds; file names of Kinetics have six digits
_LIST_FOLDERS = re.compile(r"list|split|anno|label|meta", re.IGNORECASE)  # folders of lists, not of clips
_CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "label_map.txt")
_PATH_COLUMNS = [
    "path",
    "clip_path",
    "video_path",
    "filepath",
    "file",
    "filename",
    "video",
    "video_name",
    "clip",
    "name",
    "id",
    "video_id",
]
_LABEL_COLUMNS = ["label", "class", "action", "category", "template", "label_name", "class_name"]


class Entry(NamedTuple):
    """One line of a list.

    Attributes:
        names: possible names of the clip, most likely first, with or without suffix and folders.
        label: the class as written, a name or a number.
        where: file and line, for messages.
        mistake: the problem of an invalid line; "" for a valid one.
    """

    names: tuple[str, ...]
    label: str
    where: str
    mistake: str = ""


@dataclass(frozen=True)
class Lists:
    """The lists of a dataset.

    Attributes:
        splits: the entries of each split.
        classes: class names, if the dataset lists them; else None.
        source: the file that lists the class names, or the first list.
    """

    splits: dict[str, list[Entry]]
    classes: tuple[str, ...] | None
    source: Path


def find_lists(tree: Tree, fold: int) -> Lists | None:
    """Read the lists in a dataset's folder or in its folders named like "lists" or "annotations"; None without lists.

    Args:
        tree: the dataset's folders.
        fold: number of the split of UCF101 and HMDB51, 1 to 3.

    Raises:
        ValueError: a list is malformed, or there are several lists for one split.
    """
    for folder in [tree.root, *(one for one in tree.folders(tree.root) if _LIST_FOLDERS.search(one.name))]:
        files = [folder / name for name in tree.listing(folder).lists]
        by_name = {file.name: file for file in files}
        if "classInd.txt" in by_name:
            return _ucf101(by_name, fold)
        if any(re.search(r"_test_split\d\.txt$", name) for name in by_name):
            return _hmdb51(files, fold)
        if chosen := _by_split(files):
            splits = {split: read_list(file, split) for split, file in chosen.items()}
            # Some published test lists have no classes, for evaluation on a server.
            labelled = {split: entries for split, entries in splits.items() if not all(one.mistake for one in entries)}
            classes, source = _class_names(files)
            return Lists(labelled or splits, classes, source or next(iter(chosen.values())))
    return None


def lists_of_file(file: Path, tree: Tree, split: str | None) -> Lists:
    """A single list as the lists of a dataset.

    Args:
        file: the list.
        tree: the folders below that of the list.
        split: the split that the list is used for; None for all clips.

    Raises:
        ValueError: the list is malformed.
    """
    classes, source = _class_names([file.parent / name for name in tree.listing(tree.root).lists])
    return Lists({split or "all": read_list(file, split)}, classes, source or file)


def read_list(file: Path, split: str | None = None) -> list[Entry]:
    """The entries of one list: Something-Something JSON, Kinetics CSV, or one path and class per line.

    Args:
        file: .json, .csv, .tsv or text. A header may name the columns; without one the path is the first column and the
            class the last. Text is split at the last whitespace.
        split: rows whose column "split" has another value are skipped.

    Raises:
        ValueError: the file is not text, or it has no entries.
    """
    if file.suffix.lower() == ".json":
        return list(_json_entries(file))
    lines = [(number, line) for number, line in _lines(file) if not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError(f"{str(file)!r} lists no clips")
    delimiter = next((mark for mark in ("\t", ";", ",") if mark in lines[0][1]), None)
    if delimiter is None or (file.suffix == ".txt" and re.search(r"\s\d+\s*$", lines[0][1])):
        return [_entry(line.rsplit(None, 1), f"{file}:{number}") for number, line in lines]
    reader = csv.reader([line for _, line in lines], delimiter=delimiter)
    try:
        rows = [(lines[reader.line_num - 1][0], row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{str(file)!r} is not a list: {error}") from error
    header = [cell.strip().lower() for cell in rows[0][1]]
    if "youtube_id" in header:
        return list(_kinetics_entries(file, header, rows[1:], split))
    path, label = _column(header, _PATH_COLUMNS), _column(header, _LABEL_COLUMNS)
    if path is None or label is None:  # no header
        return [_entry([row[0], row[-1]] if len(row) > 1 else row, f"{file}:{number}") for number, row in rows]
    entries = []
    for number, row in rows[1:]:
        if _is_of(split, header, row):
            entries.append(_entry([row[i] for i in (path, label) if i < len(row)], f"{file}:{number}"))
    return entries


def _entry(parts: list[str], where: str) -> Entry:
    parts = [part.strip() for part in parts]
    if len(parts) < 2 or not all(parts):
        return _mistake(where, f"got {excerpt(' '.join(parts))!r}, expected a path and a class")
    return Entry((parts[0],), parts[1], where)


def _mistake(where: str, message: str) -> Entry:
    return Entry((), "", where, f"{where}: {message}")


def _column(header: list[str], names: list[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _is_of(split: str | None, header: list[str], row: list[str]) -> bool:
    if split is None or split == "all" or "split" not in header or header.index("split") >= len(row):
        return True
    value = row[header.index("split")].strip().lower()
    return not value or value in SPLITS[split] or value not in {name for names in SPLITS.values() for name in names}


def _kinetics_entries(
    file: Path, header: list[str], rows: list[tuple[int, list[str]]], split: str | None
) -> Iterator[Entry]:
    """Kinetics: files are named ID_START_END, with six digits for each time, or ID."""
    columns = [_column(header, [name]) for name in ("label", "youtube_id", "time_start", "time_end")]
    if None in columns:
        yield _mistake(f"{file}:1", "expected the columns label, youtube_id, time_start and time_end")
        return
    for number, row in rows:
        if not _is_of(split, header, row):
            continue
        try:
            label, video, start, end = (row[column or 0].strip() for column in columns)
            first, last = int(float(start)), int(float(end))
        except (IndexError, ValueError, OverflowError):
            yield _mistake(f"{file}:{number}", f"got {excerpt(','.join(row))!r}, expected {excerpt(','.join(header))}")
            continue
        if not 0 <= first <= last < _LATEST:
            expected = f"expected 0 <= time_start <= time_end < {_LATEST:,} seconds"
            yield _mistake(f"{file}:{number}", f"got {excerpt(','.join(row))!r}, {expected}")
            continue
        if not label or not video:
            yield _mistake(f"{file}:{number}", f"got {excerpt(','.join(row))!r}, expected a label and a youtube_id")
            continue
        yield Entry((f"{video}_{first:06d}_{last:06d}", video), label, f"{file}:{number}")


def _json_entries(file: Path) -> Iterator[Entry]:
    for number, item in enumerate(_json(file, list), 1):
        where = f"{file}: entry {number}"
        values = item if isinstance(item, dict) else {}
        path = next((values[key] for key in _PATH_COLUMNS if key in values), None)
        # Something-Something: "label" is the sentence, "template" is the class.
        label = next((values[key] for key in ("template", *_LABEL_COLUMNS) if key in values), None)
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in (path, label)):
            expected = "expected an object with a path or id, and a label or template, each a text or a whole number"
            yield _mistake(where, f"got {excerpt(json.dumps(item))!r}, {expected}")
            continue
        yield _entry([str(path), _without_brackets(str(label))], where)


def _without_brackets(template: str) -> str:
    """Remove the brackets of Something-Something's templates, which its class list does not have."""
    return template.replace("[", "").replace("]", "")


def _ucf101(files: dict[str, Path], fold: int) -> Lists:
    """UCF101: classInd.txt numbers the classes from 1; lines are PATH NUMBER or PATH, which starts with a class."""
    source = files["classInd.txt"]
    classes = _numbered_names(source, first=1)
    splits: dict[str, list[Entry]] = {}
    for split in ("train", "test"):
        file = files.get(f"{split}list{fold:02d}.txt")
        if file is None:
            continue
        known = frozenset(classes)
        splits[split] = [
            _ucf101_entry(line.strip(), classes, known, f"{file}:{number}") for number, line in _lines(file)
        ]
    if not splits:
        raise ValueError(f"{str(source.parent)!r} has no trainlist{fold:02d}.txt and no testlist{fold:02d}.txt")
    return Lists(splits, classes, source)


def _ucf101_entry(line: str, classes: tuple[str, ...], known: frozenset[str], where: str) -> Entry:
    path, *label = line.rsplit(None, 1)
    folder, slash, _ = path.replace("\\", "/").partition("/")
    if not label:
        return _entry([path, folder if slash else ""], where)
    number = whole_number(label[0])
    if number is None or not 1 <= number <= len(classes):
        return _mistake(where, f"label {excerpt(label[0])} is out of range: expected 1 to {len(classes)}")
    name = classes[number - 1]
    if folder in known and folder != name:
        return _mistake(where, f"label {label[0]} is {excerpt(name)!r}, but the path starts with {excerpt(folder)!r}")
    return _entry([path, name], where)


def _hmdb51(files: list[Path], fold: int) -> Lists:
    """HMDB51: CLASS_test_splitN.txt has lines FILE NUMBER: 1 is training, 2 is testing, 0 is unused."""
    ending = f"_test_split{fold}.txt"
    chosen = [file for file in files if file.name.endswith(ending)]
    if not chosen:
        raise ValueError(f"{str(files[0].parent)!r} has no *{ending}")
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    classes = tuple(sorted(file.name.removesuffix(ending) for file in chosen))
    for file in chosen:
        name = file.name.removesuffix(ending)
        for number, line in _lines(file):
            clip, *use = line.rsplit(None, 1)
            if use not in (["0"], ["1"], ["2"]):
                for entries in splits.values():
                    entries.append(
                        _mistake(f"{file}:{number}", f"got {excerpt(line.strip())!r}, expected a file and 0, 1 or 2")
                    )
            elif use != ["0"]:
                clip = clip.strip()
                entry = Entry((f"{name}/{clip}", clip), name, f"{file}:{number}")
                splits["train" if use == ["1"] else "test"].append(entry)
    return Lists(splits, classes, chosen[0])


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


def _class_names(files: list[Path]) -> tuple[tuple[str, ...] | None, Path | None]:
    for file in files:
        if file.name in _CLASS_FILES:
            return _numbered_names(file, first=0), file
        if "labels" in re.split(r"[^a-z]+", file.stem.lower()):
            if file.suffix == ".json":  # Something-Something v2: name -> number
                numbers = {name: whole_number(str(number)) for name, number in _json(file, dict).items()}
                if {*numbers.values()} != {*range(len(numbers))}:
                    raise ValueError(f"{str(file)!r} expected {len(numbers)} classes numbered 0 to {len(numbers) - 1}")
                return tuple(sorted(numbers, key=lambda name: numbers[name] or 0)), file
            if file.suffix == ".csv":  # Something-Something v1: one per line
                return tuple(line.strip() for _, line in _lines(file)), file
    return None, None


def _numbered_names(file: Path, *, first: int) -> tuple[str, ...]:
    """Names, one per line, optionally with consecutive numbers from `first`."""
    lines = [line.strip() for _, line in _lines(file)]
    pairs = [line.split(None, 1) for line in lines]
    if all(len(parts) == 2 and parts[0].isdigit() for parts in pairs):
        for index, parts in enumerate(pairs):
            if whole_number(parts[0]) != first + index:
                raise ValueError(
                    f"{file}:{index + 1}: got {excerpt(lines[index])!r}, expected class number {first + index}"
                )
        lines = [parts[1] for parts in pairs]
    if not lines or len(set(lines)) < len(lines):
        raise ValueError(f"{str(file)!r} lists no classes" if not lines else f"{str(file)!r} lists a class twice")
    return tuple(lines)


def whole_number(text: str) -> int | None:
    """The number that a text is; None for other text. Numbers of more than 18 digits, which no list needs, are cut."""
    return int(text[:19]) if re.fullmatch(r"[+-]?[0-9]+", text) else None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank.

    Raises:
        ValueError: the file is not a text, or too many or too long lines for a list.
    """
    text = _text(file)
    if text.count("\n") > _MOST_LINES:
        raise ValueError(f"{str(file)!r} has {text.count(chr(10)):,} lines, expected at most {_MOST_LINES:,}")
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > _LONGEST_LINE:
            expected = f"expected at most {_LONGEST_LINE:,}"
            raise ValueError(f"{file}:{number}: the line has {len(line):,} characters, {expected}")
        if line.strip():
            yield number, line


def _text(file: Path) -> str:
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"{str(file)!r} has {megabytes(size)}, expected a list of at most {megabytes(_MOST_BYTES)}")
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        position = f"{error.reason} at byte {error.start}"
        expected = "expected a folder of clips, or a list in text"
        raise ValueError(f"{str(file)!r} is not a text file in UTF-8 ({position}): {expected}") from error


def _json(file: Path, kind: type) -> Any:
    text = _text(file)
    if text.count("[") + text.count("{") > len(text) / _FEWEST_PER_OBJECT + _MOST_LINES:
        raise ValueError(f"{str(file)!r} is not a list of clips: it holds mostly brackets")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; deep nesting
        raise ValueError(f"{str(file)!r} is not a list of clips: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} contains a {type(content).__name__}, expected a {kind.__name__}")
    return content
