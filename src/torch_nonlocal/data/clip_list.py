"""Lists of clips with their classes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch_nonlocal._common.files import encodable, printable
from torch_nonlocal.data.fingerprints import content_digests
from torch_nonlocal.data.held_out import Member, held_out
from torch_nonlocal.data.recordings import recording_of

OnError = Literal["fail", "skip"]
"""Handling of invalid data: raise an error, or skip the clip and report it."""


class Clip(NamedTuple):
    """A video file or a folder of frames, and its class.

    Attributes:
        path: the file or folder.
        label: index into `ClipList.classes`; the first of several classes.
        start: begin of the clip in the file, in seconds; None for the start of the file.
        end: end of the clip in the file, in seconds; None for the end of the file.
        labels: all classes, in data where a clip can have several; empty in other data.
        frames: first frame, from 0, and number of frames, of a clip that is a part of a file or folder; None for all.
    """

    path: Path
    label: int
    start: float | None = None
    end: float | None = None
    labels: tuple[int, ...] = ()
    frames: tuple[int, int] | None = None

    @property
    def part(self) -> str:
        """The part of the file that is the clip, as the end of a key; "" for all of it."""
        if self.frames is not None:
            return f"@frames {self.frames[0]}-{sum(self.frames) - 1}"
        return "" if self.start is None and self.end is None else f"@{self.start}-{self.end}"

    @property
    def all_labels(self) -> tuple[int, ...]:
        """All classes of the clip."""
        return self.labels or (self.label,)


@dataclass(frozen=True)
class ClipList:
    """Clips in a fixed order.

    Attributes:
        root: folder of the clips.
        classes: class names; a label is an index into this tuple.
        clips: path and label of each clip.
        problems: skipped entries with the reason, and classes without clips, for on_error="skip".
        missing: for each listed path without a file, where it is listed and which names were tried.
        is_multi_label: whether a clip can have several classes, which are in `Clip.labels`.
        recognized: one line that says how the list was read; "" for folders.
        left_out: one line per file in the folders of classes that is no clip, with the reason.
        notes: lines about clips of another suffix than listed, and about several streams of a recording.
    """

    root: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    problems: tuple[str, ...] = ()
    missing: Mapping[Path, str] = field(default_factory=dict, compare=False)
    is_multi_label: bool = False
    recognized: str = ""
    left_out: tuple[str, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    def counts(self) -> tuple[int, ...]:
        """Number of clips of each class."""
        counts = [0] * len(self.classes)
        for clip in self.clips:
            for label in clip.all_labels:
                counts[label] += 1
        return tuple(counts)

    def fingerprint(self) -> dict[str, tuple[int, int | None]]:
        """Label and size of each clip by its key: bytes of a file, images of a folder, None for a missing clip."""
        return {self.key(clip): (clip.label, _size(clip.path)) for clip in self.clips}

    def key(self, clip: Clip) -> str:
        """The clip's name, with its span if it is a part of a file."""
        return self.name(clip) + clip.part

    def name(self, clip: Clip) -> str:
        """The clip's path relative to the root, with forward slashes, independent of the location of the data.

        Bytes of a name that are not UTF-8 become escapes.
        """
        inside = clip.path.is_relative_to(self.root)
        return encodable(clip.path.relative_to(self.root).as_posix() if inside else str(clip.path))


def sampled(clips: ClipList, most: int) -> list[Clip]:
    """Up to `most` clips of a list, evenly spaced."""
    count = min(len(clips), most)
    return [clips.clips[number * len(clips) // count] for number in range(count)]


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
        return len(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else found.st_size
    except OSError:
        return None


class Problems:
    """Collector of the problems found in a dataset.

    Args:
        on_error: "fail" raises a ValueError for the first problem; "skip" collects all.

    Raises:
        ValueError: another value of `on_error`.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("fail", "skip"):
            raise ValueError(f"on_error: got {on_error!r}, expected 'fail' or 'skip'")
        self.on_error = on_error
        self.found: list[str] = []

    def add(self, message: str) -> None:
        """Raise a ValueError with the message, or collect it; it becomes one line that any file or terminal takes."""
        message = printable(message)
        if self.on_error == "fail":
            raise ValueError(message)
        self.found.append(message)


def fingerprints(clips: ClipList, contents: Sequence[str] | None = None) -> tuple[str, ...]:
    """The fingerprint of each clip: its content and its span, or its name if the content cannot be read.

    Args:
        clips: the clips.
        contents: `content_digests` of their paths, if known.
    """
    known = content_digests([clip.path for clip in clips.clips]) if contents is None else contents
    found = []
    for clip, content in zip(clips.clips, known, strict=True):
        found.append(f"{content or 'name:' + clips.name(clip)}{clip.part}")
    return tuple(found)


def split_clips(
    clips: ClipList,
    fraction: float = 0.2,
    seed: int = 0,
    *,
    group: Callable[[str], str | None] | None = None,
    known: Mapping[str, str] | None = None,
    contents: Sequence[str] | None = None,
) -> tuple[ClipList, ClipList]:
    """Split off a held-out part, for data without a split, by the rule of `data.held_out`.

    The part of a clip depends on the seed and on its content (its recording, if its name tells one), not on its name,
    on other clips or on the location of the data. Copies, and clips of one recording, are in the same part. A clip that
    is the only one of its class is used for training.

    Args:
        clips: all clips.
        fraction: held-out fraction, more than 0 and less than 1.
        seed: seed of the choice.
        group: function from a clip's name to the name of its recording, or None.
        known: earlier assignments, from fingerprint to split; see `data.splits.Splits.record`.
        contents: `content_digests` of the clips' paths, if known.

    Returns:
        Training clips and held-out clips, both with all classes and in the given order.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and less than 1")
    contents = content_digests([clip.path for clip in clips.clips]) if contents is None else contents
    members = []
    for clip, content, fingerprint in zip(clips.clips, contents, fingerprints(clips, contents), strict=True):
        name = clips.name(clip)
        recording = group(name) if group else None
        members.append(Member(name, clip.all_labels, content, fingerprint, recording or recording_of(name)))
    held = held_out(members, fraction, seed, known or {})
    train, test = ([clip for clip, one in zip(clips.clips, held, strict=True) if one is side] for side in (False, True))
    return replace(clips, clips=tuple(train)), replace(clips, clips=tuple(test))
