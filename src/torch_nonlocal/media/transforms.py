"""From decoded frames to a network's input: crop, resize and flip, the same for all frames of a clip; then normalise.

What is cut out is decided once for a clip, from its frames' size and a generator (`view`); frames can then be cut one
by one while they are decoded (`View.cut`), so that a clip never exists at the size of the file. Every crop is cut out
of the frame before it is resized, which gives the picture of resizing first, up to the rounding of the crop to whole
pixels of the frame, for less work. Clips stay uint8 until `normalise` makes floats of them, on the device: from a
worker to the main process, and from there to a GPU, a quarter of the bytes travels.

Shapes: V views (crops), C = 3 channels, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torch_nonlocal._common.optional import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's pixels in RGB, of values in [0, 1]; torchvision's and timm's weights expect it."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation that goes with `IMAGENET_MEAN`."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What is cut out of every frame of a clip.

    Attributes:
        boxes: (top, left, height, width) in pixels of the frame, one for each view.
        size: (height, width) to which each is resized.
        flip: whether left and right change places.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    size: tuple[int, int]
    flip: bool

    def cut(self, frame_HWC: Tensor) -> Tensor:
        """The views of one frame: (H, W, 3) uint8 to (V, 3, height, width) uint8."""
        functional = require("torchvision.transforms.v2.functional", extra="train")
        frame_CHW = frame_HWC.permute(2, 0, 1)
        views = [functional.resized_crop(frame_CHW, *box, list(self.size), antialias=True) for box in self.boxes]
        return torch.stack(views) if len(views) > 1 else views[0][None]

    def finish(self, cut_TVCHW: Tensor) -> Tensor:
        """The cut frames as clips: (T, V, 3, H, W) uint8 to (V, 3, T, H, W) uint8, frame after frame in memory."""
        functional = require("torchvision.transforms.v2.functional", extra="train")
        if self.flip:
            cut_TVCHW = functional.horizontal_flip(cut_TVCHW)
        return cut_TVCHW.permute(1, 2, 0, 3, 4)


@dataclass(frozen=True)
class TrainTransform:
    """Training: random scale, random crop, random flip.

    The short side is scaled to a whole number of pixels drawn from `short_side`, then a square of `crop` pixels is cut
    at a random place.

    Args:
        crop: side of the network's input in pixels.
        short_side: the least and the most; None takes 256 to 320 for a crop of 224, and the same ratio for others.
        flip: turn half of the clips left to right. Wrong where direction is the label (digits, "push left").
        mean: of R, G and B, of values in [0, 1].
        std: likewise.

    Raises:
        ValueError: if a size or `std` is not positive, or the short side can become smaller than the crop.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 4.
    """

    crop: int = 224
    short_side: tuple[int, int] | None = None
    flip: bool = True
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self.crop, self.mean, self.std)
        least, most = self.sides
        if not self.crop <= least <= most:
            raise ValueError(f"short_side: got {self.short_side}, expected crop = {self.crop} <= least <= most")

    @property
    def sides(self) -> tuple[int, int]:
        """The least and the most that the short side becomes, in pixels."""
        return self.short_side or (round(self.crop * 256 / 224), round(self.crop * 320 / 224))

    def view(self, height: int, width: int, generator: torch.Generator) -> View:
        """Draws what is cut out of frames of this size.

        Args:
            height: of the frames, in pixels.
            width: likewise.
            generator: a CPU generator; it is advanced by four numbers, whatever the size.
        """
        scale, down, right, turn = torch.rand(4, generator=generator).tolist()
        least, most = self.sides
        side = _side(self.crop, least + int(scale * (most - least + 1)), height, width)
        box = (int(down * (height - side + 1)), int(right * (width - side + 1)), side, side)
        return View((box,), (self.crop, self.crop), self.flip and turn < 0.5)

    def normalise(self, clips: Tensor) -> Tensor:
        """A network's input from uint8 clips; see `normalise`."""
        return normalise(clips, self.mean, self.std)

    def __call__(self, frames_THWC: Tensor, generator: torch.Generator) -> Tensor:
        """A whole clip at once: (T, H, W, 3) uint8 to (3, T, crop, crop) float32."""
        return self.normalise(_apply(self.view(*_size(frames_THWC), generator), frames_THWC)[0])


