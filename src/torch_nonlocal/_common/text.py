"""Small pieces of messages: suggestions, lists of names, excerpts, sizes."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(given: object, choices: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The nearest right name as a phrase, "did you mean 'r3d_18'?", or "" if none is near."""
    near = nearest(given, choices, cutoff=cutoff)
    return "" if near is None else f"did you mean {near!r}?"


def near_path(path: str | os.PathLike[str]) -> str:
    """The nearest existing path, for the end of a message about a missing one, or "" if none is near.

    It is a phrase such as "; did you mean 'runs/action'?". The first part of the path that does not exist is compared
    with the names beside it.
    """
    missing = Path(path)
    while missing != missing.parent and not os.path.lexists(missing.parent):
        missing = missing.parent
    try:
        near = nearest(missing.name, sorted(os.listdir(missing.parent)), cutoff=0.6)
    except OSError:
        return ""
    return "" if near is None else f"; did you mean {str(missing.parent / near)!r}?"


def nearest(given: object, choices: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The nearest right name, or None if none is near; case, "-" and "_" do not count.

    What is not a string is compared by how it prints: a message about a wrong type comes through here, too.
    """
    folded = {choice.lower().replace("_", "-"): choice for choice in choices}
    near = difflib.get_close_matches(str(given).lower().replace("_", "-"), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """Names joined by commas; from `most` on "and 7 more"."""
    all_names = list(names)
    shown = ", ".join(all_names[:most])
    return shown if len(all_names) <= most else f"{shown} and {len(all_names) - most} more"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun, such as "1 frame" or "8 frames"; the plural is the noun with an s unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def reason_of(error: Exception) -> str:
    """The message of an error in one line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def excerpt(text: str, *, most: int = 200) -> str:
    """A text from a file in a message, cut after `most` characters."""
    return text if len(text) <= most else text[:most] + "..."


def elided(text: str, most: int) -> str:
    """A text of at most `most` characters, at least 3; of a longer one the middle is left out."""
    if len(text) <= most:
        return text
    kept = max(most - 1, 2)
    return f"{text[: (kept + 1) // 2]}\u2026{text[len(text) - kept // 2 :]}"


def megabytes(count: float) -> str:
    """Bytes as text, such as "39 MB"."""
    return f"{count / 2**20:,.0f} MB" if count >= 2**20 else f"{count / 2**10:,.0f} kB"
