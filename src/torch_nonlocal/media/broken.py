"""Errors of unreadable files, and deadlines for reading them."""

from __future__ import annotations

import os
import time
from typing import Literal

from torch import Tensor

Kind = Literal[
    "missing", "empty", "not a video", "audio only", "damaged", "too short", "too large", "time limit", "unreadable"
]
"""Reasons why a file is not a readable clip."""


class BrokenVideoError(ValueError):
    """A file cannot be read as a clip.

    Attributes:
        kind: category of the problem; the message has the details.
    """

    def __init__(self, message: str, kind: Kind = "unreadable") -> None:  # a DataLoader re-raises with the message only
        super().__init__(message, kind)  # pickle keeps arguments
        self.kind: Kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


class SameSize:
    """Check that all frames of a clip have the size of the first.

    Args:
        name: the file or folder, for the error message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._size: tuple[int, ...] = ()

    def check(self, picture_HWC: Tensor, where: str) -> None:
        """Check a frame.

        Args:
            picture_HWC: the frame.
            where: its position, for the message, such as "at frame 3".

        Raises:
            BrokenVideoError: its size differs from that of the first frame.
        """
        size = tuple(picture_HWC.shape[:2])
        self._size = self._size or size
        if size != self._size:
            raise BrokenVideoError(
                f"the frames of {self.name} differ in size: {self._size}, then {size} (height, width) {where}",
                "damaged",
            )


class Deadline:
    """Time limit for reading one file.

    Args:
        path: the file, for the error message.
        seconds: the limit, counted from now; None for no limit.
    """

    def __init__(self, path: str | os.PathLike[str], seconds: float | None) -> None:
        self.path = path
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, more than 0; None for no limit."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def check(self) -> None:
        """Raise a BrokenVideoError if the limit is exceeded."""
        if self._end is not None and time.monotonic() > self._end:
            raise self.passed()

    def passed(self) -> BrokenVideoError:
        """The error of an exceeded limit."""
        return BrokenVideoError(
            f"reading {os.fspath(self.path)!r} takes longer than the limit of {self.seconds:g} s", "time limit"
        )
