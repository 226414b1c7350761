"""Spatial transforms of decoded frames: crop, resize and flip, identical for all frames of a clip.

The crop of a clip is decided once, from the size of its frames and a generator (`view`). Frames are then cut one by one
while they are decoded (`View.cut`), so a clip never exists at the size of the file. Each crop is cut out of the frame
before it is resized, which costs less than resizing first and gives the same picture up to rounding the crop to whole
pixels of the frame. Clips stay uint8; `models.inputs.Inputs.normalize` makes a network's input of them, on the device.

Shapes: V views (crops), T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require
from torch_nonlocal.media.rand_augment import LARGEST, Operation, apply_operations, draw_operations


@dataclass(frozen=True)
class View:
    """Crops of every frame of a clip.

    Attributes:
        boxes: (top, left, height, width) of each view, in pixels of the frame.
        size: (height, width) that each view is resized to, in pixels.
        flip: whether the views are mirrored left to right.
        operations: further changes of the views; all frames of a view have the same ones.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    size: tuple[int, int]
    flip: bool
    operations: tuple[Operation, ...] = ()

    def cut(self, frame_HWC: Tensor) -> Tensor:
        """Cut the views out of one frame: (H, W, 3) uint8 -> (V, 3, height, width) uint8."""
        functional = require("torchvision.transforms.v2.functional", extra="train")
        frame_CHW = frame_HWC.permute(2, 0, 1)
        views = [functional.resized_crop(frame_CHW, *box, list(self.size), antialias=True) for box in self.boxes]
        return torch.stack(views) if len(views) > 1 else views[0][None]

    def finish(self, cut_TVCHW: Tensor) -> Tensor:
        """Assemble cut frames into clips: (T, V, 3, H, W) uint8 -> (V, 3, T, H, W) uint8, frame by frame in memory."""
        functional = require("torchvision.transforms.v2.functional", extra="train")
        if self.flip:
            cut_TVCHW = functional.horizontal_flip(cut_TVCHW)
        if self.operations:
            views = [apply_operations(self.operations, view_TCHW) for view_TCHW in cut_TVCHW.unbind(1)]
            cut_TVCHW = torch.stack(views, 1)
        return cut_TVCHW.permute(1, 2, 0, 3, 4)


@dataclass(frozen=True)
class TrainTransform:
    """Training transform: random scale, random crop, random horizontal flip, and RandAugment on request.

    The short side is scaled to a whole number of pixels drawn from `short_side`; then a square of `crop` pixels is cut
    at a random position.

    Args:
        crop: side of the network's input, in pixels.
        short_side: smallest and largest short side, in pixels. None is 256 to 320 for a crop of 224 and the same ratio
            for other crops.
        flip: mirror half of the clips. Disable it where direction is the label (digits, "push left").
        rand_augment: magnitude of two random operations per clip, 1 to 30, see `rand_augment`; 0 for none.

    Raises:
        ValueError: the crop is below 1, the magnitude is out of range, or the short side can become smaller than the
            crop.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 4.
    """

    crop: int = 224
    short_side: tuple[int, int] | None = None
    flip: bool = True
    rand_augment: int = 0

    def __post_init__(self) -> None:
        _check_crop(self.crop)
        if not 0 <= self.rand_augment <= LARGEST:
            raise ValueError(f"rand_augment: got {self.rand_augment}, expected 0 (none) to {LARGEST}")
        smallest, largest = self.sides
        if not self.crop <= smallest <= largest:
            raise ValueError(f"short_side: got {self.short_side}, expected crop = {self.crop} <= smallest <= largest")

    @property
    def sides(self) -> tuple[int, int]:
        """Smallest and largest short side, in pixels."""
        return self.short_side or (round(self.crop * 256 / 224), round(self.crop * 320 / 224))

    def view(self, height: int, width: int, generator: torch.Generator) -> View:
        """Draw the crop for frames of a size.

        Args:
            height: of the frames, in pixels.
            width: of the frames, in pixels.
            generator: a CPU generator; it is advanced by four numbers and by those of RandAugment, whatever the size.
        """
        scale, down, right, turn = torch.rand(4, generator=generator).tolist()
        smallest, largest = self.sides
        side = _side(self.crop, smallest + int(scale * (largest - smallest + 1)), height, width)
        box = (int(down * (height - side + 1)), int(right * (width - side + 1)), side, side)
        operations = draw_operations(self.rand_augment, generator) if self.rand_augment else ()
        return View((box,), (self.crop, self.crop), self.flip and turn < 0.5, operations)

    def __call__(self, frames_THWC: Tensor, generator: torch.Generator) -> Tensor:
        """Transform a whole clip: (T, H, W, 3) uint8 -> (3, T, crop, crop) uint8."""
        return _apply(self.view(*_size(frames_THWC), generator), frames_THWC)[0]


