"""The meaning of the columns of a list, from the names in its header.

A name is split into words: "clip_name" and "Video ID" name a clip, "action_class" names a class. A name with a word of
another meaning ("person_id", "flow_path") has no role.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch_nonlocal._common.text import excerpt

Role = Literal["clip", "class", "start", "end", "duration", "first frame", "last frame", "split", "fold"]

_WORDS: dict[str, str] = {
    "place": "path filepath file filename dir directory folder location framedir frames",
    "clip": "clip video vid movie media url uri link src source youtube yt ytid sample",
    "name": "name",
    "id": "id uid ids",
    "class": "label class category action activity gesture sign gloss target template verb emotion event tag behavior "
    "behaviour exercise sport word y ground truth gt",
    "classes": "labels classes categories actions activities tags events verbs",
    "number": "id idx index num number no code int",
    "text": "name text title str",
}
_PLACES, _CLIPS, _NAMES, _IDS, _CLASSES, _SEVERAL, _NUMBERS, _TEXTS = (set(one.split()) for one in _WORDS.values())
_OBJECTS = _PLACES | _CLIPS | _CLASSES
_SECOND = _NAMES | _IDS | _NUMBERS | _TEXTS | _PLACES | _CLASSES
_KNOWN = _PLACES | _CLIPS | _CLASSES | _SEVERAL
_HEADERS: dict[Role, str] = {
    "clip": "frame dir|frame folder|frame path",
    "start": "time start|start time|start sec|start seconds|start s|t start|begin time|segment start|"
    "clip start|starttime|tstart|start timestamp|start|begin|from|onset",
    "end": "time end|end time|end sec|end seconds|end s|t end|stop time|segment end|clip end|endtime|tend|"
    "end timestamp|stop timestamp|end|stop|to|offset",
    "duration": "duration|duration sec|duration seconds|duration s|clip duration|dur",
    "first frame": "start frame|frame start|first frame|begin frame",
    "last frame": "end frame|stop frame|frame end|last frame",
    "split": "split|subset|set|partition|usage|phase|data split|dataset split",
    "fold": "fold|fold id|kfold|cv fold",
}
_CLIP: Role = "clip"
_CLASS: Role = "class"
_USUAL: dict[Role, str] = {"clip": "path", "class": "label"}
_EXACT: dict[str, Role] = {name: role for role, names in _HEADERS.items() for name in names.split("|")}
_COUNTS = ("num frames", "n frames", "nframes", "number of frames", "total frames", "frame count", "frames", "total")
_BARE = ("start", "begin", "from", "onset", "end", "stop", "to", "offset")  # seconds or frames: a time goes before them


class NoColumnError(ValueError):
    """A header names no clip or no class, as in published test lists without classes."""


class Columns(NamedTuple):
    """Indices (keys, in JSON) of the columns of each role; None for a role that no column has.

    Attributes:
        clip: path, name or id of the clip.
        label: class of the clip.
        has_several: whether a cell may name several classes.
        start: begin of the clip in the file, in seconds.
        end: end of the clip in the file, in seconds.
        duration: duration of the clip, in seconds, for a start without an end.
        first_frame: number of the first frame.
        part: first frame and number of frames of a clip that is a part of a file.
        split: split of the clip.
        fold: number of a fold.
        names: the names of all columns.
        others: the columns that are not used.
    """

    clip: int
    label: int
    has_several: bool
    start: int | None
    end: int | None
    duration: int | None
    first_frame: int | None
    part: tuple[int, int] | None
    split: int | None
    fold: int | None
    names: tuple[str, ...]
    others: tuple[int, ...]

    @property
    def ignored(self) -> list[str]:
        """Names of the columns that mean nothing here."""
        return [self.names[place] for place in self.others if self.names[place]]

    def described(self) -> str:
        """What was recognized, for messages."""
        roles = {"clip": self.clip, "class": self.label, "start": self.start, "end": self.end}
        roles |= {"duration": self.duration, "first frame": self.part and self.part[0]}
        found = [f"{role} = {self.names[place]!r}" for role, place in roles.items() if place is not None]
        return "columns " + ", ".join(found)


def columns_of(names: Sequence[str], where: str) -> Columns | None:
    """The roles of named columns; None if no name has the role of a clip or a class.

    Args:
        names: the cells of a header, or the keys of a JSON object.
        where: file, for messages.

    Raises:
        NoColumnError: no column may be the clip or the class.
        ValueError: several columns may be the clip or the class.
    """
    found: dict[Role, list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        if (role := _role(words_of(name))) is not None:
            found.setdefault(role[0], []).append((role[1], place))
    if "clip" not in found and "class" not in found:
        return None
    clip, label = (_only(role, found, names, where) for role in (_CLIP, _CLASS))

    def first(role: Role) -> int | None:
        return min(found[role])[1] if role in found else None

    part = _part_of(names, found)
    several = bool(set(words_of(names[label])) & _SEVERAL)
    end = first("end")
    duration = first("duration") if end is None and "start" in found else None
    times = first("start"), end, duration, first("first frame")
    used = (clip, label, *times[:3], *(part or ()), first("split"), first("fold"))
    others = tuple(place for place in range(len(names)) if place not in used)
    shown = tuple(excerpt(name.strip()) for name in names)
    return Columns(clip, label, several, *times, part, first("split"), first("fold"), shown, others)


def _part_of(names: Sequence[str], found: dict[Role, list[tuple[int, int]]]) -> tuple[int, int] | None:
    """The columns of the first frame and the number of frames (mmaction2); "offset" is a time only beside "onset"."""
    words = [" ".join(words_of(name)) for name in names]
    if "offset" not in words or "start" in found:
        return None
    offset = words.index("offset")
    if ends := [one for one in found.pop("end", []) if one[1] != offset]:
        found["end"] = ends
        return None
    count = next((place for place, name in enumerate(words) if name in _COUNTS), None)
    return None if count is None else (offset, count)


def has_role(name: str) -> bool:
    """Whether a cell of a header names a clip or a class."""
    role = _role(words_of(name))
    return role is not None and role[0] in ("clip", "class")


def _only(role: Role, found: dict[Role, list[tuple[int, int]]], names: Sequence[str], where: str) -> int:
    header = excerpt(", ".join(name.strip() for name in names))
    ranked = sorted(found.get(role, ()))
    if not ranked:
        raise NoColumnError(f"no column is the {role}: got {header}; name one {_USUAL[role]!r}")
    best = [place for rank, place in ranked if rank == ranked[0][0]]
    if len(best) > 1:
        both = " and ".join(repr(excerpt(names[place].strip())) for place in best[:3])
        raise ValueError(f"{where}: {both} may both be the {role}: got {header}; remove or rename one of them")
    return best[0]


def words_of(name: str) -> list[str]:
    """The words of a name: "clip_name", "clipName" and "clipname" have the words clip and name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name[:64])
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    return [part for word in words for part in _parts(word)]


def _parts(word: str) -> tuple[str, ...]:
    """A known word, or two of them written as one ("videoid", "classname")."""
    if word not in _KNOWN:
        for end in range(2, len(word) - 1):
            if word[:end] in _OBJECTS and word[end:] in _SECOND:
                return word[:end], word[end:]
    return (word,)


def _role(words: list[str]) -> tuple[Role, int] | None:
    """The role and the rank among the columns of this role, the lowest first."""
    if (exact := _EXACT.get(" ".join(words))) is not None:
        return exact, int(" ".join(words) in _BARE)
    own = set(words)
    if own & (_CLASSES | _SEVERAL) and own <= _CLASSES | _SEVERAL | _NUMBERS | _TEXTS | _CLIPS:
        return "class", 0 if "template" in own else 2 if own & _NUMBERS else 1
    if not own or not own <= _PLACES | _CLIPS | _NAMES | _IDS:
        return None
    places = own & _PLACES if own != {"frames"} else set()  # a folder of frames, or their number: only without another
    ranks = [places, own & _CLIPS, own & _NAMES, own]
    return "clip", next(rank for rank, some in enumerate(ranks) if some)
