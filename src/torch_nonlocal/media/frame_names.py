"""The order of the images in a folder of frames, from their names.

The rule: all names start with the same text (the common prefix), the number that follows decides the order, and no two
images have the same number. Points of time in seconds ("0.04") and dates with times ("10-00-59") are numbers as well.
Everything after the number is ignored. Names without a number are no frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

PICTURES = frozenset((".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
"""Suffixes of images in a folder of frames."""

_NUMBER = re.compile(r"(\d+)\D*$")
_START = re.compile(r"(\d+)(?:\.(\d+))?(.*)", re.DOTALL)
_CLOCK = re.compile(r"(?:\d{4}[-_. ]?\d\d[-_. ]?\d\d[-_T. ]+)?\d\d[-_.h]\d\d[-_.m]\d\d(?:[-_.s]\d{1,9})?s?$")
_SHOWN = 3


def frame_number(name: str) -> int | None:
    """The number at the end of a frame's file name ("img_00012.jpg" is 12); None for other files."""
    stem, suffix = os.path.splitext(name)
    match = _NUMBER.search(stem)
    return int(match[1]) if match and suffix.lower() in PICTURES and not name.startswith(".") else None


def in_order(names: Iterable[str]) -> list[str]:
    """The frames among file names, in their order.

    Raises:
        ValueError: the names are of several streams, or their order is undecidable; the message gives names.
    """
    frames = sorted(name for name in names if frame_number(name) is not None)
    stems = [os.path.splitext(name)[0].lower() for name in frames]
    if len(frames) < 2:
        return frames
    if all(map(_CLOCK.search, stems)) and len({re.sub(r"\d", "0", stem) for stem in stems}) == 1:
        return _unique(frames, [(stem, "") for stem in stems])
    prefix = _prefix(stems)
    found = [_START.match(stem, len(prefix)) for stem in stems]
    if not all(found):
        _refuse_streams(frames, prefix)
    parts = [(match[1], match[2] or "", match[3]) for match in found if match]
    tails = {tail for _, _, tail in parts}
    if len(tails) > 1 and any(tail[:1].isalpha() for tail in tails):
        raise ValueError(f"it is unclear which number orders its images: {_shown(frames)}")
    return _unique(frames, _keys(frames, parts))


def _prefix(stems: list[str]) -> str:
    """The text that all names start with, without the digits, or the number with a point, that it ends with."""
    first, last = min(stems), max(stems)
    length = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    common = first[: len(min(first, last, key=len)) if length is None else length]
    without_digits = re.sub(r"\d+$", "", common)
    return re.sub(r"(?<!\d)\d+\.$", "", without_digits)


def _keys(frames: list[str], parts: list[tuple[str, str, str]]) -> list[tuple[int, ...]]:
    """Sort keys from the digits before and after a point: "1.5" is a time in seconds, or number 5 of part 1.

    Numbers after the same digits are frame numbers if they have no gaps; they are times if they have leading zeros, or
    follow a zero with no text around.

    Raises:
        ValueError: frame numbers and times give different orders, and none of this decides.
    """
    width = max(len(fraction) for _, fraction, _ in parts)
    as_times: list[tuple[int, ...]] = [
        (int(whole), int(fraction.ljust(width, "0") or "0")) for whole, fraction, _ in parts
    ]
    as_numbers: list[tuple[int, ...]] = [(int(whole), int(fraction or "-1")) for whole, fraction, _ in parts]
    times, numbers = (sorted(range(len(frames)), key=keys.__getitem__) for keys in (as_times, as_numbers))
    if times == numbers or len({whole for whole, _, _ in parts}) > 1:
        return as_times
    if any(len(fraction) > 1 and fraction[0] == "0" for _, fraction, _ in parts):
        return as_times
    values = [number for _, number in as_numbers]
    if max(values) - min(values) == len(values) - 1:
        return as_numbers
    if all(os.path.splitext(name)[0] == f"0.{fraction}" for name, (_, fraction, _) in zip(frames, parts, strict=True)):
        return as_times
    raise ValueError(f"it is unclear whether its images are numbered or named by time: {_shown(frames)}")


def _unique(frames: list[str], keys: Sequence[tuple]) -> list[str]:
    ordered = sorted(zip(keys, frames, strict=True))
    for (key, name), (following, other) in pairwise(ordered):
        if key == following:
            raise ValueError(f"several images have the same number: {name!r} and {other!r}")
    return [name for _, name in ordered]


def _refuse_streams(frames: list[str], prefix: str) -> None:
    """Raise for names that go on with different texts after the common prefix."""
    streams: dict[str, str] = {}
    for name in frames:
        text = re.match(r"\D*", name[len(prefix) :])
        streams.setdefault(text[0] if text else "", name)
    raise ValueError(f"its images are of several streams: {_shown(streams.values())}; expected one stream per folder")


def _shown(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(map(repr, shown[:_SHOWN])) + (", ..." if len(shown) > _SHOWN else "")
