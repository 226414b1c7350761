"""Finding the clips of a data set: folders of classes, or the lists that data sets publish."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path, PurePosixPath

from torch_nonlocal.data.clip_list import Clip, ClipList, OnError, Problems, split_clips
from torch_nonlocal.data.folders import LAYOUT, SPLITS, clips_below, clips_of_folders, split_folders
from torch_nonlocal.data.lists import Entry, Lists, find_lists, lists_of_file


def find_clips(
    root: str | os.PathLike[str], split: str | None = None, *, fold: int = 1, on_error: OnError = "fail"
) -> ClipList:
    """Finds the clips of a data set and their classes; files are not opened.

    Understood, and tried in this order: lists in the folder (Kinetics CSV, UCF101 and HMDB51 split files,
    Something-Something JSON or CSV, "path class" or "path,class" named after their split); folders of classes, in the
    root or below train, val and test. A clip is a video file or a folder of numbered pictures. Names in lists are
    looked up anywhere below the root, and never outside it.

    Args:
        root: the folder, or one list, whose clips lie below its folder.
        split: "train", "val" or "test"; where there is no "val" the "test" is taken, and the other way round. None
            takes all clips.
        fold: which of the splits of UCF101 and HMDB51, 1 to 3.
        on_error: "fail" raises for the first mistake; "skip" leaves the clip out and says so in `ClipList.problems`.

    Returns:
        The clips in the order of their paths or lists, always the same. Labels have the same meaning in every split:
        classes are those that the data set lists, else those of its training clips.

    Raises:
        ValueError: if there are no clips or no such split; and, naming file and line, for a class that is unknown, out
            of range or without clips, a path that leaves the root, a malformed line, or a name of several files.
    """
    root = Path(root)
    problems = Problems(on_error)
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected {', '.join(map(repr, SPLITS))} or None for all")
    if not root.exists():
        raise ValueError(f"there is no folder of clips {str(root)!r}")
    lists = lists_of_file(root, split) if root.is_file() else find_lists(root, fold)
    if lists is not None:
        chosen = split if root.is_file() else _chosen(split, tuple(lists.splits), root)
        return _clips_of_lists(root.parent if root.is_file() else root, lists, chosen, problems)
    folders = split_folders(root)
    return clips_of_folders(root, folders, _chosen(split, tuple(folders), root), problems)


def available_splits(root: str | os.PathLike[str], *, fold: int = 1) -> tuple[str, ...]:
    """The splits that a data set comes with: some of "train", "val", "test"; none for bare folders of classes.

    Raises:
        ValueError: if a list is malformed.
    """
    root = Path(root)
    if not root.is_dir():
        return ()
    lists = find_lists(root, fold)
    return tuple(lists.splits) if lists is not None else tuple(split_folders(root))


def train_and_test(
    root: str | os.PathLike[str], *, fraction: float = 0.2, seed: int = 0, on_error: OnError = "fail"
) -> tuple[ClipList, ClipList]:
    """The clips to train on and those to measure on: the data set's own split, else a fifth of every class held out.

    Args:
        root: as for `find_clips`.
        fraction: as for `split_clips`.
        seed: as for `split_clips`.
        on_error: as for `find_clips`.

    Raises:
        ValueError: as `find_clips` and `split_clips`.
    """
    splits = available_splits(root)
    if "train" in splits and len(splits) > 1:
        held_out = "val" if "val" in splits else "test"  # published test lists often have no classes
        return find_clips(root, "train", on_error=on_error), find_clips(root, held_out, on_error=on_error)
    return split_clips(find_clips(root, on_error=on_error), fraction, seed)


def _chosen(split: str | None, available: tuple[str, ...], root: Path) -> str | None:
    """The split to take; "val" and "test" stand in for each other."""
    if split is None or split in available:
        return split
    stand_in = {"val": "test", "test": "val"}.get(split)
    if stand_in in available:
        return stand_in
    has = f"it has {', '.join(available)}" if available else "it has none; split_clips makes one"
    raise ValueError(f"{str(root)!r} has no split {split!r}: {has}")


def _clips_of_lists(root: Path, lists: Lists, split: str | None, problems: Problems) -> ClipList:
    classes = lists.classes or _classes_of(lists)
    numbers = {name: number for number, name in enumerate(classes)}
    locate = _Locator(root)
    labels: dict[Path, int] = {}
    for one in [split] if split else lists.splits:
        for entry in lists.splits[one]:
            mistake = entry.mistake or _wrong_label(entry, numbers) or locate.mistake(entry)
            if mistake:
                problems.add(mistake)
                continue
            path = locate(entry)
            label = numbers[entry.label] if entry.label in numbers else int(entry.label)
            if labels.setdefault(path, label) != label:
                problems.add(f"{entry.where}: {entry.names[0]!r} is {entry.label!r}, before {classes[labels[path]]!r}")
    clips = tuple(Clip(path, label) for path, label in labels.items())
    if not clips and not problems.found:
        raise ValueError(f"{str(lists.source)!r} lists no clips: {LAYOUT}")
    if split in (None, "train"):
        used = {clip.label for clip in clips}
        for number, name in enumerate(classes):
            if number not in used:
                problems.add(f"class {name!r} (number {number}) of {str(lists.source)!r} is empty: no clip is of it")
    return ClipList(root, classes, clips, tuple(problems.found))


def _classes_of(lists: Lists) -> tuple[str, ...]:
    """Names of the classes of the training clips (of all, where no split is for training)."""
    entries = lists.splits.get("train") or [entry for split in lists.splits.values() for entry in split]
    labels = {entry.label for entry in entries if not entry.mistake}
    if labels and all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        # A number beyond the number of clips cannot be a class: one before it would be empty.
        possible = [int(label) for label in labels if 0 <= int(label) < len(entries)]
        return tuple(str(number) for number in range(max(possible, default=-1) + 1))
    return tuple(sorted(labels))


def _wrong_label(entry: Entry, numbers: dict[str, int]) -> str:
    if entry.label in numbers:
        return ""
    if re.fullmatch(r"[+-]?\d+", entry.label):
        if 0 <= int(entry.label) < len(numbers):
            return ""
        return f"{entry.where}: label {entry.label} is out of range: expected 0 to {len(numbers) - 1}"
    near = difflib.get_close_matches(entry.label, numbers, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {len(numbers)} classes"
    return f"{entry.where}: unknown class {entry.label!r}{hint}"


class _Locator:
    """Looks up the names in lists below the root; walks through the folders once, when a name is not where it says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_stem: dict[str, list[PurePosixPath]] | None = None

    def mistake(self, entry: Entry) -> str:
        """What is wrong with an entry's names; nothing, or that they leave the root or fit several files."""
        for name in entry.names:
            if self._inside(name) is None:
                return f"{entry.where}: {name!r} lies outside {str(self.root)!r}"
        for name in entry.names:
            found = self._found(name)
            if len(found) > 1:
                return f"{entry.where}: {name!r} fits several files: {', '.join(map(str, found[:3]))}"
            if found:
                return ""
        return ""

    def __call__(self, entry: Entry) -> Path:
        """The entry's file; where there is none, the path at which it was expected."""
        for name in entry.names:
            found = self._found(name)
            if found:
                return self.root / found[0]
        return self.root / str(self._inside(entry.names[0]))

    def _inside(self, name: str) -> PurePosixPath | None:
        """A name as a path below the root, None if it leaves it."""
        path = name.replace("\\", "/")
        if os.path.isabs(path):
            path = os.path.relpath(path, self.root.absolute())
        path = os.path.normpath(path)
        if path.startswith("..") or path == "." or "\0" in path or os.path.isabs(path) or re.match(r"[A-Za-z]:", path):
            return None
        return PurePosixPath(path)

    def _found(self, name: str) -> list[PurePosixPath]:
        path = self._inside(name)
        if path is None:
            return []
        if (self.root / path).exists():
            return [path]
        if self._by_stem is None:
            self._by_stem = _index(self.root)
        fitting = []
        for candidate in self._by_stem.get(path.stem, []):
            end = candidate.parts[-len(path.parts) :]
            if end == path.parts or (not path.suffix and (*end[:-1], candidate.stem) == path.parts):
                fitting.append(candidate)
        return list(dict.fromkeys(fitting))


def _index(root: Path) -> dict[str, list[PurePosixPath]]:
    """All clips below the root, by name without suffix."""
    found: dict[str, list[PurePosixPath]] = {}
    for path in clips_below(root):
        found.setdefault(path.stem, []).append(PurePosixPath(path.relative_to(root).as_posix()))
    return found
