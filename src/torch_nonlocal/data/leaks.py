"""Clips on both sides of a dataset's own split: the same file, a copy of it, or another clip of the recording."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from torch_nonlocal._common.files import printable
from torch_nonlocal.data.clip_list import Clip, ClipList
from torch_nonlocal.data.recordings import base_name, recording_of

_SHOWN = 3  # recordings


def find_leaks(
    lists: Mapping[str, ClipList], contents: Mapping[str, Sequence[str]], group: Callable[[str], str | None] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clips in "train" that another split has too.

    Two spans of one file are the same clip if they overlap.

    Args:
        lists: clips by split.
        contents: `content_digests` of the clips' paths.
        group: function from a clip's name to its recording, or None.

    Returns:
        One message per shared clip, and messages about recordings on both sides.
    """
    if "train" not in lists:
        return (), ()
    train = lists["train"]
    known: dict[str, list[Clip]] = {}
    for clip, content in zip(train.clips, contents["train"], strict=True):
        known.setdefault(content or os.path.realpath(clip.path), []).append(clip)
    leaks: list[str] = []
    for split, clips in lists.items():
        if split == "train":
            continue
        for clip, content in zip(clips.clips, contents[split], strict=True):
            same = [one for one in known.get(content or os.path.realpath(clip.path), ()) if _overlap(one, clip)]
            if same:
                name, first = clips.name(clip), train.name(same[0])
                what = "is also in" if same[0].path == clip.path else f"is a copy of {first!r} in"
                leaks.append(printable(f"{name!r} of the {split} split {what} the train split"))
    return tuple(leaks), tuple(_shared_recordings(lists, group))


def _overlap(one: Clip, other: Clip) -> bool:
    if one.frames and other.frames:
        return max(one.frames[0], other.frames[0]) < min(sum(one.frames), sum(other.frames))
    starts = one.start or 0.0, other.start or 0.0
    ends = (clip.end if clip.end is not None else float("inf") for clip in (one, other))
    return max(starts) < min(ends)


def _shared_recordings(lists: Mapping[str, ClipList], group: Callable[[str], str | None] | None) -> list[str]:
    def recordings(clips: ClipList) -> dict[str, str]:
        found = {}
        for clip in clips.clips:
            name = clips.name(clip)
            keys = (group(name) if group else None) or recording_of(name), base_name(name)
            for key in chain(filter(None, keys)):
                found.setdefault(key, name)
        return found

    train = recordings(lists["train"])
    messages = []
    for split, clips in lists.items():
        if split == "train":
            continue
        other = recordings(clips)
        both = [f"{train[key]!r} and {other[key]!r}" for key in other if key in train and train[key] != other[key]]
        if both:
            shown = ", ".join(both[:_SHOWN]) + (", ..." if len(both) > _SHOWN else "")
            messages.append(printable(f"{len(both)} recordings are in train and in {split}: {shown}"))
    return messages
