"""Small pieces of messages: suggestions, lists of names, excerpts, sizes."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, choices: Iterable[str], *, cutoff: float = 0.5) -> str:
    """The nearest right name as a phrase, "did you mean 'r3d_18'?", or "" if none is near."""
    folded = {choice.lower().replace("_", "-"): choice for choice in choices}
    near = difflib.get_close_matches(given.lower().replace("_", "-"), folded, n=1, cutoff=cutoff)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """Names joined by commas; from `most` on "and 7 more"."""
    all_names = list(names)
    shown = ", ".join(all_names[:most])
    return shown if len(all_names) <= most else f"{shown} and {len(all_names) - most} more"


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as "1 frame" or "8 frames"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def excerpt(text: str, *, most: int = 200) -> str:
    """A text from a file in a message, cut after `most` characters."""
    return text if len(text) <= most else text[:most] + "..."


def megabytes(count: float) -> str:
    """Bytes as text, such as "39 MB"."""
    return f"{count / 2**20:,.0f} MB" if count >= 2**20 else f"{count / 2**10:,.0f} kB"
