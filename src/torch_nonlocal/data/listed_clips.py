"""Map the entries of lists to clips: classes to labels, names to files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch_nonlocal._common.files import encodable, printable
from torch_nonlocal._common.text import counted, did_you_mean, excerpt
from torch_nonlocal.data.clip_list import Clip, ClipList, Problems
from torch_nonlocal.data.dataset_lists import Lists
from torch_nonlocal.data.entries import Entry
from torch_nonlocal.data.folders import LAYOUT
from torch_nonlocal.data.locate import Locator
from torch_nonlocal.data.texts import whole_number

_HINTS = 50  # mistakes that suggest the nearest class, which compares with all of them
_NUMBERED = 3 / 4  # from this fraction of numeric classes on, a class name is an error
_CODE = re.compile(r"(c\d{3}) ")  # of a class of Charades, before its name

Key = str | tuple[str, float | None, float | None, tuple[int, int] | None]


class Missing(Mapping[Path, str]):
    """For each listed path without a file, where it is listed and which names were tried; composed when asked for."""

    def __init__(self, entries: list[tuple[Clip, Entry]], locate: Locator) -> None:
        self._entries, self._locate = entries, locate
        self._by_path: dict[Path, Entry] | None = None

    def _first(self) -> dict[Path, Entry]:
        if self._by_path is None:
            self._by_path = {clip.path: entry for clip, entry in reversed(self._entries)}
        return self._by_path

    def __getitem__(self, path: Path) -> str:
        return printable(self._locate.not_found(self._first()[path]))

    def __iter__(self) -> Iterator[Path]:
        return reversed(self._first())

    def __len__(self) -> int:
        return len(self._first())


def clips_of_lists(
    locate: Locator, lists: Lists, split: str | None, problems: Problems, *, needs_all_classes: bool
) -> ClipList:
    """The clips of one split, or of all splits.

    Args:
        locate: finds the files.
        lists: the entries.
        split: a key of `lists.splits`; None for all.
        problems: collects invalid lines and classes without clips.
        needs_all_classes: whether a class without clips is a problem, as in training.

    Raises:
        ValueError: the lists have no entries.
    """
    lists = _without_comments(lists, locate)
    classes = lists.classes or _classes_of(lists)
    number_of = _Labels(classes, are_listed=lists.classes is not None)
    found: dict[Key, tuple[Entry, tuple[int, ...]]] = {}
    missing: list[tuple[Clip, Entry]] = []
    clips: list[Clip] = []
    for one in [split] if split else lists.splits:
        for entry in lists.splits[one]:
            mistake = entry.mistake
            labels = tuple(map(number_of, entry.labels)) if entry.labels else (number_of(entry.label),)
            if -1 in labels:
                mistake = mistake or number_of.mistake(entry, with_hint=len(problems.found) < _HINTS)
            path, problem, place = ("", mistake, -1) if mistake else locate(entry)
            if problem:
                problems.add(problem)
                continue
            is_cut = 0 <= place < entry.cuts
            is_whole = is_cut or entry.start is entry.end is entry.frames is None
            key = path if is_whole else (path, entry.start, entry.end, entry.frames)
            first, known = found.setdefault(key, (entry, labels))
            if first is entry:
                span = (None, None) if is_cut else (entry.start, entry.end)
                several = labels if lists.has_several else ()
                clips.append(Clip(Path(path), labels[0], *span, several, entry.frames))
                if place < 0:
                    missing.append((clips[-1], entry))
            elif set(known) != set(labels):
                both = f"{excerpt(classes[labels[0]])!r} here, {excerpt(classes[known[0]])!r} in {first.where}"
                problems.add(
                    f"{entry.where}: {excerpt(entry.names[0])!r} is listed twice with different classes: {both}"
                )
    if not clips and not problems.found:
        raise ValueError(f"{str(lists.source)!r} lists no clips: {LAYOUT}")
    if clips and needs_all_classes:
        used = {label for clip in clips for label in clip.all_labels}
        for number, name in enumerate(classes):
            if number not in used:
                problems.add(
                    f"class {excerpt(name)!r} (number {number}) of {str(lists.source)!r} is empty: it has no clips"
                )
    about = {"is_multi_label": lists.has_several, "recognized": printable(lists.recognized)}
    about |= {"notes": _of_other_suffixes(locate)}
    shown = tuple(map(encodable, classes))
    return ClipList(locate.root, shown, tuple(clips), tuple(problems.found), Missing(missing, locate), **about)


def _of_other_suffixes(locate: Locator) -> tuple[str, ...]:
    """A line about the clips whose suffix is not the listed one."""
    if not locate.substitutes:
        return ()
    path, name = next(iter(locate.substitutes.items()))
    count = f"{counted(len(locate.substitutes), 'clip')} of another suffix than listed"
    return (printable(f"{count}, such as {path!r} for {excerpt(name)!r}"),)


def _without_comments(lists: Lists, locate: Locator) -> Lists:
    """Lists without the lines that start with "#", except those that name an existing clip."""
    splits = {
        split: [one for one in entries if not one.may_be_comment or (not one.mistake and locate(one)[2] >= 0)]
        for split, entries in lists.splits.items()
    }
    return replace(lists, splits=splits)


def _classes_of(lists: Lists) -> tuple[str, ...]:
    """Class names of the training clips (of all clips if there is no training split)."""
    entries = lists.splits.get("train") or [entry for split in lists.splits.values() for entry in split]
    labels = [label for one in entries if not one.mistake for label in one.labels or (one.label,)]
    numbers = [number for label in labels if (number := whole_number(label)) is not None]
    if labels and len(numbers) >= _NUMBERED * len(labels):
        # A number beyond the number of labels cannot be a class, because a class before it would be empty.
        possible = [number for number in numbers if 0 <= number < max(len(entries), len(labels))]
        return tuple(str(number) for number in range(max(possible, default=-1) + 1))
    return tuple(sorted(set(labels)))


class _Labels:
    """The classes of a dataset by name and number.

    Args:
        classes: class names.
        are_listed: whether the dataset lists them, in an order that numbers them.
    """

    def __init__(self, classes: tuple[str, ...], *, are_listed: bool) -> None:
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._are_numbers = all(whole_number(name) is not None for name in classes)
        self._are_listed = are_listed
        self._classes = classes
        self._are_counted = classes == tuple(map(str, range(len(classes))))
        for number, name in enumerate(classes):
            if code := _CODE.match(name):
                self._numbers.setdefault(code[1], number)

    def __call__(self, label: str) -> int:
        """The index of a class that a list gives by its name or number; -1 for an unknown class."""
        if (known := self._numbers.get(label)) is not None:
            return known
        number = whole_number(label)
        if number is None:
            return -1
        if self._are_numbers:  # "01" is class "1", which need not be the second
            return self._numbers.get(str(number), -1)
        return number if self._are_listed and 0 <= number < len(self._classes) else -1

    def mistake(self, entry: Entry, *, with_hint: bool) -> str:
        """The message for the first unknown class of an entry; "" if all are known."""
        wrong = next((label for label in entry.labels or (entry.label,) if self(label) < 0), None)
        return "" if wrong is None else f"{entry.where}: {self._unknown(wrong, with_hint)}"

    def _unknown(self, label: str, with_hint: bool) -> str:
        count = len(self._classes)
        names = excerpt(", ".join(self._classes[:3]))
        if whole_number(label) is None:
            if count and self._are_numbers:
                expected = f"expected a number, 0 to {count - 1}, as in other lines, or the names of all classes"
                return f"unknown class {excerpt(label)!r}; {expected} in a file classes.txt"
            hint = (with_hint and did_you_mean(label, self._numbers, cutoff=0.6)) or f"expected one of {count} classes"
            return f"unknown class {excerpt(label)!r}; {hint}"
        if self._are_counted or (self._are_listed and not self._are_numbers):
            expected = f"0 to {count - 1}" if count else "0 or more"
            return f"label {excerpt(label)} is out of range: expected {expected}"
        if self._are_numbers:
            return f"unknown class {excerpt(label)!r}; expected one of {count} classes, such as {names}"
        expected = f"expected a name such as {names}, or the names in the order of their numbers"
        return f"label {excerpt(label)} is a number, but the classes have names; {expected} in a file classes.txt"
