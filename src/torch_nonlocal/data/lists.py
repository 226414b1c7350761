"""Lists of clips as the data sets publish them: Kinetics, UCF101, HMDB51, Something-Something, and plain ones.

A list is read into entries (a clip's name, its class as written, where that stands); `clips` turns classes into
numbers and names into files.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch_nonlocal.data.folders import SPLITS, visible_folders

_PLACES = re.compile(r"list|split|anno|label|meta", re.IGNORECASE)  # folders that hold lists, not clips
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
        names: what the clip may be called, the likeliest first; with or without suffix and folders.
        label: the class as written, a name or a number.
        where: file and line, for messages.
        mistake: what is wrong with the line, if anything.
    """

    names: tuple[str, ...]
    label: str
    where: str
    mistake: str = ""


@dataclass(frozen=True)
class Lists:
    """The lists of a data set.

    Attributes:
        splits: the entries of each split.
        classes: names, where the data set says them; else None.
        source: the file that says them, or the first list.
    """

    splits: dict[str, list[Entry]]
    classes: tuple[str, ...] | None
    source: Path


def find_lists(root: Path, fold: int) -> Lists | None:
    """Reads the lists in a data set's folder, or in a folder of it that is named after them; None if there are none.

    Args:
        root: the folder.
        fold: which of the splits of UCF101 and HMDB51, 1 to 3.

    Raises:
        ValueError: if a list is malformed, or there are several for one split.
    """
    for folder in [root, *(one for one in visible_folders(root) if _PLACES.search(one.name))]:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
        by_name = {file.name: file for file in files}
        if "classInd.txt" in by_name:
            return _ucf101(by_name, fold)
        if any(re.search(r"_test_split\d\.txt$", name) for name in by_name):
            return _hmdb51(files, fold)
        if chosen := _by_split(files):
            splits = {split: read_list(file, split) for split, file in chosen.items()}
            # Lists for testing are also published without classes; they are for a server to judge.
            labelled = {split: entries for split, entries in splits.items() if not all(one.mistake for one in entries)}
            classes, source = _class_names(files)
            return Lists(labelled or splits, classes, source or next(iter(chosen.values())))
    return None


def lists_of_file(file: Path, split: str | None) -> Lists:
    """One list, given by its name, as the lists of a data set.

    Raises:
        ValueError: if it is malformed.
    """
    siblings = sorted(entry for entry in file.parent.iterdir() if entry.is_file())
    classes, source = _class_names(siblings)
    return Lists({split or "all": read_list(file, split)}, classes, source or file)


