"""Frame sampling: which frames of a video form a clip.

A clip has `length` frames, `stride` apart, so it spans (length - 1) * stride + 1 frames. A video shorter than the span
is sampled at the largest stride at which the clip fits; a video of fewer than `length` frames is repeated from its
start (0, 1, 2, 0, 1, ...).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_NAMED = re.compile(r"(?:(\d+)x(\d+)|(\d+)-to-(\d+))")


class Schedule(NamedTuple):
    """Number of frames of a clip, and the distance between two of them, in frames of the video."""

    length: int
    stride: int


def parse_schedule(name: str) -> Schedule:
    """Parse the common names of clip schedules.

    Args:
        name: FRAMESxSTRIDE or SPAN-to-FRAMES: "8x8" is 8 frames, 8 apart; "64-to-32" is every second of 64 frames.

    Raises:
        ValueError: another format, or a number below 1.

    Reference: Feichtenhofer et al., SlowFast Networks, ICCV 2019 (T x stride); Wang et al., Non-local Neural Networks,
        CVPR 2018, section 4 (64 to 32).
    """
    match = _NAMED.fullmatch(name.strip().lower())
    expected = "expected FRAMESxSTRIDE such as 8x8, 32x2 or 4x16, or SPAN-to-FRAMES such as 64-to-32"
    if match is None:
        raise ValueError(f"frames: got {name!r}, {expected}")
    if match[1]:
        length, stride = int(match[1]), int(match[2])
    else:
        span, length = int(match[3]), int(match[4])
        if length < 1 or span % length:
            raise ValueError(f"frames: got {name!r}, but {span} is not a multiple of {length}; {expected}")
        stride = span // length
    if length < 1 or stride < 1:
        raise ValueError(f"frames: got {name!r}, but both numbers must be 1 or more; {expected}")
    return Schedule(length, stride)


def random_clip(total: int, length: int, stride: int, generator: torch.Generator) -> list[int]:
    """Frame indices of a clip at a random position; every start at which the clip fits is equally likely.

    Args:
        total: number of frames of the video, at least 1.
        length: number of frames of the clip, at least 1.
        stride: distance between two frames of the clip, at least 1.
        generator: a CPU generator; it is advanced once, whatever the video's length.

    Raises:
        ValueError: a number below 1.
    """
    import torch  # not at the top: command-line help parses schedules without torch

    _check(total, length, stride)
    stride = _fitting(total, length, stride)
    starts = max(total - (length - 1) * stride, 1)
    start = int(torch.randint(starts, (), generator=generator))
    return _indices(start, total, length, stride)


def uniform_clips(total: int, length: int, stride: int, clips: int) -> list[list[int]]:
    """Frame indices of clips evenly spaced over a video, the first at its start, the last at its end.

    A single clip is taken from the middle.

    Args:
        total: number of frames of the video, at least 1.
        length: number of frames of a clip, at least 1.
        stride: distance between two frames of a clip, at least 1.
        clips: number of clips, at least 1; in a short video they overlap or are equal.

    Raises:
        ValueError: a number below 1.
    """
    _check(total, length, stride)
    if clips < 1:
        raise ValueError(f"clips must be 1 or more, got {clips}")
    stride = _fitting(total, length, stride)
    last = max(total - (length - 1) * stride, 1) - 1
    starts = [last // 2] if clips == 1 else [round(number * last / (clips - 1)) for number in range(clips)]
    return [_indices(start, total, length, stride) for start in starts]


def _check(total: int, length: int, stride: int) -> None:
    for name, value in (("total", total), ("length", length), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def _fitting(total: int, length: int, stride: int) -> int:
    """The largest stride, up to the given one, at which the clip fits; at least 1."""
    return max(min(stride, (total - 1) // max(length - 1, 1)), 1)


def _indices(start: int, total: int, length: int, stride: int) -> list[int]:
    return [(start + number * stride) % total for number in range(length)]
