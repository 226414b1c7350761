"""Lists of published data sets whose form their content does not tell: UCF101, HMDB51, class names, segments, AVA."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import excerpt
from torch_nonlocal.data.columns import has_role, words_of
from torch_nonlocal.data.entries import Entry, invalid, plain_entry, timed, with_split
from torch_nonlocal.data.texts import json_as, lines_of, whole_number

_CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "label_map.txt")
_TEST_SPLIT = re.compile(r"_test_split\d\.txt$")
_NUMBER_FIRST = re.compile(r"(?P<number>\w+)(?:\s*[,;:|]\s*|\s+)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*[^\s,;:|])(?:\s*[,;:|]\s*|\s+)(?P<number>\w+)")
_CLASS_HEADER = re.compile(r"(?:label|class|action|category)(?: (?:id|index|idx|name))?|id|index|idx|number|name")
_AVA_COLUMNS = 8  # video, time, four sides of a box, action, person


def ucf101(files: list[Path], fold: int) -> tuple[dict[str, list[Entry]], tuple[str, ...], Path]:
    """UCF101: classInd.txt numbers the classes from 1; lines are PATH NUMBER or PATH, which starts with a class.

    Returns:
        The entries of each split, the class names and their file.
    """
    by_name = {file.name: file for file in files}
    source = by_name["classInd.txt"]
    classes = _numbered_names(source, first=1)
    known = frozenset(classes)
    splits: dict[str, list[Entry]] = {}
    for split in ("train", "test"):
        file = by_name.get(f"{split}list{fold:02d}.txt")
        if file is not None:
            splits[split] = [
                _ucf101_entry(line.strip(), classes, known, file, number) for number, line in lines_of(file)
            ]
    if not splits:
        raise ValueError(f"{str(source.parent)!r} has no trainlist{fold:02d}.txt and no testlist{fold:02d}.txt")
    return splits, classes, source


def _ucf101_entry(line: str, classes: tuple[str, ...], known: frozenset[str], file: Path, number: int) -> Entry:
    path, *label = line.rsplit(None, 1)
    folder, slash, _ = path.replace("\\", "/").partition("/")
    if not label:
        return plain_entry(path, folder if slash else "", file, number)
    index = whole_number(label[0])
    if index is None or not 1 <= index <= len(classes):
        return invalid(file, number, f"label {excerpt(label[0])} is out of range: expected 1 to {len(classes)}")
    name = classes[index - 1]
    if folder in known and folder != name:
        both = f"label {label[0]} is {excerpt(name)!r}, but the path starts with {excerpt(folder)!r}"
        return invalid(file, number, both)
    return plain_entry(path, name, file, number)


def hmdb51_files(files: list[Path]) -> bool:
    """Whether files include lists of HMDB51."""
    return any(_TEST_SPLIT.search(file.name) for file in files)


def hmdb51(files: list[Path], fold: int) -> tuple[dict[str, list[Entry]], tuple[str, ...], Path]:
    """HMDB51: CLASS_test_splitN.txt has lines FILE NUMBER: 1 is training, 2 is testing, 0 is unused.

    Returns:
        The entries of each split, the class names and the first list.
    """
    ending = f"_test_split{fold}.txt"
    chosen = [file for file in files if file.name.endswith(ending)]
    if not chosen:
        raise ValueError(f"{str(files[0].parent)!r} has no *{ending}")
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    classes = tuple(sorted(file.name.removesuffix(ending) for file in chosen))
    for file in chosen:
        name = file.name.removesuffix(ending)
        for number, line in lines_of(file):
            clip, *use = line.rsplit(None, 1)
            if use not in (["0"], ["1"], ["2"]):
                message = f"got {excerpt(line.strip())!r}, expected a file and 0, 1 or 2"
                for entries in splits.values():
                    entries.append(invalid(file, number, message))
            elif use != ["0"]:
                clip = clip.strip()
                entry = Entry((f"{name}/{clip}", clip), name, file, number)
                splits["train" if use == ["1"] else "test"].append(entry)
    return splits, classes, chosen[0]


def is_ava(rows: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether all rows have the form of AVA: a video, a time, a box in [0, 1], an action and a person."""
    return bool(rows) and all(len(row) in (_AVA_COLUMNS - 1, _AVA_COLUMNS) and _is_box(row) for _, row in rows)


def _is_box(row: list[str]) -> bool:
    try:
        float(row[1])
        sides = [float(cell) for cell in row[2:6] if cell.strip()]
    except ValueError:
        return False
    return all(0 <= side <= 1 for side in sides)


