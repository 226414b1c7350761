"""Clips of one recording, told by their names: they belong to one side of a split."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from torch_nonlocal._common.text import listed

_STREAM_NAMES = (
    "rgb rgbd color colour depth flow flow_x flow_y opticalflow optical_flow tvl1 ir infrared thermal nir "
    "skeleton skeletons"
)
STREAMS = frozenset(_STREAM_NAMES.split())
"""Names of the streams of a recording, in the names of files and folders."""

_LONGEST = 255  # characters of a file name; bounds the time of the patterns

# Each names the recording in its group 1 and cannot backtrack more than once over a name.
_NAMED = (
    re.compile(r"(.+_g\d{2,3})_c\d{2,3}$"),  # UCF101: v_YoYo_g08_c01
    re.compile(r"(person\d{2,3})_[a-z]+_d\d(?:_uncomp)?$"),  # KTH: person01_boxing_d1_uncomp
    re.compile(r"s\d{3}c\d{3}(p\d{3})r\d{3}a\d{3}(?:_.*)?$"),  # NTU RGB+D: S001C001P001R001A001
    re.compile(r"([a-z0-9_-]{11})_\d{6}_\d{6}$"),  # Kinetics: ID_000003_000013; ID_3_13 is told by its 10 seconds
    re.compile(r"(.+?)_[a-z_]{3,30}_[fuhl]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d{1,3}$"),  # HMDB51
)
_UNPADDED = re.compile(r"([a-z0-9_-]{11})_(\d{1,5})_(\d{1,5})$")
_SECONDS = 10  # of a clip of Kinetics
_DERIVED = re.compile(r"(?:[ _.-]+(?:h?flip(?:ped)?|mirror(?:ed)?|copy))$")

_STREAM = re.compile(rf"(?<![^\W_])(?:{'|'.join(sorted(STREAMS, key=len, reverse=True))})(?![^\W\d_])", re.IGNORECASE)
_REMOVED = re.compile(r"^\0[ _.-]*|[ _.-]*\0")


def recording_of(name: str) -> str | None:
    """The recording that a clip's name tells (UCF101, HMDB51, KTH, NTU RGB+D, Kinetics); None for other names.

    Args:
        name: the clip's path relative to the root, with forward slashes; only the file name counts.
    """
    stem = PurePosixPath(name).stem.lower()[:_LONGEST]
    for pattern in _NAMED:
        if found := pattern.match(stem):
            return found[1]
    if (found := _UNPADDED.match(stem)) and int(found[3]) - int(found[2]) == _SECONDS:
        return found[1]
    return None


def base_name(name: str) -> str:
    """The name without its suffix, endings of derived files and names of streams.

    "a_flipped.mp4", "a.avi", "a_rgb.mp4" and "depth/a.mp4" are "a".
    """
    path = PurePosixPath(name)
    stem = path.stem.lower()
    base = str(path.parent / (_DERIVED.sub("", stem) or stem))
    return "/".join(filter(None, map(without_stream, base.split("/")))) if _STREAM.search(base) else base


def stream_of(name: str) -> str:
    """The stream that a name tells, such as "rgb" or "depth"; "" for none."""
    found = _STREAM.search(name)
    return found[0].lower() if found else ""


def without_stream(name: str) -> str:
    """The name of a file or folder without the names of streams: "clip1_rgb" is "clip1"."""
    return _REMOVED.sub("", _STREAM.sub("\0", name))


def several_streams(names: Sequence[str]) -> str:
    """A line about the recordings of which several streams are clips; "" if there are none.

    Args:
        names: paths of the clips relative to the root, with forward slashes.
    """
    if not any(map(_STREAM.search, names)):
        return ""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        found.setdefault(base_name(name), {}).setdefault(stream_of(name), name)
    several = [sorted(one.values()) for one in found.values() if len(one) > 1]
    if not several:
        return ""
    shown = listed([repr(name) for name in several[0]], most=3)
    what = "1 recording has" if len(several) == 1 else f"{len(several):,} recordings have"
    return f"{what} several streams, such as {shown}: each is a clip; to train on one stream, list its clips only"


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
