"""Clips of one recording, told by their names: they belong to one side of a split."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

_LONGEST = 255  # characters of a file name; bounds the time of the patterns

# Each names the recording in its group 1 and cannot backtrack more than once over a name.
_NAMED = (
    re.compile(r"(.+_g\d{2,3})_c\d{2,3}$"),  # UCF101: v_YoYo_g08_c01
    re.compile(r"(person\d{2,3})_[a-z]+_d\d(?:_uncomp)?$"),  # KTH: person01_boxing_d1_uncomp
    re.compile(r"s\d{3}c\d{3}(p\d{3})r\d{3}a\d{3}(?:_.*)?$"),  # NTU RGB+D: S001C001P001R001A001
    re.compile(r"([a-z0-9_-]{11})_\d{6}_\d{6}$"),  # Kinetics: ID_000003_000013
    re.compile(r"(.+?)_[a-z_]{3,30}_[fuhl]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d{1,3}$"),  # HMDB51
)
_DERIVED = re.compile(r"(?:[ _.-]+(?:h?flip(?:ped)?|mirror(?:ed)?|copy))$")


def recording_of(name: str) -> str | None:
    """The recording that a clip's name tells (UCF101, HMDB51, KTH, NTU RGB+D, Kinetics); None for other names.

    Args:
        name: the clip's path relative to the root, with forward slashes; only the file name counts.
    """
    stem = PurePosixPath(name).stem.lower()[:_LONGEST]
    for pattern in _NAMED:
        if found := pattern.match(stem):
            return found[1]
    return None


def base_name(name: str) -> str:
    """The name without its suffix and without endings of derived files ("a_flipped.mp4" and "a.avi" are "a")."""
    path = PurePosixPath(name)
    stem = path.stem.lower()
    return str(path.parent / (_DERIVED.sub("", stem) or stem))


def group_pattern(pattern: str) -> Callable[[str], str | None]:
    """A function from a clip's name to its group.

    The pattern describes the start of the name, the path relative to the root with forward slashes. `*` stands for any
    characters and `{group}` for the characters that name the group; both end at the first occurrence of the text that
    follows. With "*/{group}_", the group of "walk/ann_03.mp4" is "ann".

    Raises:
        ValueError: the pattern has no `{group}`, or two placeholders without text between them.
    """
    parts = re.split(r"(\*|\{group\})", pattern)
    texts, marks = parts[::2], parts[1::2]
    if "{group}" not in marks:
        raise ValueError(f"group: got {pattern!r}, expected a pattern with {{group}}, such as '*/{{group}}_'")
    if "" in texts[1:-1]:
        raise ValueError(f"group: got {pattern!r}, expected text between two of {', '.join(sorted(set(marks)))}")

    def group_of(name: str) -> str | None:
        if not name.startswith(texts[0]):
            return None
        place, found = len(texts[0]), []
        for mark, text in zip(marks, texts[1:], strict=True):
            end = name.find(text, place) if text else len(name)
            if end < 0:
                return None
            if mark == "{group}":
                found.append(name[place:end])
            place = end + len(text)
        return "\0".join(found) if all(found) else None

    return group_of
