"""The split of each row of a list, from its columns: one that names it, one per fold, flags, or a number of a fold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch_nonlocal.data.columns import Columns, words_of
from torch_nonlocal.data.folders import split_named

_OF_FOLD = re.compile(r"(?:.* )?split ?0*(\d{1,6})")  # "split1", "train_test_split_2"
_FLAG = re.compile(r"(?:is |in )?(\w+?)(?: ?set)?")  # "is_train", "is_valid", "test"
_TRUE = ("1", "1.0", "true", "t", "yes", "y", "x")
_FALSE = ("", "0", "0.0", "false", "f", "no", "n")


def splits_of(file: Path, columns: Columns, rows: Sequence[Mapping[Any, str]], fold: int) -> tuple[list[str], str]:
    """The split of each row as written, "" for none, and what was recognized, for messages.

    Args:
        file: the list, for messages.
        columns: its columns.
        rows: cells by column.
        fold: number of the column of splits, or value of the column "fold" whose clips are tested.

    Raises:
        ValueError: no column, or no row, is of this fold.
    """

    def values(place: int) -> list[str]:
        return [row.get(place, "").strip() for row in rows]

    if columns.split is not None and any(found := values(columns.split)):
        return found, f", split = {columns.names[columns.split]!r}"
    names = {place: " ".join(words_of(columns.names[place])) for place in columns.others}
    numbered = {int(found[1]): place for place, name in names.items() if (found := _OF_FOLD.fullmatch(name))}
    if numbered:
        if fold not in numbered:
            raise ValueError(f"{str(file)!r} has no split {fold}: got {', '.join(map(str, sorted(numbered)))}")
        return values(numbered[fold]), f", split = {columns.names[numbered[fold]]!r}"
    flags = {
        place: split
        for place, name in names.items()
        if (found := _FLAG.fullmatch(name)) and (split := split_named(found[1])) and _are_flags(values(place))
    }
    if flags:
        shown = " and ".join(repr(columns.names[place]) for place in flags)
        return [_flagged({of: row.get(place, "").strip().lower() for place, of in flags.items()}) for row in rows], (
            f", split = {shown}"
        )
    if columns.fold is None:
        return [""] * len(rows), ""
    folds = values(columns.fold)
    if str(fold) not in folds:
        raise ValueError(f"{str(file)!r} has no fold {fold}: got {', '.join(sorted(set(folds))[:10])}")
    return ["test" if one == str(fold) else "train" for one in folds], f", fold = {columns.names[columns.fold]!r}"


def _are_flags(values: list[str]) -> bool:
    return all(value.lower() in _TRUE + _FALSE for value in values)


def _flagged(flags: Mapping[str, str]) -> str:
    """The split whose flag is set; without one, the split that has no flag."""
    found = [split for split, value in flags.items() if value in _TRUE]
    if len(found) > 1:
        return " and ".join(found)
    if found:
        return found[0]
    return "train" if "train" not in flags else "test" if len(flags) == 1 else f"none of {', '.join(flags)}"