@dataclass(frozen=True)
class EvalTransform:
    """Testing: the short side scaled to one size, then fixed crops.

    Args:
        crop: side of the crop in training, in pixels.
        crops: 1 cuts the central square of `crop` pixels; 3 cuts squares of `short_side` pixels at the two ends and the
            middle of the longer side; "full" keeps all, for a network that works on any size (fully convolutional).
        short_side: what the short side becomes; None takes 256 for a crop of 224, and the same ratio for others.
        mean: of R, G and B, of values in [0, 1].
        std: likewise.

    Raises:
        ValueError: if `crops` is something else, a size or `std` is not positive, or the crop is larger than the side.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018, section 4 (fully convolutional); Feichtenhofer et al.,
        SlowFast Networks, ICCV 2019 (three crops).
    """

    crop: int = 224
    crops: Literal[1, 3, "full"] = 1
    short_side: int | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self.crop, self.mean, self.std)
        if self.crops not in (1, 3, "full"):
            raise ValueError(f"crops: got {self.crops!r}, expected 1, 3 or 'full'")
        if self.side < self.crop:
            raise ValueError(f"short_side: got {self.short_side}, expected at least crop = {self.crop}")

    @property
    def side(self) -> int:
        """What the short side becomes, in pixels."""
        return self.short_side or round(self.crop * 256 / 224)

    def view(self, height: int, width: int) -> View:
        """What is cut out of frames of this size; one box for each crop."""
        short = min(height, width)
        if self.crops == "full":
            size = (max(round(height * self.side / short), 1), max(round(width * self.side / short), 1))
            return View(((0, 0, height, width),), size, False)
        if self.crops == 1:
            side = _side(self.crop, self.side, height, width)
            box = ((height - side) // 2, (width - side) // 2, side, side)
            return View((box,), (self.crop, self.crop), False)
        rest = max(height, width) - short
        places = (0, rest // 2, rest)
        boxes = tuple((place, 0, short, short) if height > width else (0, place, short, short) for place in places)
        return View(boxes, (self.side, self.side), False)

    def normalise(self, clips: Tensor) -> Tensor:
        """A network's input from uint8 clips; see `normalise`."""
        return normalise(clips, self.mean, self.std)

    def __call__(self, frames_THWC: Tensor) -> Tensor:
        """A whole clip at once: (T, H, W, 3) uint8 to (V, 3, T, H, W) float32, V = 1 or 3."""
        return self.normalise(_apply(self.view(*_size(frames_THWC)), frames_THWC))


def normalise(clips: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Clips as a network takes them: zero mean and unit spread on average, by channel.

    It works where the clips are, so that they travel from a worker to the device as uint8, a quarter of the size.

    Args:
        clips: (..., 3, T, H, W), uint8 in [0, 255].
        mean: of R, G and B, of values in [0, 1].
        std: likewise.

    Returns:
        The same shape, float32.

    Raises:
        ValueError: for clips of another type.
    """
    if clips.dtype != torch.uint8:
        raise ValueError(f"clips: got {clips.dtype}, expected torch.uint8 in [0, 255]")
    mean_C111, std_C111 = (torch.tensor(one, device=clips.device).view(3, 1, 1, 1) for one in (mean, std))
    return clips.float().mul_(1 / (255 * std_C111)).sub_(mean_C111 / std_C111)


def _size(frames_THWC: Tensor) -> tuple[int, int]:
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != torch.uint8:
        raise ValueError(
            f"frames: got {tuple(frames_THWC.shape)} {frames_THWC.dtype}, expected (T, H, W, 3) RGB, uint8 in [0, 255]"
        )
    return frames_THWC.shape[1], frames_THWC.shape[2]


def _apply(view: View, frames_THWC: Tensor) -> Tensor:
    return view.finish(torch.stack([view.cut(frame) for frame in frames_THWC])).contiguous()


def _side(crop: int, short_side: int, height: int, width: int) -> int:
    """Side of the square of the frame that becomes the crop when the short side becomes `short_side`."""
    short = min(height, width)
    return min(max(round(crop * short / short_side), 1), short)


def _check(crop: int, mean: Triple, std: Triple) -> None:
    if crop < 1:
        raise ValueError(f"crop: got {crop}, expected 1 pixel or more")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean, std: got {mean} and {std}, expected three numbers each (R, G, B), std more than 0")
