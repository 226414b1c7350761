"""Settings of action recognition and options of its test: plain values. Importing this module does not import torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch_nonlocal._common.plain_values import settings_from
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.media.sampling import Schedule, parse_schedule
from torch_nonlocal.tasks.base import OnError

SMALL = "small"
DIGITS = "digits"
NONE = "none"
IMAGENET = "imagenet"
AUTO = "auto"
Balance = Literal["auto", "none", "loss", "sampler"]
SelectionMetric = Literal["auto", "accuracy", "macro_f1", "mAP"]
OURS = "ours:"
"""Prefix of the names of this library's own networks."""
PACKAGED = "packaged"
_NETWORKS = (SMALL, DIGITS, PACKAGED)
_PLAIN_NAME = re.compile(r"(ours|torchvision|timm):[A-Za-z0-9_.]{1,100}")
_MAX_FPS = 1000
_MAX_BETA, _MAX_MAGNITUDE = 100, 30
_MAX_CROP, _MAX_FRAMES, _MAX_STRIDE, _MAX_PIXELS = 4096, 1024, 1024, 1 << 24

PredictionFormat = Literal["csv", "parquet"]
Temporal = Literal["separable", "full"]
TestSplit = Literal["auto", "train", "val", "test"]

PLACES = ("group", "val", "root", "prefix", "fold")
"""Fields that tell where the clips are and how they are split. They are not saved: the run keeps its split itself."""


@dataclass(frozen=True)
class ActionSettings:
    """Model and data options. They are saved with the weights, without those that tell where the clips are.

    Attributes:
        network: small (EfficientNet-Lite0 with ImageNet weights, inflated to 3D), digits (RelationNet, for moving
            digits), or a model name such as torchvision:r3d_18, whose last layer is replaced.
        frames: frames of a clip: 8x8 is 8 frames, 8 apart; 64-to-32 is 32 evenly spaced frames of a span of 64;
            uniform-8 is one frame of each of 8 equal parts of the whole video. auto chooses uniform-8 for short videos
            and 8x8 for long ones, and prints the reason.
        crop: side length of the network's square input, in pixels.
        non_local: where blocks are inserted: module names, globs or presets as nl.insert takes them, separated by
            commas, or none. auto inserts two blocks in the small network, one in the network for moving digits, and
            paper-5 in ResNets.
        block: which blocks are inserted: non_local, or the name of a relative such as gcnet (nl.list_blocks()).
        flip: flip training clips horizontally with probability 0.5; wrong if the label depends on left and right.
        weights: initial weights: none (random; the small network keeps its ImageNet weights), imagenet, or a file. The
            file is best.pt of another run, whose classes and blocks may differ, or has the weights of the
            corresponding 2D network, which are inflated.
        temporal: kernels over time of the small network: separable computes each frame in 2D, then each channel over
            time; full has 3D kernels, as in version 0.1, and takes two to three times as long on a CPU. Both start with
            the same output. Other networks ignore it.
        fps: frames per second to which videos are resampled as they are read, by the nearest frame in time; none reads
            their own frames, so that a clip of a slow-motion video spans less time.
        group: pattern of the names of clips that must stay on one side of the split, such as "*/{group}_", if the data
            have no split; clips of one recording are recognized by the names of public datasets.
        multi_label: whether clips can have several classes; none recognizes it from the list. The network is then
            trained with binary cross-entropy, and mean average precision chooses the weights.
        val: folder or list of the validation clips, if they are not below the data, which are training clips then.
        root: folder of the clips that a list names, if it is not the folder of the list.
        prefix: start of the names in a list that is removed, such as the folder of the clips on another machine.
        fold: number of the split of UCF101 and HMDB51, or value of the column "fold" whose clips are held out; none
            is 1.
        balance: what evens out classes with unequal numbers of training clips. loss weighs the loss of a clip inversely
            to the number of clips of its class, by at most 10 times (with several classes per clip, the positives of
            each class); sampler draws clips of rare classes more often, by the same weights. auto is sampler from 3
            times as many clips of the largest class as of the smallest, else none, also with several classes per clip.
        metric: metric on the validation clips that selects the weights. auto is macro_f1 from a ratio of 3 to 1 as for
            balance, mAP with several classes per clip, else accuracy.
        label_smoothing: share of the target that is spread evenly over all classes.
        mixup: parameter of the Beta distribution of mixup, such as 0.2: each training clip is blended with another one;
            0 for none.
        cutmix: parameter of the Beta distribution of cutmix, such as 1: a rectangle of each training clip is another
            one's; 0 for none. With mixup as well, each batch has one of both at random.
        rand_augment: magnitude of RandAugment, such as 9: two random changes of geometry or color per training clip,
            the same ones in all frames; 0 for none.
        dropout: probability with which inputs of the last layer are dropped in training, besides dropout that the
            network has itself.
    """

    network: str = SMALL
    frames: str = "8x8"
    crop: int = 112
    non_local: str = AUTO
    flip: bool = True
    weights: str = NONE
    temporal: Temporal = "separable"
    fps: float | None = None
    group: str | None = None
    multi_label: bool | None = None
    val: str | None = None
    root: str | None = None
    prefix: str | None = None
    fold: int | None = None
    balance: Balance = "auto"
    metric: SelectionMetric = "auto"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: int = 0
    dropout: float = 0.0
    block: str = "non_local"

    def __post_init__(self) -> None:
        """Check the values that can be checked without the network.

        Raises:
            ValueError: the network has nearly the name of one, the crop is not between 1 and 4,096 pixels, `frames` is
                neither auto nor a schedule of at most 1,024 frames, a clip has more than 16 million pixels, the frame
                rate is not above 0, or another value is out of range.
        """
        _check_choices(self)
        hint = "" if self.network in _NETWORKS or ":" in self.network else did_you_mean(self.network, _NETWORKS)
        if hint:
            raise ValueError(f"network {self.network!r}: {hint}")
        if not 1 <= self.crop <= _MAX_CROP:
            raise ValueError(f"crop={self.crop}: expected 1 to {_MAX_CROP:,} pixels")
        if self.fps is not None and not 0 < self.fps <= _MAX_FPS:
            raise ValueError(f"fps={self.fps}: expected frames per second, above 0 and at most {_MAX_FPS:,}, or none")
        if self.frames == AUTO:
            return
        length, stride = self.schedule
        if length > _MAX_FRAMES or (stride or 1) > _MAX_STRIDE:
            raise ValueError(f"frames={self.frames}: expected at most {_MAX_FRAMES:,} frames, {_MAX_STRIDE:,} apart")
        if length * self.crop**2 > _MAX_PIXELS:
            pixels = f"{length} x {self.crop} x {self.crop}"
            raise ValueError(f"frames={self.frames}, crop={self.crop}: expected {pixels} to be at most {_MAX_PIXELS:,}")

    @property
    def schedule(self) -> Schedule:
        """The frames of a clip.

        Raises:
            ValueError: `frames` is auto, which `train` replaces by a schedule once it knows the videos.
        """
        try:
            return parse_schedule(self.frames)
        except ValueError as error:
            known = "; auto is for training on videos" if self.frames == AUTO else ", or auto"
            raise ValueError(f"{error}{known}") from error


