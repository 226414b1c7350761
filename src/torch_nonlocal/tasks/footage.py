"""The frames that `nonlocal view` shows: of a video, a photograph, several images, or a folder of images.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import counted
from torch_nonlocal.media import BrokenVideoError, probe, read_clip
from torch_nonlocal.media.frame_names import PICTURES
from torch_nonlocal.media.frame_times import frame_times

Choice = Callable[[int], Sequence[int]]
"""Maps the number of frames to the frames that are shown."""


@dataclass(frozen=True)
class Footage:
    """Frames of a file, or images.

    Attributes:
        clip: (T, H, W, 3) uint8, RGB.
        file: name of the file or folder.
        numbers: number of each frame in the file, from 0.
        labels: text of each frame: its number and time, or the name of its image.
        size: height and width of the file in pixels, before frames were reduced.
        total: number of frames of the file.
    """

    clip: Tensor
    file: str
    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    size: tuple[int, int]
    total: int

    def point(self, text: str) -> tuple[float, float, float]:
        """Read a position "frame,y,x", or "y,x" of a single image, as (frame, y, x) in pixels of the clip.

        The frame is its number in the file, and the nearest frame that is shown is taken. y and x are pixels of the
        file. Each of the three may be a percentage, such as "50%".

        Raises:
            ValueError: another format, or a position outside the file; the message gives the valid range.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 2 and self.total == 1:
            parts.insert(0, "0")
        if len(parts) != 3:
            example = (
                "y,x such as 120,200 or 50%,30%" if self.total == 1 else "frame,y,x such as 0,120,200 or 0,50%,30%"
            )
            raise ValueError(f"--point {text}: expected {example}")
        sizes = (self.total, *self.size)
        frame, y, x = (
            _coordinate(text, name, part, size)
            for name, part, size in zip(("frame", "y", "x"), parts, sizes, strict=True)
        )
        shown = min(range(len(self.numbers)), key=lambda index: abs(self.numbers[index] - frame))
        height, width = self.clip.shape[1:3]
        inside = ((y + 0.5) * height / self.size[0] - 0.5, (x + 0.5) * width / self.size[1] - 0.5)
        return float(shown), min(max(inside[0], 0.0), height - 1.0), min(max(inside[1], 0.0), width - 1.0)

    def describe(self, query: Sequence[float]) -> str:
        """Return a position of the clip as text, in pixels of the file, as the page states it."""
        height, width = self.clip.shape[1:3]
        y = (query[1] + 0.5) * self.size[0] / height - 0.5
        x = (query[2] + 0.5) * self.size[1] / width - 0.5
        return f"{self.labels[int(query[0])]}, y {y:.0f}, x {x:.0f}"

    def repeated(self, times: int) -> Footage:
        """Return a single image as a clip of equal frames, for a network that takes several."""
        if len(self.clip) > 1 or times == 1:
            return self
        clip = self.clip.expand(times, -1, -1, -1)
        return Footage(clip, self.file, self.numbers * times, self.labels * times, self.size, self.total)


def _coordinate(text: str, name: str, part: str, size: int) -> float:
    is_share = part.endswith("%")
    try:
        value = float(part.removesuffix("%"))
    except ValueError:
        raise ValueError(f"--point {text}: {name} is {part!r}, expected a number such as 120, or 50%") from None
    limit = 100 if is_share else size - 1
    if not 0 <= value <= limit:
        raise ValueError(f"--point {text}: {name} is {part}, expected 0 to {limit}{'%' if is_share else ''}")
    return value / 100 * (size - 1) if is_share else value


def evenly(frames: int, *, start: int = 0, stride: int = 0) -> Choice:
    """Choose up to `frames` frames from `start` on, `stride` apart; 0 spreads them over the rest of the file."""

    def choose(total: int) -> list[int]:
        count = min(frames, total)
        step = stride or max(1, (total - start) // max(count, 1))
        return [start + step * place for place in range(count)]

    return choose


def read_footage(paths: Sequence[Path], choose: Choice, *, size: int = 272) -> Footage:
    """Read frames of one video or folder of images, or all of several images.

    Args:
        paths: one video, one image, one folder of images, or several images.
        choose: which frames of a video or folder are shown.
        size: largest short side in pixels; larger frames are reduced, smaller ones are kept.

    Raises:
        ValueError: no paths, a file that cannot be read, a folder without images, or frames outside the video.
    """
    if not paths:
        raise ValueError("give a video or images to look at")
    if len(paths) > 1:
        return _images(paths, size, ", ".join(path.name for path in paths[:3]), range(len(paths)), len(paths))
    (path,) = paths
    if path.is_dir():
        images = images_in(path)
        numbers = list(choose(len(images)))
        outside = [number for number in numbers if not 0 <= number < len(images)]
        if outside or not numbers:
            raise ValueError(f"{path} has {counted(len(images), 'image')}; got {outside or 'no frames'}")
        return _images([images[number] for number in numbers], size, path.name, numbers, len(images))
    info = probe(path)
    numbers = list(choose(info.frames))
    clip = read_clip(path, frames=numbers, short_side=size)
    labels = _labels(path, numbers, info.frames)
    return Footage(clip, printable(path.name), tuple(numbers), labels, (info.height, info.width), info.frames)


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder by name, with numbers in numerical order.

    Raises:
        ValueError: there are none.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"no images in {folder}: expected {', '.join(sorted(PICTURES))}")
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)])


def _images(paths: Sequence[Path], size: int, name: str, numbers: Sequence[int], total: int) -> Footage:
    pictures = [read_clip(path, count=1, short_side=size) for path in paths]
    height, width = pictures[0].shape[1:3]
    first = probe(paths[0])
    clip = torch.cat([resized(picture, (height, width)) for picture in pictures])
    labels = tuple(printable(path.name) for path in paths)
    return Footage(clip, printable(name), tuple(numbers), labels, (first.height, first.width), total)


def _labels(path: Path, numbers: Sequence[int], total: int) -> tuple[str, ...]:
    if total == 1:
        return (printable(path.name),)
    try:
        times = frame_times(path, total)
    except BrokenVideoError:
        return tuple(f"frame {number}" for number in numbers)
    seconds = [float((times.ticks[number] - times.ticks[0]) * times.tick) for number in numbers]
    return tuple(f"frame {number}, {second:.2f} s" for number, second in zip(numbers, seconds, strict=True))


def resized(clip_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames, uint8, to a height and width."""
    if tuple(clip_THWC.shape[1:3]) == size:
        return clip_THWC
    frames_TCHW = clip_THWC.permute(0, 3, 1, 2).float()
    frames_TCHW = F.interpolate(frames_TCHW, size, mode="bilinear", antialias=True)
    return frames_TCHW.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
