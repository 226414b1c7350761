"""Settings of re-identification and options of its test: plain values. Importing this module does not import torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch_nonlocal._common.plain_values import settings_from
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.media.sampling import Schedule, parse_schedule
from torch_nonlocal.tasks.base import OnError

SMALL, PERSONS = "small", "persons"
NONE, IMAGENET, AUTO = "none", "imagenet", "auto"
Temporal = Literal["frames", "factorized"]
Pooling = Literal["average", "attention"]
Distance = Literal["cosine", "euclidean"]
Protocol = Literal["both", "official", "common"]
_NETWORKS = (SMALL, PERSONS)
_PLAIN_NAME = re.compile(r"(ours|torchvision|timm):[A-Za-z0-9_.]{1,100}")
_MAX_SIDE, _MAX_FRAMES, _MAX_STRIDE, _MAX_PIXELS, _MAX_PER_IDENTITY = 2048, 256, 1024, 1 << 24, 1024

PLACES = ("layout",)
"""Fields that tell how the data are read. They are not saved: a run keeps its tracklets itself."""


@dataclass(frozen=True)
class ReidSettings:
    """Model and data options. They are saved with the weights, without those that tell how the data are read.

    Attributes:
        network: small (EfficientNet-Lite0 with ImageNet weights, each frame by itself), persons (a small network for
            the built-in data), or a model name such as torchvision:resnet50 or timm:resnet50, without its pool and
            classifier. 2D networks compute each frame by itself; blocks attend over all frames.
        temporal: factorized adds a convolution over time, 3 x 1 x 1, after the 3 x 3 convolution of each bottleneck of
            a ResNet; it starts as the identity. frames has none.
        frames: frames of a clip: uniform-8 is one frame of each of 8 equal parts of the tracklet (restricted random
            sampling), 8x1 is 8 consecutive frames, 8x4 is 8 frames, 4 apart. In a shorter tracklet, frames repeat.
        height: height of the network's input, in pixels; frames are resized.
        width: width of the network's input, in pixels.
        non_local: where blocks are inserted: module names, globs or presets as nl.insert takes them, separated by
            commas, or none. auto inserts two blocks in the small network, one in the network for the built-in data
            (within each frame), and nvan in ResNets (two in the second stage, three in the third).
        block: which blocks are inserted: non_local, or the name of a relative such as gcnet (nl.list_blocks()).
        pooling: how features of frames are combined: average, or attention (weights by a trained linear map).
        last_stride: stride of the last stage over height and width; 1 doubles the size of the last map.
        weights: initial weights: none (random; the small network keeps its ImageNet weights), imagenet (of torchvision
            or timm, which download them), or a file: best.pt of another run of this task, which may have other
            identities, and no blocks, or a state dict of the network, such as torchvision's, whose classifier is not
            used.
        per_identity: tracklets of each identity in a batch, 2 or more for the triplet loss; a batch has batch-size /
            per-identity identities.
        label_smoothing: share of the target that is spread evenly over all identities.
        margin: margin of the batch-hard triplet loss; none uses the soft margin, log(1 + exp(d_positive - d_negative)).
        triplet: weight of the triplet loss; that of the cross-entropy is 1.
        flip: flip training clips horizontally with probability 0.5.
        pad: pixels by which training clips are padded before a random crop of the former size; 0 for none.
        erase: probability of erasing a random rectangle of a training clip, the same one in all frames.
        held_out: share of the training identities that are held out to choose the best weights; 0 keeps the last
            weights.
        split: number of the random split of data that have several, from 0; none is the seed, modulo the number of
            splits, so that --seeds 10 trains on ten splits.
        layout: layout of the data, such as mars (see docs/tracklets.md); auto recognizes it.
    """

    network: str = SMALL
    temporal: Temporal = "frames"
    frames: str = "uniform-4"
    height: int = 128
    width: int = 64
    non_local: str = AUTO
    block: str = "non_local"
    pooling: Pooling = "average"
    last_stride: int = 1
    weights: str = NONE
    per_identity: int = 4
    label_smoothing: float = 0.1
    margin: float | None = 0.3
    triplet: float = 1.0
    flip: bool = True
    pad: int = 4
    erase: float = 0.5
    held_out: float = 0.1
    split: int | None = None
    layout: str = AUTO

    def __post_init__(self) -> None:
        """Check the values that can be checked without the network.

        Raises:
            ValueError: the network has nearly the name of one, or a value is out of range.
        """
        hint = "" if self.network in _NETWORKS or ":" in self.network else did_you_mean(self.network, _NETWORKS)
        if hint:
            raise ValueError(f"network {self.network!r}: {hint}")
        for name, kind in (("temporal", Temporal), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {' or '.join(get_args(kind))}")
        for name, least, most in (
            ("height", 8, _MAX_SIDE),
            ("width", 8, _MAX_SIDE),
            ("last_stride", 1, 2),
            ("per_identity", 1, _MAX_PER_IDENTITY),
            ("pad", 0, _MAX_SIDE),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} to {most:,}")
        for name in ("label_smoothing", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 0 and below 1")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"erase={self.erase}: expected a probability, 0 to 1")
        for name in ("triplet", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1000:
                raise ValueError(f"{name}={value}: expected 0 to 1,000{' or none' if name == 'margin' else ''}")
        if self.per_identity < 2 and self.triplet > 0:
            raise ValueError(
                f"per_identity={self.per_identity}, triplet={self.triplet:g}: the triplet loss compares tracklets of "
                "the same identity; expected per_identity=2 or more, or triplet=0"
            )
        if self.split is not None and self.split < 0:
            raise ValueError(f"split={self.split}: expected a number from 0, or none")
        length, stride = self.schedule
        if length > _MAX_FRAMES or (stride or 1) > _MAX_STRIDE:
            raise ValueError(f"frames={self.frames}: expected at most {_MAX_FRAMES:,} frames, {_MAX_STRIDE:,} apart")
        if length * self.height * self.width > _MAX_PIXELS:
            pixels = f"{length} x {self.height} x {self.width}"
            raise ValueError(f"frames={self.frames}: expected {pixels} to be at most {_MAX_PIXELS:,}")

    @property
    def schedule(self) -> Schedule:
        """The frames of a clip.

        Raises:
            ValueError: `frames` is no schedule.
        """
        return parse_schedule(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input, in pixels."""
        return self.height, self.width


