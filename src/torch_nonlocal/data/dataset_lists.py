"""The lists of a dataset: which files of its folder are lists, and of which split."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.columns import columns_of
from torch_nonlocal.data.entries import Entry, is_kept
from torch_nonlocal.data.folders import SPLITS, split_named
from torch_nonlocal.data.lists import Read, read_list
from torch_nonlocal.data.published import class_names, hmdb51, hmdb51_files, ucf101
from torch_nonlocal.data.rows import DELIMITERS
from torch_nonlocal.data.suffixes import LISTS
from torch_nonlocal.data.texts import lines_of
from torch_nonlocal.data.tree import Tree

_LIST_FOLDERS = re.compile(r"list|split|anno|label|meta", re.IGNORECASE)  # folders of lists, not of clips
_FOLD = re.compile(r"(?:split|list|fold)[_-]?0*(\d+)", re.IGNORECASE)  # trainlist02.txt, val_split_2_videos.txt
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


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
    """Read the lists of a dataset; None without lists.

    They are in its folder, in a folder named like "lists" or "annotations", or one in the folder of each split.

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
        if chosen := _by_split(files, fold):
            read = {split: read_list(file, fold) for split, file in chosen.items()}
            only = next(iter(read.values()))
            if len(read) == 1 and len({one.split for one in only.entries if one.split}) > 1:
                return lists_of_file(next(iter(chosen.values())), files, fold)
            return _lists(chosen, read, files)
        tables = [file for file in files if _is_table(file)]
        if len(tables) == 1:
            return lists_of_file(tables[0], files, fold)
    return _in_split_folders(tree, fold)


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


def _lists(chosen: dict[str, Path], read: dict[str, Read], files: list[Path]) -> Lists:
    """The lists of several splits; rows that a column puts into another split are left out."""
    splits = {split: [entry for entry in one.entries if entry.split in ("", split)] for split, one in read.items()}
    # Some published test lists have no classes, for evaluation on a server.
    labelled = {split: entries for split, entries in splits.items() if is_kept(entries)}
    classes, source = class_names(files)
    about = list(dict.fromkeys(one.recognized for one in read.values() if one.recognized))
    for split, one in read.items():
        if labelled and split not in labelled:
            about.append(f"{chosen[split].name} is not used: it has no classes")
        elif others := len(one.entries) - len(splits[split]):
            about.append(f"{others} rows of {chosen[split].name} are not used: their column names another split")
    several = any(one.has_several for one in read.values())
    return Lists(labelled or splits, classes, source or next(iter(chosen.values())), "; ".join(about), several)


def _in_split_folders(tree: Tree, fold: int) -> Lists | None:
    """One table in the folder of each split, as Hugging Face's metadata.csv; its names are relative to its folder."""
    chosen: dict[str, Path] = {}
    for folder in tree.folders(tree.root):
        if split := split_named(folder.name):
            tables = [file for name in tree.listing(folder).lists if _is_table(file := folder / name)]
            if len(tables) != 1 or split in chosen:
                return None
            chosen[split] = tables[0]
    if not chosen:
        return None
    read: dict[str, Read] = {}
    for split, file in chosen.items():
        one = read_list(file, fold)
        entries = [
            entry._replace(names=tuple(f"{file.parent.name}/{name}" for name in entry.names)) for entry in one.entries
        ]
        read[split] = Read(entries, f"{file.parent.name}/{one.recognized}", False, one.has_several)
    return _lists(chosen, read, [tree.root / name for name in tree.listing(tree.root).lists])


def unused_lists(tree: Tree) -> str:
    """A line about the tables beside the folders of classes from which a dataset is read; "" if there are none."""
    folders = [tree.root, *(one for one in tree.folders(tree.root) if split_named(one.name))]
    files = [folder / name for folder in folders for name in tree.listing(folder).lists]
    names = [str(file.relative_to(tree.root)) for file in files if file.suffix.lower() in _TABLES]
    return f"folders of classes; not used as lists: {listed(names)}" if names else ""


def _is_table(file: Path) -> bool:
    """Whether a file is a table whose header names the clip and the class, or JSON lines with such keys."""
    suffix = file.suffix.lower()
    if suffix not in _TABLES:
        return False
    try:
        _, first = next(lines_of(file))
        if suffix in (".jsonl", ".ndjson"):
            item = json.loads(first)
            return isinstance(item, dict) and columns_of(tuple(item), "") is not None
        delimiter = next(mark for mark in DELIMITERS if mark in first)
        return columns_of(next(csv.reader([first], delimiter=delimiter)), "") is not None
    except (ValueError, StopIteration, csv.Error, RecursionError):
        return False


def _by_split(files: list[Path], fold: int) -> dict[str, Path]:
    """The lists by split, from their file names (kinetics400_train.csv, something-something-v2-validation.json)."""
    chosen: dict[str, Path] = {}
    for split, names in SPLITS.items():
        matching = []
        for file in files:
            words = re.split(r"[^a-z]+", file.stem.lower())
            if file.suffix.lower() in LISTS and not {"labels", "classes"} & set(words):
                matching += [file] if set(names) & {word.removesuffix("list") for word in words} else []
        if len(matching) > 1:
            matching = _of_fold(matching, fold) or _with_classes(matching) or matching
        if len(matching) > 1:
            names_of = ", ".join(file.name for file in matching)
            raise ValueError(
                f"{str(files[0].parent)!r} has several lists for {split!r}: {names_of}; give one of them as the data"
            )
        if matching:
            chosen[split] = matching[0]
    return chosen


def _of_fold(files: list[Path], fold: int) -> list[Path]:
    """The file of a fold among files that differ in its number only; none if they differ otherwise."""
    found = [_FOLD.search(file.stem) for file in files]
    if not all(found) or len({_FOLD.sub("", file.name) for file in files}) > 1:
        return []
    return [file for file, one in zip(files, found, strict=True) if one and int(one[1]) == fold]


def _with_classes(files: list[Path]) -> list[Path]:
    """The files that have classes, if only one has (Something-Something: test.json and test-answers.csv)."""
    kept = []
    for file in files:
        try:
            kept += [file] if is_kept(read_list(file).entries) else []
        except ValueError:
            return []
    return kept if len(kept) == 1 else []
