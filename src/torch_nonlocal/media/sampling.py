"""Frame sampling: which frames of a video form a clip.

A window of `length` frames, `stride` apart, spans (length - 1) * stride + 1 frames. A video shorter than the span is
sampled at the largest stride at which the window fits; a video of fewer than `length` frames is repeated from its start
(0, 1, 2, 0, 1, ...).

A uniform clip has one frame of each of `length` equal parts of the video: part i holds the frames from
i * total // length to (i + 1) * total // length, exclusive. In a video of fewer than `length` frames some parts are
empty. They repeat the frame at which they begin, so frames repeat in order (0, 0, 1, 1, 2, ...).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_WINDOW = re.compile(r"(?:(\d+)x(\d+)|(\d+)-to-(\d+))")
_UNIFORM = re.compile(r"uniform-(\d+)")


class Schedule(NamedTuple):
    """Number of frames of a clip, and the distance between two of them.

    Attributes:
        length: number of frames of a clip.
        stride: distance between two frames, in frames of the video; None for one frame of each of `length` equal parts
            of the whole video.
    """

    length: int
    stride: int | None

    @property
    def is_uniform(self) -> bool:
        """Whether a clip covers the whole video."""
        return self.stride is None

    @property
    def span(self) -> int | None:
        """Number of frames that a window covers, counting `stride` for each; None for a whole video."""
        return None if self.stride is None else self.length * self.stride


def parse_schedule(name: str) -> Schedule:
    """Parse the common names of clip schedules.

    Args:
        name: FRAMESxSTRIDE or SPAN-to-FRAMES for windows: "8x8" is 8 frames, 8 apart; "64-to-32" is every second of 64
            frames. "uniform-8" is one frame of each of 8 equal parts of the whole video.

    Raises:
        ValueError: another format, or a number below 1.

    Reference: Feichtenhofer et al., SlowFast Networks, ICCV 2019 (T x stride); Wang et al., Non-local Neural Networks,
        CVPR 2018, section 4 (64 to 32); Wang et al., Temporal Segment Networks, ECCV 2016 (uniform).
    """
    text = name.strip().lower()
    expected = (
        "expected FRAMESxSTRIDE such as 8x8, 32x2 or 4x16, SPAN-to-FRAMES such as 64-to-32, or uniform-FRAMES such as "
        "uniform-8"
    )
    uniform, match = _UNIFORM.fullmatch(text), _WINDOW.fullmatch(text)
    stride = None
    if uniform is not None:
        length = int(uniform[1])
    elif match is None:
        raise ValueError(f"frames: got {name!r}, {expected}")
    elif match[1]:
        length, stride = int(match[1]), int(match[2])
    else:
        span, length = int(match[3]), int(match[4])
        if length < 1 or span % length:
            raise ValueError(f"frames: got {name!r}, but {span} is not a multiple of {length}; {expected}")
        stride = span // length
    if length < 1 or (stride is not None and stride < 1):
        raise ValueError(f"frames: got {name!r}, but numbers must be 1 or more; {expected}")
    return Schedule(length, stride)


def random_clip(total: int, length: int, stride: int | None, generator: torch.Generator) -> list[int]:
    """Frame indices of a random clip.

    Every start at which a window fits is equally likely; of each part of a uniform clip, every frame.

    Args:
        total: number of frames of the video, at least 1.
        length: number of frames of the clip, at least 1.
        stride: distance between two frames of the clip, at least 1; None for a uniform clip.
        generator: a CPU generator; it is advanced by the same amount, whatever the video's length.

    Raises:
        ValueError: a number below 1.
    """
    import torch  # not at the top: command-line help parses schedules without torch

    _check(total, length, stride)
    if stride is None:
        draws = torch.rand(length, generator=generator, dtype=torch.float64).tolist()
        return [first + int(draw * size) for (first, size), draw in zip(_parts(total, length), draws, strict=True)]
    stride = _fitting(total, length, stride)
    starts = max(total - (length - 1) * stride, 1)
    start = int(torch.randint(starts, (), generator=generator))
    return _indices(start, total, length, stride)


def uniform_clips(total: int, length: int, stride: int | None, clips: int) -> list[list[int]]:
    """Frame indices of evenly spaced clips of a video.

    The first window lies at the start of the video, the last at its end; a single one is taken from the middle. Uniform
    clips have evenly spaced offsets within the parts: a single one has the centers of the parts, and several differ in
    all frames if the parts have at least as many frames.

    Args:
        total: number of frames of the video, at least 1.
        length: number of frames of a clip, at least 1.
        stride: distance between two frames of a clip, at least 1; None for uniform clips.
        clips: number of clips, at least 1; in a short video they overlap or are equal.

    Raises:
        ValueError: a number below 1.
    """
    _check(total, length, stride)
    if clips < 1:
        raise ValueError(f"clips must be 1 or more, got {clips}")
    if stride is None:
        parts = _parts(total, length)
        return [[first + (2 * number + 1) * size // (2 * clips) for first, size in parts] for number in range(clips)]
    stride = _fitting(total, length, stride)
    last = max(total - (length - 1) * stride, 1) - 1
    starts = [last // 2] if clips == 1 else [round(number * last / (clips - 1)) for number in range(clips)]
    return [_indices(start, total, length, stride) for start in starts]


def _parts(total: int, length: int) -> list[tuple[int, int]]:
    """First frame and number of frames of each equal part of a video; none is empty if there are enough frames."""
    bounds = [number * total // length for number in range(length + 1)]
    return [(first, stop - first) for first, stop in pairwise(bounds)]


def _check(total: int, length: int, stride: int | None) -> None:
    for name, value in (("total", total), ("length", length), ("stride", stride)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def _fitting(total: int, length: int, stride: int) -> int:
    """The largest stride, up to the given one, at which the clip fits; at least 1."""
    return max(min(stride, (total - 1) // max(length - 1, 1)), 1)


def _indices(start: int, total: int, length: int, stride: int) -> list[int]:
    return [(start + number * stride) % total for number in range(length)]