def settings_of_file(values: Mapping[str, Any], network: str = "") -> ReidSettings:
    """The settings in a file of trained weights. They name a network of this library, torchvision or timm.

    Args:
        values: settings by name.
        network: the user's name of the network, which replaces the one in the file: only a user can name a Python file.

    Raises:
        ValueError: an unknown setting, a value of another type or out of range, or a network that is not a plain name.
    """
    settings = settings_from(ReidSettings, values)
    if network:
        return replace(settings, network=network)
    if settings.network not in _NETWORKS and not _PLAIN_NAME.fullmatch(settings.network):
        raise ValueError(
            f"network={settings.network!r}: a file can only name a network of this library, torchvision or timm; "
            "if you trust it, name it yourself: --network, or --model of nonlocal view"
        )
    return settings


@dataclass(frozen=True)
class ReidTestOptions:
    """Queries are ranked against the gallery, under both protocols.

    CHECKPOINT can also be the folder of the runs of nonlocal train reid --seeds: each run is tested on its own random
    split of the data, and the metrics are averaged.

    Attributes:
        protocol: official (MARS: the gallery holds the queries; trapezoidal average precision), common (queries are
            left out of the gallery, queries without a match are skipped), or both.
        distance: cosine or euclidean distance of the embeddings.
        rerank: k-reciprocal re-ranking of the distances (Zhong et al., CVPR 2017); slow for large galleries.
        false_accept: false-accept rate at which the threshold for same and different persons is chosen.
        views: clips per tracklet, evenly spaced; their embeddings are averaged.
        pictures: number of queries whose ranked matches are drawn, worst first; 0 for none.
        batch_size: clips per forward pass.
        workers: processes that decode frames.
        whole: also test identities that the weights were trained on.
        layout: layout of the data, such as mars; auto recognizes it.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
        on_error: skip tracklets that cannot be read (scores.json lists them), or fail.
    """

    protocol: Protocol = "both"
    distance: Distance = "cosine"
    rerank: bool = False
    false_accept: float = 0.01
    views: int = 2
    pictures: int = 8
    batch_size: int = 16
    workers: int = 1
    whole: bool = False
    layout: str = AUTO
    network: str = ""
    on_error: OnError = "skip"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a number is out of range.
        """
        for name, least in (("views", 1), ("pictures", 0), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more")
        if not 0 < self.false_accept < 1:
            raise ValueError(f"--false-accept {self.false_accept}: expected a rate above 0 and below 1, such as 0.01")
