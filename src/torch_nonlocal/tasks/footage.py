"""The frames that `nonlocal view` shows: of a video, a photograph, several images, or a folder of images.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal._common.files import printable
from torch_nonlocal._common.text import counted
from torch_nonlocal.media import BrokenVideoError, probe, read_clip
from torch_nonlocal.media.decode import read_sampled
from torch_nonlocal.media.frame_names import PICTURES
from torch_nonlocal.media.frame_times import frame_times
from torch_nonlocal.media.limits import reduced
from torch_nonlocal.media.transforms import View

Choice = Callable[[int], Sequence[int]]
"""Maps the number of frames to the frames that are shown."""
ViewOf = Callable[[int, int], View]
"""Maps height and width of the frames to the crops of them that a network sees."""
Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


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
        region: what the clip shows of the file: (top, left, height, width) in pixels.
        sources: the video, or the image of each frame.
    """

    clip: Tensor
    file: str
    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    size: tuple[int, int]
    total: int
    region: Box
    sources: tuple[Path, ...]

    def cut(self, view_of: ViewOf) -> Tensor:
        """Cut what a network sees, the middle crop, out of the frames at the size of the file: (3, T, h, w) uint8."""
        view = shown_crop(view_of, self.size)
        if len(self.sources) == 1 and self.total > 1:
            cut_TVCHW = read_sampled(self.sources[0], lambda total: self.numbers, view.cut)
        else:
            pictures = [resized(read_clip(path, count=1), self.size)[0] for path in self.sources]
            cut_TVCHW = torch.stack([view.cut(picture) for picture in pictures])
        return view.finish(cut_TVCHW)[0]

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
        inside = []
        for name, value, first, extent, pixels in zip(
            ("y", "x"), (y, x), self.region[:2], self.region[2:], self.clip.shape[1:3], strict=True
        ):
            if not first - 0.5 <= value <= first + extent - 0.5:
                raise ValueError(
                    f"--point {text}: {name} is {value:g}, outside the region that the network sees, {first} to "
                    f"{first + extent - 1}; --crops full shows whole frames"
                )
            inside.append(min(max((value - first + 0.5) * pixels / extent - 0.5, 0.0), pixels - 1.0))
        return float(shown), inside[0], inside[1]

    def describe(self, query: Sequence[float]) -> str:
        """Return a position of the clip as text, in pixels of the file, as the page states it."""
        y, x = (
            first + (place + 0.5) * extent / pixels - 0.5
            for first, extent, place, pixels in zip(
                self.region[:2], self.region[2:], query[1:], self.clip.shape[1:3], strict=True
            )
        )
        return f"{self.labels[int(query[0])]}, y {y:.0f}, x {x:.0f}"

    def repeated(self, times: int) -> Footage:
        """Return a single image as a clip of equal frames, for a network that takes several."""
        if len(self.clip) > 1 or times == 1:
            return self
        clip = self.clip.expand(times, -1, -1, -1)
        more = {"numbers": self.numbers * times, "labels": self.labels * times, "sources": self.sources * times}
        return replace(self, clip=clip, **more)


def shown_crop(view_of: ViewOf, size: tuple[int, int]) -> View:
    """The middle one of the crops that a network sees of frames of a size; it is the one that is shown."""
    view = view_of(*size)
    return replace(view, boxes=(view.boxes[len(view.boxes) // 2],))


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


def read_footage(paths: Sequence[Path], choose: Choice, *, size: int = 272, view_of: ViewOf | None = None) -> Footage:
    """Read frames of one video or folder of images, or all of several images.

    Args:
        paths: one video, one image, one folder of images, or several images.
        choose: which frames of a video or folder are shown.
        size: largest short side in pixels; larger frames are reduced, smaller ones are kept.
        view_of: crops that a network sees, of which the middle one is shown; None shows whole frames.

    Raises:
        ValueError: no paths, a file that cannot be read, a folder without images, or frames outside the video.
    """
    if not paths:
        raise ValueError("give a video or images to look at")
    if len(paths) > 1:
        name = ", ".join(path.name for path in paths[:3])
        return _images(paths, size, view_of, name, range(len(paths)), len(paths))
    (path,) = paths
    if path.is_dir():
        images = images_in(path)
        numbers = list(choose(len(images)))
        outside = [number for number in numbers if not 0 <= number < len(images)]
        if outside or not numbers:
            raise ValueError(f"{path} has {counted(len(images), 'image')}; got {outside or 'no frames'}")
        return _images([images[number] for number in numbers], size, view_of, path.name, numbers, len(images))
    info = probe(path)
    numbers = list(choose(info.frames))
    frame = (info.height, info.width)
    region = _region(view_of, frame)
    if region[2:] == frame:
        clip = read_clip(path, frames=numbers, short_side=size)
    else:
        clip = read_sampled(path, lambda total: numbers, lambda picture: _reduced(picture[None], region, size)[0])
    labels = _labels(path, numbers, info.frames)
    return Footage(clip, printable(path.name), tuple(numbers), labels, frame, info.frames, region, (path,))


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder by name, with numbers in numerical order.

    Raises:
        ValueError: there are none.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"no images in {folder}: expected {', '.join(sorted(PICTURES))}")
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)])


def _images(
    paths: Sequence[Path], size: int, view_of: ViewOf | None, name: str, numbers: Sequence[int], total: int
) -> Footage:
    first = probe(paths[0])
    frame = (first.height, first.width)
    region = _region(view_of, frame)
    if region[2:] == frame:
        pictures = [read_clip(path, count=1, short_side=size) for path in paths]
        height, width = pictures[0].shape[1:3]
        clip = torch.cat([resized(picture, (height, width)) for picture in pictures])
    else:
        whole = (resized(read_clip(path, count=1), frame) for path in paths)
        clip = torch.cat([_reduced(picture, region, size) for picture in whole])
    labels = tuple(printable(path.name) for path in paths)
    return Footage(clip, printable(name), tuple(numbers), labels, frame, total, region, tuple(paths))


def _region(view_of: ViewOf | None, frame: tuple[int, int]) -> Box:
    """The box of the frames that is shown."""
    return (0, 0, *frame) if view_of is None else shown_crop(view_of, frame).boxes[0]


def _reduced(frames_THWC: Tensor, region: Box, size: int) -> Tensor:
    """Cut a region out of frames, and reduce it to a largest short side."""
    top, left, height, width = region
    return resized(frames_THWC[:, top : top + height, left : left + width], reduced(height, width, size))


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
