"""What is wrong with a file that cannot be read, and the time that reading it may take."""

from __future__ import annotations

import os
import time
from typing import Literal

from torch import Tensor

Kind = Literal[
    "missing", "empty", "not a video", "audio only", "damaged", "too short", "too large", "time limit", "unreadable"
]
"""The ways in which a file is no clip."""


class BrokenVideoError(ValueError):
    """A file that gives no clip.

    Attributes:
        kind: in which way; the message says more.
    """

    def __init__(self, message: str, kind: Kind = "unreadable") -> None:  # a DataLoader repeats it with a message only
        super().__init__(message, kind)  # both are arguments, which pickle keeps
        self.kind: Kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


class SameSize:
    """Holds the frames of one clip to the size of its first.

    Args:
        name: the file or folder, for the message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._size: tuple[int, ...] = ()

    def check(self, picture_HWC: Tensor, where: str) -> None:
        """Raises BrokenVideoError if a frame, "at frame 3", has another size than the first."""
        size = tuple(picture_HWC.shape[:2])
        self._size = self._size or size
        if size != self._size:
            raise BrokenVideoError(
                f"the frames of {self.name} differ in size: {self._size}, then {size} (height, width) {where}",
                "damaged",
            )


class Deadline:
    """The end of the time that reading one file may take.

    Args:
        path: the file, for the message.
        seconds: the time from now; None has no end.
    """

    def __init__(self, path: str | os.PathLike[str], seconds: float | None) -> None:
        self.path = path
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, more than 0; None has no end."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def check(self) -> None:
        """Raises BrokenVideoError if the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            raise self.passed()

    def passed(self) -> BrokenVideoError:
        """The error that says so."""
        return BrokenVideoError(
            f"reading {os.fspath(self.path)!r} takes longer than the limit of {self.seconds:g} s", "time limit"
        )
