"""Which clips a data set has, and of which class each is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

OnError = Literal["fail", "skip"]
"""What a mistake in the data does: end the program with a ValueError, or leave the clip out and say so."""


class Clip(NamedTuple):
    """A video file or a folder of frames, and its class, an index into `ClipList.classes`."""

    path: Path
    label: int


@dataclass(frozen=True)
class ClipList:
    """Clips in a fixed order.

    Attributes:
        root: the folder that holds them.
        classes: names; a label is an index into this tuple.
        clips: path and label of each.
        problems: what was left out and why, and classes without clips, with on_error="skip".
        missing: for each path of a list where no clip was found, where it is listed and what was looked for.
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

    def name(self, clip: Clip) -> str:
        """The clip's path below the root, with forward slashes: the same wherever the data lie."""
        return clip.path.relative_to(self.root).as_posix() if clip.path.is_relative_to(self.root) else str(clip.path)


class Problems:
    """Takes the mistakes found in a data set.

    Args:
        on_error: "fail" raises a ValueError for the first, "skip" collects them.

    Raises:
        ValueError: if on_error is something else.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("fail", "skip"):
            raise ValueError(f"on_error: got {on_error!r}, expected 'fail' or 'skip'")
        self.on_error = on_error
        self.found: list[str] = []

    def add(self, message: str) -> None:
        """Raises or keeps the message."""
        if self.on_error == "fail":
            raise ValueError(message)
        self.found.append(message)


def split_clips(clips: ClipList, fraction: float = 0.2, seed: int = 0) -> tuple[ClipList, ClipList]:
    """Holds out a part of every class, for data that come without a split.

    Which clips are held out depends on their paths below the root and the seed alone: not on the order, nor on where
    the data lie. A class of two or more clips has at least one on either side; a single clip stays with the first.

    Args:
        clips: all clips.
        fraction: of each class to hold out, more than 0 and less than 1.
        seed: another seed holds out other clips.

    Returns:
        The clips to train on, and those held out; both with all classes and in the given order.

    Raises:
        ValueError: if the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and less than 1")
    held_out: set[Clip] = set()
    for label in range(len(clips.classes)):
        members = [clip for clip in clips.clips if clip.label == label]
        members.sort(key=lambda clip: hashlib.blake2b(f"{seed}:{clips.name(clip)}".encode()).digest())
        held_out.update(members[: min(max(round(len(members) * fraction), 1), len(members) - 1)] if members else ())
    parts = (
        tuple(clip for clip in clips.clips if clip not in held_out),
        tuple(clip for clip in clips.clips if clip in held_out),
    )
    first, second = (replace(clips, clips=part) for part in parts)
    return first, second