def resumed_settings(settings: ActionSettings, about: Mapping[str, Any]) -> ActionSettings:
    """The settings with which a run resumes: its automatic choices, whatever the data would now give.

    A run without the setting `temporal` began when the small network had 3D kernels only.

    Args:
        settings: the user's.
        about: settings that the run saved.
    """
    if settings.frames == AUTO and "frames" in about:
        settings = replace(settings, frames=about["frames"])
    former = about.get("network") == SMALL == settings.network and "temporal" not in about
    return replace(settings, temporal="full") if former else settings


def _check_choices(settings: ActionSettings) -> None:
    """Check the options for small and unequal data."""
    for name, kind in (("balance", Balance), ("metric", SelectionMetric)):
        if getattr(settings, name) not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise ValueError(f"{name}={getattr(settings, name)!r}: expected one of {choices}")
    for name in ("label_smoothing", "dropout"):
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)}: expected at least 0 and below 1")
    for name in ("mixup", "cutmix"):
        if not 0 <= getattr(settings, name) <= _MAX_BETA:
            raise ValueError(f"{name}={getattr(settings, name)}: expected 0 (none) to {_MAX_BETA}")
    if not 0 <= settings.rand_augment <= _MAX_MAGNITUDE:
        raise ValueError(f"rand_augment={settings.rand_augment}: expected 0 (none) to {_MAX_MAGNITUDE}")


def settings_of_file(values: Mapping[str, Any], network: str = "") -> ActionSettings:
    """The settings in a file of trained weights. They name a network of this library, torchvision or timm.

    Args:
        values: settings by name; without `temporal`, the small network of the file has 3D kernels.
        network: the user's name of the network, which replaces the one in the file: only a user can name a Python file.

    Raises:
        ValueError: an unknown setting, a value of another type or out of range, or a network that is not a plain name.
    """
    settings = resumed_settings(settings_from(ActionSettings, values), values)
    _ = settings.schedule  # a trained network has one
    if network:
        return replace(settings, network=network)
    if settings.network not in (SMALL, DIGITS, PACKAGED) and not _PLAIN_NAME.fullmatch(settings.network):
        raise ValueError(
            f"network={settings.network!r}: a file can only name a network of this library, torchvision or timm; "
            "if you trust it, name it yourself: --network, or --model of nonlocal view"
        )
    return settings


@dataclass(frozen=True)
class ActionTestOptions:
    """Class scores are averaged over all clips and crops of a video.

    Attributes:
        views: evenly spaced clips per video.
        crops: crops per clip: 1, 3, or full for the whole frame.
        mistakes: number of mistakes to draw, lowest score of the true class first; 0 for none.
        predictions: format of the table of predictions; csv omits the per-class probabilities if there are more
            than 100 classes.
        batch_size: crops per forward pass.
        workers: processes that decode videos.
        on_error: skip videos that cannot be read (scores.json lists them), or fail.
        split: train, val or test. auto takes the test split, else the validation split, else all videos that the
            weights were not trained on. Videos that they were trained on, under any name, are left out of every split
            but train.
        whole: test on all videos of the data, of all splits, even those that the weights were trained on.
        root: folder of the videos that a list names, if it is not the folder of the list.
        prefix: start of the names in a list that is removed, such as the folder of the videos on another machine.
        fold: number of the split of UCF101 and HMDB51, or value of the column "fold" whose videos are tested.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """

    views: int = 10
    crops: Literal["1", "3", "full"] = "3"
    mistakes: int = 5
    predictions: PredictionFormat = "csv"
    batch_size: int = 8
    workers: int = 1
    on_error: OnError = "skip"
    split: TestSplit = "auto"
    whole: bool = False
    root: str | None = None
    prefix: str | None = None
    fold: int = 1
    network: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a number is out of range, or `split` is given with `whole`.
        """
        if self.whole and self.split != "auto":
            raise ValueError(f"--whole takes all splits: expected no --split {self.split}")
        for name, least in (("views", 1), ("mistakes", 0), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more")