def segments(file: Path, content: Any) -> list[Entry] | None:
    """The entries of annotations by video, as ActivityNet and Kinetics publish them; None for another JSON.

    A video maps to {"subset": SPLIT, "annotations": [{"label": CLASS, "segment": [START, END]}, ...]}, or to a single
    annotation; all videos may be below "database".
    """
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        content = content["database"]
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(value, dict) and "annotations" in value for value in content.values()):
        return None
    entries: list[Entry] = []
    for name, video in content.items():
        annotations = video["annotations"]
        for one in annotations if isinstance(annotations, list) else [annotations]:
            number = -len(entries) - 1
            try:
                label, (start, end) = one["label"], (one.get("segment") or ("", ""))
            except (KeyError, TypeError, ValueError, AttributeError):
                got = excerpt(f"{name}: {one}")
                entries.append(invalid(file, number, f"got {got!r}, expected a label and a segment [start, end]"))
                continue
            entry = plain_entry(name, str(label), file, number)
            if not entry.mistake:
                got = f"{name},{start},{end},{label}"
                entry = timed(entry, str(start), str(end), is_id=True, got=got, header="video,start,end,label")
                entry = entry._replace(names=(*entry.names, f"v_{name}"))  # as ActivityNet names its files
            entries.append(with_split(entry, str(video.get("subset") or "")))
    return entries


def class_names(files: list[Path]) -> tuple[tuple[str, ...] | None, Path | None]:
    """The class names that a file lists, and this file; None without such a file."""
    for file in files:
        words = set(re.split(r"[^a-z]+", file.stem.lower()))
        if file.name in _CLASS_FILES:
            return _numbered_names(file, first=0), file
        if "charades" in words and "classes" in words and file.suffix == ".txt":  # "c000 Holding some clothes"
            return tuple(line.strip() for _, line in lines_of(file)), file
        if "vocab" in words and file.suffix == ".json":  # Diving48: [["Back", "15som", ...], ...]
            content = json_as(file, list)
            return tuple(" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in content), file
        if "labels" in words and file.suffix == ".json":  # Something-Something v2: name -> number
            numbers = {name: whole_number(str(number)) for name, number in json_as(file, dict).items()}
            if {*numbers.values()} != {*range(len(numbers))}:
                raise ValueError(f"{str(file)!r} expected {len(numbers)} classes numbered 0 to {len(numbers) - 1}")
            return tuple(sorted(numbers, key=lambda name: numbers[name] or 0)), file
        if "labels" in words and file.suffix == ".csv" and (names := _names_of_table(file)):
            return names, file
    return None, None


def _names_of_table(file: Path) -> tuple[str, ...] | None:
    """Class names, one per line or with a number (Something-Something, Kinetics: "id,name"); None for clips."""
    lines = [line.strip() for _, line in lines_of(file)]
    if not lines:
        return None
    header = lines[0].split(",")
    if any(map(has_role, header)) and not _is_class_header(lines[0]):
        return None
    if len(header) > 1 and _is_class_header(lines[0]) and _numbered(lines[1:]) is None:
        return None
    return _numbered_names(file, first=0)


def _is_class_header(line: str) -> bool:
    """Whether a line names columns of class names and their numbers only."""
    names = [" ".join(words_of(name)) for name in re.split(r"[,;:|\t]", line)]
    return all(map(_CLASS_HEADER.fullmatch, names))


def _numbered(lines: Sequence[str]) -> list[tuple[int, str, str]] | None:
    """Number, name and text of each line, in the order of the numbers; None if not all lines have a number."""
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        found = [one for line in lines if (one := pattern.fullmatch(line)) and one["number"].isdigit()]
        if not lines or len(found) < len(lines):
            continue
        numbers = [whole_number(one["number"]) for one in found]
        rows = [
            (-1 if number is None else number, one["name"].strip("\"'"), one[0])
            for number, one in zip(numbers, found, strict=True)
        ]
        rows.sort(key=lambda row: row[0])
        starts_at = rows[0][0]
        is_consecutive = [row[0] for row in rows] == list(range(starts_at, starts_at + len(rows))) and starts_at < 2
        if pattern is _NUMBER_FIRST or (is_consecutive and len({row[1] for row in rows}) == len(rows)):
            return rows
    return None


def _numbered_names(file: Path, *, first: int) -> tuple[str, ...]:
    """Names, one per line, optionally with consecutive numbers from `first` before or after them, in any order."""
    lines = [(number, line.strip()) for number, line in lines_of(file)]
    if len(lines) > 1 and _is_class_header(lines[0][1]):
        lines = lines[1:]
    names = [line for _, line in lines]
    if (rows := _numbered(names)) is not None:
        for index, (number, _, text) in enumerate(rows):
            if number != first + index:
                line = next(one for one, own in lines if own == text)
                raise ValueError(f"{file}:{line}: got {excerpt(text)!r}, expected class number {first + index}")
        names = [name for _, name, _ in rows]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{str(file)!r} lists no classes" if not names else f"{str(file)!r} lists a class twice")
    return tuple(names)
