"""Find the clips of a dataset: folders of classes, or the lists that datasets publish."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import did_you_mean, excerpt
from torch_nonlocal.data.clip_list import Clip, ClipList, OnError, Problems
from torch_nonlocal.data.folders import LAYOUT, SPLITS, clips_of_folders, split_folders
from torch_nonlocal.data.lists import Entry, Lists, find_lists, lists_of_file, whole_number
from torch_nonlocal.data.tree import Tree, is_video_name

_HINTS = 50  # mistakes that suggest the nearest class, which compares with all of them
_NUMBERED = 3 / 4  # from this fraction of numeric classes on, a class name is an error


def find_clips(
    root: str | os.PathLike[str], split: str | None = None, *, fold: int = 1, on_error: OnError = "fail"
) -> ClipList:
    """Find the clips of a dataset and their classes, without opening the files.

    Supported layouts, tried in this order: lists in the folder (Kinetics CSV, UCF101 and HMDB51 split files,
    Something-Something JSON or CSV, "path class" or "path,class" lists named after their split); folders of classes, in
    the root or below train, val and test. A clip is a video file or a folder of numbered images. Names in lists are
    relative to the root (or absolute) and are searched below it, never outside.

    If no file lists the class names and at least three of four lines have a numeric class, classes are numbers, and a
    line with another class is an error.

    Args:
        root: the dataset's folder, or a single list, whose clips are below its folder.
        split: "train", "val" or "test"; "val" and "test" substitute for each other if one is missing. None takes all
            clips.
        fold: number of the split of UCF101 and HMDB51, 1 to 3.
        on_error: "fail" raises for the first problem; "skip" skips the clip and reports it in `ClipList.problems`.

    Returns:
        The clips, in the deterministic order of their paths or lists. Labels have the same meaning in every split:
        classes are those that the dataset lists, else those of its training clips. With on_error="skip" the list is
        empty if every line is invalid.

    Raises:
        ValueError: no clips, no such split, or a root that is a video; and, with file and line, a class that is
            unknown, out of range or without clips, a path outside the root, a malformed line, a clip in two classes,
            or a name that matches several files.
    """
    root = Path(root)
    problems = Problems(on_error)
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected {', '.join(map(repr, SPLITS))} or None for all")
    if not os.path.exists(root):
        raise ValueError(f"no folder of clips {str(root)!r}")
    if root.is_file() and is_video_name(root.name):
        expected = "expected a folder of clips, or a list in text; give the folder above it that holds all classes"
        raise ValueError(f"{str(root)!r} is a video: {expected}")
    if root.is_file():
        tree = Tree(root.parent, problems)
        lists = lists_of_file(root, tree, split)
        return _clips_of_lists(_Locator(tree, "the folder of the list"), lists, split, problems)
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is neither a folder nor a regular file: expected a folder of clips, or a list")
    tree = Tree(root, problems)
    if (lists := find_lists(tree, fold)) is not None:
        chosen = _chosen(split, tuple(lists.splits), root)
        return _clips_of_lists(_Locator(tree, "the data folder"), lists, chosen, problems)
    folders = split_folders(tree)
    return clips_of_folders(tree, folders, _chosen(split, tuple(folders), root), problems)


def available_splits(root: str | os.PathLike[str], *, fold: int = 1) -> tuple[str, ...]:
    """The splits of a dataset: some of "train", "val", "test"; none for plain folders of classes.

    Raises:
        ValueError: a list is malformed.
    """
    root = Path(root)
    if not root.is_dir():
        return ()
    tree = Tree(root, Problems("skip"))
    lists = find_lists(tree, fold)
    return tuple(lists.splits) if lists is not None else tuple(split_folders(tree))


def _chosen(split: str | None, available: tuple[str, ...], root: Path) -> str | None:
    """The split to use; "val" and "test" substitute for each other."""
    if split is None or split in available:
        return split
    substitute = {"val": "test", "test": "val"}.get(split)
    if substitute in available:
        return substitute
    has = f"it has {', '.join(available)}"
    if not available:
        has = "it has no splits; omit the split (training holds out a fifth of each class automatically)"
    raise ValueError(f"{str(root)!r} has no split {split!r}: {has}")


def _clips_of_lists(locate: _Locator, lists: Lists, split: str | None, problems: Problems) -> ClipList:
    classes = lists.classes or _classes_of(lists)
    numbers = {name: number for number, name in enumerate(classes)}
    labels: dict[Path, int] = {}
    first: dict[Path, str] = {}
    missing: dict[Path, str] = {}
    for one in [split] if split else lists.splits:
        for entry in lists.splits[one]:
            hints = len(problems.found) < _HINTS
            mistake = entry.mistake or _wrong_label(entry, numbers, hints)
            path, problem, exists = (locate.root, "", False) if mistake else locate(entry)
            if mistake or problem:
                problems.add(mistake or problem)
                continue
            if not exists:
                missing.setdefault(path, printable(locate.not_found(entry)))
            label = numbers[entry.label] if entry.label in numbers else int(entry.label)
            if labels.setdefault(path, label) != label:
                both = f"{excerpt(classes[label])!r} here, {excerpt(classes[labels[path]])!r} in {first[path]}"
                problems.add(
                    f"{entry.where}: {excerpt(entry.names[0])!r} is listed twice with different classes: {both}"
                )
            first.setdefault(path, entry.where)
    clips = tuple(Clip(path, label) for path, label in labels.items())
    if not clips and not problems.found:
        raise ValueError(f"{str(lists.source)!r} lists no clips: {LAYOUT}")
    if clips and split in (None, "train"):
        used = {clip.label for clip in clips}
        for number, name in enumerate(classes):
            if number not in used:
                problems.add(
                    f"class {excerpt(name)!r} (number {number}) of {str(lists.source)!r} is empty: it has no clips"
                )
    return ClipList(locate.root, classes, clips, tuple(problems.found), missing)


def _classes_of(lists: Lists) -> tuple[str, ...]:
    """Class names of the training clips (of all clips if there is no training split)."""
    entries = lists.splits.get("train") or [entry for split in lists.splits.values() for entry in split]
    labels = [entry.label for entry in entries if not entry.mistake]
    numbers = [number for label in labels if (number := whole_number(label)) is not None]
    if labels and len(numbers) >= _NUMBERED * len(labels):
        # A number beyond the number of clips cannot be a class, because a class before it would be empty.
        possible = [number for number in numbers if 0 <= number < len(entries)]
        return tuple(str(number) for number in range(max(possible, default=-1) + 1))
    return tuple(sorted(set(labels)))


def _wrong_label(entry: Entry, numbers: dict[str, int], hints: bool) -> str:
    if entry.label in numbers:
        return ""
    number = whole_number(entry.label)
    if number is not None:
        if 0 <= number < len(numbers):
            return ""
        expected = f"0 to {len(numbers) - 1}" if numbers else "0 or more"
        return f"{entry.where}: label {excerpt(entry.label)} is out of range: expected {expected}"
    if numbers and all(whole_number(name) is not None for name in numbers):
        expected = f"expected a number, 0 to {len(numbers) - 1}, as in other lines, or the names of all classes"
        return f"{entry.where}: unknown class {excerpt(entry.label)!r}; {expected} in a file classes.txt"
    hint = (hints and did_you_mean(entry.label, numbers, cutoff=0.6)) or f"expected one of {len(numbers)} classes"
    return f"{entry.where}: unknown class {excerpt(entry.label)!r}; {hint}"


class _Locator:
    """Find listed names below the root. The folders are walked once, when a name is not at its listed path."""

    def __init__(self, tree: Tree, description: str) -> None:
        self.root = tree.root
        self._tree = tree
        self._description = description
        self._real_root = os.path.realpath(tree.root)
        self._by_stem: dict[str, list[PurePosixPath]] | None = None

    def __call__(self, entry: Entry) -> tuple[Path, str, bool]:
        """The entry's file or folder of frames, the problem of its names ("" for none), and whether it exists.

        Problems are names outside the root, links that leave it, and names that match several files.
        """
        insides = []
        for name in entry.names:
            inside = self._inside(name)
            if inside is None:
                rule = f"paths in a list are relative to {self._description} and must be below it"
                outside = f"{excerpt(name)!r} is outside {str(self.root)!r}"
                return self.root, f"{entry.where}: {outside}: {rule}; move the list to a folder above its clips", False
            insides.append(inside)
        for name, inside in zip(entry.names, insides, strict=True):
            found = self._found(inside)
            if not found:
                continue
            path, shown = self.root / found[0], excerpt(name)
            if not self._tree.is_inside(path):
                target = f"it leads to {os.path.realpath(path)!r}"
                return path, f"{entry.where}: {shown!r} is a link that leaves {str(self.root)!r}: {target}", True
            if len(found) > 1:
                return path, f"{entry.where}: {shown!r} matches several files: {', '.join(found[:3])}", True
            return path, "", True
        return self.root / insides[0], "", False

    def not_found(self, entry: Entry) -> str:
        """The message for a missing clip: where it is listed, and which names were tried."""
        names = [name if PurePosixPath(name).suffix else f"{name}.*" for name in entry.names]
        return f"{entry.where}: no clip {' or '.join(repr(excerpt(name)) for name in names)} below {str(self.root)!r}"

    def _inside(self, name: str) -> str | None:
        """A name as a normalized path relative to the root; None if it is outside."""
        path = name.replace("\\", "/")
        if "\0" in path:
            return None
        path = self._from_root(path) if os.path.isabs(path) else os.path.normpath(path)
        if _leaves(path) or path == "." or os.path.isabs(path) or re.match(r"[A-Za-z]:", path):
            return None
        return path

    def _from_root(self, path: str) -> str:
        """An absolute path relative to the root; both may contain symbolic links."""
        relative = os.path.relpath(path, self.root.absolute())
        if _leaves(relative):
            relative = os.path.relpath(path, self._real_root)
        if _leaves(relative):
            folder, name = os.path.split(path)
            relative = os.path.relpath(os.path.join(os.path.realpath(folder), name), self._real_root)
        return relative

    def _found(self, path: str) -> list[str]:
        """The files that a normalized path may mean, relative to the root."""
        if os.path.lexists(os.path.join(self.root, path)):
            return [path]
        if self._by_stem is None:
            self._by_stem = _index(self._tree)
        matching = []
        for candidate in self._by_stem.get(os.path.splitext(os.path.basename(path))[0], []):
            listed = PurePosixPath(path)
            end = candidate.parts[-len(listed.parts) :]
            if end == listed.parts or (not listed.suffix and (*end[:-1], candidate.stem) == listed.parts):
                matching.append(str(candidate))
        return matching


def _leaves(path: str) -> bool:
    """Whether a normalized relative path starts with `..`."""
    return path == ".." or path.startswith("../")


def _index(tree: Tree) -> dict[str, list[PurePosixPath]]:
    """All clips below the root, by file name without suffix; a clip and links to it count once."""
    found: dict[str, list[PurePosixPath]] = {}
    known: set[str] = set()
    for path, real, _ in sorted(tree.clips(tree.root), key=lambda clip: clip.is_linked):
        if real not in known:
            known.add(real)
            found.setdefault(path.stem, []).append(PurePosixPath(path.relative_to(tree.root).as_posix()))
    return found
