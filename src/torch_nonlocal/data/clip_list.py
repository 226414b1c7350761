"""Lists of clips with their classes."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch_nonlocal._common.files import encodable, printable

OnError = Literal["fail", "skip"]
"""Handling of invalid data: raise an error, or skip the clip and report it."""


class Clip(NamedTuple):
    """A video file or a folder of frames, and its class, an index into `ClipList.classes`."""

    path: Path
    label: int


@dataclass(frozen=True)
class ClipList:
    """Clips in a fixed order.

    Attributes:
        root: folder of the clips.
        classes: class names; a label is an index into this tuple.
        clips: path and label of each clip.
        problems: skipped entries with the reason, and classes without clips, for on_error="skip".
        missing: for each listed path without a file, where it is listed and which names were tried.
    """

    root: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    problems: tuple[str, ...] = ()
    missing: dict[Path, str] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.clips)

    def counts(self) -> tuple[int, ...]:
        """Number of clips of each class."""
        counts = [0] * len(self.classes)
        for clip in self.clips:
            counts[clip.label] += 1
        return tuple(counts)

    def fingerprint(self) -> dict[str, tuple[int, int | None]]:
        """Label and size of each clip by its name: bytes of a file, images of a folder, None for a missing clip."""
        return {self.name(clip): (clip.label, _size(clip.path)) for clip in self.clips}

    def name(self, clip: Clip) -> str:
        """The clip's path relative to the root, with forward slashes, independent of the location of the data.

        Bytes of a name that are not UTF-8 become escapes.
        """
        inside = clip.path.is_relative_to(self.root)
        return encodable(clip.path.relative_to(self.root).as_posix() if inside else str(clip.path))


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


def split_clips(clips: ClipList, fraction: float = 0.2, seed: int = 0) -> tuple[ClipList, ClipList]:
    """Split off a held-out part of every class, for data without a split.

    The held-out clips depend only on the seed and on paths relative to the root, not on the order of the clips or the
    location of the data. A class of at least two clips has at least one clip in each part; a single clip is used for
    training.

    Args:
        clips: all clips.
        fraction: held-out fraction of each class, more than 0 and less than 1.
        seed: seed of the choice.

    Returns:
        Training clips and held-out clips, both with all classes and in the given order.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and less than 1")
    classes: dict[int, list[Clip]] = {}
    for clip in clips.clips:
        classes.setdefault(clip.label, []).append(clip)
    held_out: set[Clip] = set()
    for members in classes.values():
        members.sort(key=lambda clip: hashlib.blake2b(f"{seed}:{clips.name(clip)}".encode()).digest())
        held_out.update(members[: min(max(round(len(members) * fraction), 1), len(members) - 1)])
    parts = (
        tuple(clip for clip in clips.clips if clip not in held_out),
        tuple(clip for clip in clips.clips if clip in held_out),
    )
    first, second = (replace(clips, clips=part) for part in parts)
    return first, second