def read_list(file: Path, split: str | None = None) -> list[Entry]:
    """The entries of one list: Something-style JSON, Kinetics CSV, or a path and a class in each line.

    Args:
        file: .json, .csv, .tsv or text. A header that names the columns is understood; without one the path comes
            first and the class last. Text is divided at the last blank.
        split: rows whose column "split" says another one are left out.

    Raises:
        ValueError: if the file is no text or lists nothing.
    """
    if file.suffix.lower() == ".json":
        return list(_json_entries(file))
    lines = [(number, line) for number, line in enumerate(_text(file).splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError(f"{str(file)!r} lists no clips")
    delimiter = next((mark for mark in ("\t", ";", ",") if mark in lines[0][1]), None)
    if delimiter is None or (file.suffix == ".txt" and re.search(r"\s\d+\s*$", lines[0][1])):
        return [_divided(line.rsplit(None, 1), f"{file}:{number}") for number, line in lines]
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
        return [_divided([row[0], row[-1]] if len(row) > 1 else row, f"{file}:{number}") for number, row in rows]
    entries = []
    for number, row in rows[1:]:
        if _is_of(split, header, row):
            entries.append(_divided([row[i] for i in (path, label) if i < len(row)], f"{file}:{number}"))
    return entries


def _divided(parts: list[str], where: str) -> Entry:
    parts = [part.strip() for part in parts]
    if len(parts) < 2 or not all(parts):
        return _mistake(where, f"got {' '.join(parts)!r}, expected a path and a class")
    return Entry((parts[0],), parts[1], where)


def _mistake(where: str, message: str) -> Entry:
    return Entry((), "", where, f"{where}: {message}")


def _column(header: list[str], names: list[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _is_of(split: str | None, header: list[str], row: list[str]) -> bool:
    if split is None or split == "all" or "split" not in header or header.index("split") >= len(row):
        return True
    said = row[header.index("split")].strip().lower()
    return not said or said in SPLITS[split] or said not in {name for names in SPLITS.values() for name in names}


def _kinetics_entries(
    file: Path, header: list[str], rows: list[tuple[int, list[str]]], split: str | None
) -> Iterator[Entry]:
    """Files are named ID_START_END with six digits each, or ID."""
    columns = [_column(header, [name]) for name in ("label", "youtube_id", "time_start", "time_end")]
    if None in columns:
        yield _mistake(f"{file}:1", "expected the columns label, youtube_id, time_start and time_end")
        return
    for number, row in rows:
        if not _is_of(split, header, row):
            continue
        try:
            label, video, start, end = (row[column or 0].strip() for column in columns)
            times = f"{int(float(start)):06d}_{int(float(end)):06d}"
        except (IndexError, ValueError):
            yield _mistake(f"{file}:{number}", f"got {','.join(row)!r}, expected {','.join(header)}")
            continue
        if not label or not video:
            yield _mistake(f"{file}:{number}", f"got {','.join(row)!r}, without label or youtube_id")
            continue
        yield Entry((f"{video}_{times}", video), label, f"{file}:{number}")


def _json_entries(file: Path) -> Iterator[Entry]:
    for number, item in enumerate(_json(file, list), 1):
        where = f"{file}: entry {number}"
        if not isinstance(item, dict):
            yield _mistake(where, f"got {item!r}, expected an object with a path or id and a label or template")
            continue
        path = next((item[key] for key in _PATH_COLUMNS if key in item), "")
        # Something-Something: "label" is the sentence, "template" the class.
        label = next((item[key] for key in ("template", *_LABEL_COLUMNS) if key in item), "")
        yield _divided([str(path), _without_brackets(str(label))], where)


def _without_brackets(template: str) -> str:
    """Something-Something's templates carry brackets that its list of classes lacks."""
    return template.replace("[", "").replace("]", "")


def _ucf101(files: dict[str, Path], fold: int) -> Lists:
    """classInd.txt numbers the classes from 1; trainlist has PATH NUMBER, testlist PATH; a path begins with a class."""
    source = files["classInd.txt"]
    classes = _numbered_names(source, first=1)
    splits: dict[str, list[Entry]] = {}
    for split in ("train", "test"):
        file = files.get(f"{split}list{fold:02d}.txt")
        if file is None:
            continue
        lines = [(number, line.strip()) for number, line in enumerate(_text(file).splitlines(), 1) if line.strip()]
        splits[split] = [_ucf101_entry(line, classes, f"{file}:{number}") for number, line in lines]
    if not splits:
        raise ValueError(f"{str(source.parent)!r} has no trainlist{fold:02d}.txt and no testlist{fold:02d}.txt")
    return Lists(splits, classes, source)


def _ucf101_entry(line: str, classes: tuple[str, ...], where: str) -> Entry:
    path, *label = line.rsplit(None, 1)
    folder, slash, _ = path.replace("\\", "/").partition("/")
    if not label:
        return _divided([path, folder if slash else ""], where)
    if not label[0].isdigit() or not 1 <= int(label[0]) <= len(classes):
        return _mistake(where, f"label {label[0]} is out of range: expected 1 to {len(classes)}")
    name = classes[int(label[0]) - 1]
    if folder in classes and folder != name:
        return _mistake(where, f"label {label[0]} is {name!r}, but the path says {folder!r}")
    return _divided([path, name], where)


def _hmdb51(files: list[Path], fold: int) -> Lists:
    """CLASS_test_splitN.txt has lines FILE NUMBER: 1 is training, 2 is testing, 0 is neither."""
    ending = f"_test_split{fold}.txt"
    chosen = [file for file in files if file.name.endswith(ending)]
    if not chosen:
        raise ValueError(f"{str(files[0].parent)!r} has no *{ending}")
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    classes = tuple(sorted(file.name.removesuffix(ending) for file in chosen))
    for file in chosen:
        name = file.name.removesuffix(ending)
        for number, line in enumerate(_text(file).splitlines(), 1):
            if not line.strip():
                continue
            clip, *use = line.rsplit(None, 1)
            if use not in (["0"], ["1"], ["2"]):
                for entries in splits.values():
                    entries.append(_mistake(f"{file}:{number}", f"got {line.strip()!r}, expected a file and 0, 1 or 2"))
            elif use != ["0"]:
                clip = clip.strip()
                entry = Entry((f"{name}/{clip}", clip), name, f"{file}:{number}")
                splits["train" if use == ["1"] else "test"].append(entry)
    return Lists(splits, classes, chosen[0])


def _by_split(files: list[Path]) -> dict[str, Path]:
    """The lists by the words in their names (kinetics400_train.csv, something-something-v2-validation.json)."""
    chosen: dict[str, Path] = {}
    for split, names in SPLITS.items():
        matching = []
        for file in files:
            words = re.split(r"[^a-z]+", file.stem.lower())
            if file.suffix.lower() in (".csv", ".tsv", ".txt", ".json") and not {"labels", "classes"} & set(words):
                matching += [file] if set(names) & {word.removesuffix("list") for word in words} else []
        if len(matching) > 1:
            listed = ", ".join(file.name for file in matching)
            raise ValueError(f"{str(files[0].parent)!r} has several lists for {split!r}: {listed}; name one")
        if matching:
            chosen[split] = matching[0]
    return chosen


def _class_names(files: list[Path]) -> tuple[tuple[str, ...] | None, Path | None]:
    for file in files:
        if file.name in _CLASS_FILES:
            return _numbered_names(file, first=0), file
        if "labels" in re.split(r"[^a-z]+", file.stem.lower()):
            if file.suffix == ".json":  # Something-Something v2: name -> number
                numbers = {str(name): int(number) for name, number in _json(file, dict).items()}
                if sorted(numbers.values()) != list(range(len(numbers))):
                    raise ValueError(f"{str(file)!r} does not number its {len(numbers)} classes from 0")
                return tuple(sorted(numbers, key=numbers.__getitem__)), file
            if file.suffix == ".csv":  # Something-Something v1: one in each line
                return tuple(line.strip() for line in _text(file).splitlines() if line.strip()), file
    return None, None


def _numbered_names(file: Path, *, first: int) -> tuple[str, ...]:
    """One name in each line, or a number and a name, counted from `first`."""
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    divided = [line.split(None, 1) for line in lines]
    if all(len(parts) == 2 and parts[0].isdigit() for parts in divided):
        for place, parts in enumerate(divided):
            if int(parts[0]) != first + place:
                raise ValueError(f"{file}:{place + 1}: got {lines[place]!r}, expected class number {first + place}")
        lines = [parts[1] for parts in divided]
    if not lines or len(set(lines)) < len(lines):
        raise ValueError(f"{str(file)!r} names no classes" if not lines else f"{str(file)!r} names a class twice")
    return tuple(lines)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        expected = "expected a folder of clips, or a list in text"
        raise ValueError(f"{str(file)!r} is not a text file in UTF-8 ({place}): {expected}") from error


def _json(file: Path, kind: type) -> Any:
    try:
        content = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content
