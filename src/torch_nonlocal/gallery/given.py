"""Checks of what is stored or deleted, before anything is embedded or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from torch_nonlocal._common.files import encodable, printable
from torch_nonlocal._common.text import counted, listed, nearest
from torch_nonlocal.gallery.table import BOX, TEXTS, Entry, Rows

_COMPARED_NAMES = 20_000
_LEAST, _MOST = -(2**31), 2**31 - 1


def checked_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Entries as they are stored: undecodable bytes of file names become escapes, as in `encodable`.

    Raises:
        ValueError: no entries, an empty name or identity, or a name twice.
        TypeError: a field of another type; the message names the entry and the field.
    """
    if not entries:
        raise ValueError("no tracklets: expected at least one")
    stored = [_checked(one) for one in entries]
    twice = [name for name, count in Counter(one.name for one in stored).items() if count > 1]
    if twice:
        raise ValueError(f"{counted(len(twice), 'name')} of tracklets given twice: {listed(map(printable, twice))}")
    return stored


def checked_names(kind: str, given: Sequence[str]) -> list[str]:
    """Names of tracklets or identities as they are stored.

    Raises:
        TypeError: a string instead of a list of strings, or a value that is not a string.
    """
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise TypeError(f"{kind} is {given!r:.80}: expected a list of strings")
    return [encodable(one) for one in given]


def checked_positions(kept: Sequence[int], asked: Sequence[int], vectors: int) -> None:
    """Check the positions that a network returns with its vectors.

    Args:
        kept: positions that the vectors belong to.
        asked: positions that the network was asked for.
        vectors: number of vectors.

    Raises:
        ValueError: another number of vectors than of positions, a position twice, or one that was not asked for.
    """
    if vectors != len(kept):
        raise ValueError(f"the network gave {vectors} vectors of {counted(len(kept), 'tracklet')}")
    others = sorted(set(kept) - set(asked))
    if others:
        raise ValueError(
            f"the network gave vectors of positions {listed(map(str, others))}, "
            f"but was asked for {min(asked)} to {max(asked)}: expected positions in the list of all tracklets"
        )
    if len(set(kept)) < len(kept):
        raise ValueError("the network gave two vectors of one tracklet")


def missing_from(rows: Rows, entries: Sequence[Entry]) -> list[int]:
    """Positions of the entries that are not in the gallery.

    Raises:
        ValueError: the gallery has an entry under another identity.
    """
    identities = rows.identities
    place = {name: row for row, name in enumerate(rows.names)}
    for one in entries:
        row = place.get(one.name)
        if row is not None and (found := identities.names[identities.codes[row]]) != one.identity:
            raise ValueError(
                f"tracklet {one.name!r} is {found!r} in the gallery, now {one.identity!r}; "
                "delete it first, with `nonlocal gallery delete`"
            )
    return [number for number, one in enumerate(entries) if one.name not in place]


def rows_of(rows: Rows, names: Sequence[str], identities: Sequence[str], folder: Path) -> np.ndarray:
    """Mask of the rows with these names and identities.

    Raises:
        ValueError: none are given, or the gallery does not have one; the message suggests the nearest.
    """
    if not names and not identities:
        raise ValueError("nothing to delete: expected names of tracklets or identities")
    place = {name: row for row, name in enumerate(rows.names)}
    code = {name: number for number, name in enumerate(rows.identities.names)}
    for kind, given, known in (("tracklet", names, place), ("identity", identities, code)):
        for one in given:
            if one not in known:
                near = nearest(one, _similar(one, known))
                hint = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"the gallery in {folder} has no {kind} {one!r}{hint}")
    wanted = np.isin(rows.identities.codes, [code[one] for one in identities])
    wanted[[place[one] for one in names]] = True
    return wanted


def _checked(one: Entry) -> Entry:
    given = {field: getattr(one, field) for field in TEXTS}
    for field, text in given.items():
        if not isinstance(text, str):
            raise TypeError(f"{field} of tracklet {one.name!r:.80} is {text!r:.80}: expected a string")
    if not one.name or not one.identity:
        raise ValueError(f"tracklet {one.name!r} of identity {one.identity!r}: expected a name and an identity")
    if one.frame is not None and not _is_integer(one.frame):
        raise TypeError(f"frame of tracklet {one.name!r:.80} is {one.frame!r:.80}: expected an integer of 32 bits")
    if one.box is not None and not (len(one.box) == len(BOX) and all(map(_is_integer, one.box))):
        raise TypeError(f"box of tracklet {one.name!r:.80} is {one.box!r:.80}: expected 4 integers of 32 bits")
    texts = {field: encodable(text) for field, text in given.items() if not text.isascii()}
    return replace(one, **texts) if texts else one


def _is_integer(value: Any) -> bool:
    """Whether a number fits into the table."""
    return isinstance(value, Integral) and not isinstance(value, bool) and _LEAST <= int(value) <= _MOST


def _similar(given: str, known: Collection[str]) -> Collection[str]:
    """Names among which the nearest is sought: of very many, those with the same first half."""
    half = given[: len(given) // 2]
    return (
        known if len(known) <= _COMPARED_NAMES else [name for name in known if name.startswith(half)][:_COMPARED_NAMES]
    )
