"""Settings of action recognition and options of its test: plain values. Importing this module does not import torch."""

from dataclasses import dataclass
from typing import Literal

from torch_nonlocal.media.sampling import parse_schedule
from torch_nonlocal.tasks.base import OnError

SMALL = "small"
DIGITS = "digits"
NONE = "none"
IMAGENET = "imagenet"
AUTO = "auto"
OURS = "ours:"
"""Prefix of the names of this library's own networks."""

PredictionFormat = Literal["csv", "parquet"]


@dataclass(frozen=True)
class ActionSettings:
    """Model and data options. They are saved with the weights.

    Attributes:
        network: small (EfficientNet-Lite0 with ImageNet weights, inflated to 3D), digits (RelationNet, for moving
            digits), or a model name such as torchvision:r3d_18, whose last layer is replaced.
        frames: frames of a clip: 8x8 is 8 frames, 8 apart; 64-to-32 is 32 evenly spaced frames of a span of 64.
        crop: side length of the network's square input, in pixels.
        non_local: where blocks are inserted: module names, globs or presets as nl.insert takes them, or none. auto
            inserts two blocks in the small network, one in the network for moving digits, and paper-5 in others.
        flip: flip training clips horizontally with probability 0.5; wrong if the label depends on left and right.
        weights: initial weights: none (random, except for the small network), imagenet, or a file: best.pt of another
            run, with the same or other classes and all, some or none of the blocks; or weights of the corresponding 2D
            network, which are inflated.
    """

    network: str = SMALL
    frames: str = "8x8"
    crop: int = 112
    non_local: str = AUTO
    flip: bool = True
    weights: str = NONE

    def __post_init__(self) -> None:
        """Check the values that can be checked without the network.

        Raises:
            ValueError: the crop is below one pixel, or `frames` is not a schedule.
        """
        if self.crop < 1:
            raise ValueError(f"crop={self.crop}: expected 1 pixel or more")
        parse_schedule(self.frames)


@dataclass(frozen=True)
class ActionTestOptions:
    """Class scores are averaged over all clips and crops of a video.

    Attributes:
        views: evenly spaced clips per video.
        crops: crops per clip: 1, 3, or full for the whole frame.
        mistakes: number of mistakes to draw, lowest score of the true class first; 0 for none.
        predictions: format of the table of predictions; csv omits the scores of single classes above 100 classes.
        batch: crops per forward pass.
        workers: processes that decode videos.
        on_error: skip videos that cannot be read (scores.json lists them), or fail.
        whole: test on all videos of the data instead of the held-out ones; for data that were not used for training.
    """

    views: int = 10
    crops: Literal["1", "3", "full"] = "3"
    mistakes: int = 5
    predictions: PredictionFormat = "csv"
    batch: int = 8
    workers: int = 1
    on_error: OnError = "skip"
    whole: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a number is out of range.
        """
        for name, least in (("views", 1), ("mistakes", 0), ("batch", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: expected {least} or more")