@dataclass(frozen=True)
class EvalTransform:
    """Evaluation transform: the short side scaled to one size, then fixed crops.

    Args:
        crop: side of the crop in training, in pixels.
        crops: 1 cuts the central square of `crop` pixels; 3 cuts squares of `short_side` pixels at both ends and the
            middle of the longer side; "full" keeps the whole frame, for fully convolutional networks.
        short_side: short side in pixels. None is 256 for a crop of 224 and the same ratio for other crops.

    Raises:
        ValueError: `crops` is another value, the crop is below 1, or the crop is larger than the short side.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 4 (fully convolutional); Feichtenhofer et al.,
        SlowFast Networks, ICCV 2019 (three crops).
    """

    crop: int = 224
    crops: Literal[1, 3, "full"] = 1
    short_side: int | None = None

    def __post_init__(self) -> None:
        _check_crop(self.crop)
        if self.crops not in (1, 3, "full"):
            raise ValueError(f"crops: got {self.crops!r}, expected 1, 3 or 'full'")
        if self.side < self.crop:
            raise ValueError(f"short_side: got {self.short_side}, expected at least crop = {self.crop}")

    @property
    def side(self) -> int:
        """Short side of the scaled frames, in pixels."""
        return self.short_side or round(self.crop * 256 / 224)

    def view(self, height: int, width: int) -> View:
        """The crops for frames of a size, in pixels."""
        short = min(height, width)
        if self.crops == "full":
            size = (max(round(height * self.side / short), 1), max(round(width * self.side / short), 1))
            return View(((0, 0, height, width),), size, False)
        if self.crops == 1:
            side = _side(self.crop, self.side, height, width)
            box = ((height - side) // 2, (width - side) // 2, side, side)
            return View((box,), (self.crop, self.crop), False)
        rest = max(height, width) - short
        starts = (0, rest // 2, rest)
        boxes = tuple((start, 0, short, short) if height > width else (0, start, short, short) for start in starts)
        return View(boxes, (self.side, self.side), False)

    def __call__(self, frames_THWC: Tensor) -> Tensor:
        """Transform a whole clip: (T, H, W, 3) uint8 -> (V, 3, T, H, W) uint8, V = 1 or 3."""
        return _apply(self.view(*_size(frames_THWC)), frames_THWC)


def _size(frames_THWC: Tensor) -> tuple[int, int]:
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != torch.uint8:
        raise ValueError(
            f"frames: got {tuple(frames_THWC.shape)} {frames_THWC.dtype}, expected (T, H, W, 3) RGB, uint8 in [0, 255]"
        )
    return frames_THWC.shape[1], frames_THWC.shape[2]


def _apply(view: View, frames_THWC: Tensor) -> Tensor:
    return view.finish(torch.stack([view.cut(frame) for frame in frames_THWC])).contiguous()


def _side(crop: int, short_side: int, height: int, width: int) -> int:
    """Side of the square of the frame that becomes the crop when the short side is scaled to `short_side`."""
    short = min(height, width)
    return min(max(round(crop * short / short_side), 1), short)


def _check_crop(crop: int) -> None:
    if crop < 1:
        raise ValueError(f"crop: got {crop}, expected at least 1 pixel")
