"""The networks of action recognition: from plain settings to a network with blocks, and what its weights start from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torch_nonlocal.inflation.inflate import inflate
from torch_nonlocal.insertion import insert
from torch_nonlocal.layers import BlockOptions
from torch_nonlocal.media.sampling import parse_schedule
from torch_nonlocal.models.build import PACKAGED, build, inputs_named
from torch_nonlocal.models.fitting import last_linear, load_pretrained, load_weights
from torch_nonlocal.models.inputs import GRAY
from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.models.relation_net import RelationNet
from torch_nonlocal.tasks.digits.task import BLOCK

SMALL = "small"
DIGITS = "digits"
NONE = "none"
IMAGENET = "imagenet"
_OURS = "ours:"
_AUTO = "auto"
_SMALL_TIME = [f"blocks.{stage}.*.conv_dw" for stage in range(2, 7)]  # where maps are small: a third of the time
_AUTO_PLACES = {SMALL: ["blocks.2.1", "blocks.4.2"], DIGITS: ["conv3"]}


@dataclass(frozen=True)
class ActionSettings:
    """What is trained, and on what: plain values, kept with the weights.

    Attributes:
        network: "small" (EfficientNet-Lite0 with its ImageNet weights, inflated), "digits" (`tasks.digits.RelationNet`,
            for moving digits), or a name that `models.named.build` knows, whose last layer is replaced.
        frames: schedule of a clip's frames, such as "8x8" or "64-to-32".
        crop: side of the network's input, in pixels.
        non_local: where blocks go, as `nl.insert` takes it; "auto" for two in the small network, one in that of the
            digits and "paper-5" in others; "none" for none.
        flip: turn half of the training clips left to right; wrong where direction is the label.
        weights: what the network starts from: "none" (the small network then has its own of ImageNet), "imagenet", or a
            file: best.pt of another run, of the same or other classes, whose blocks must have a place here; or weights
            of the 2D network, which are inflated.
    """

    network: str = SMALL
    frames: str = "8x8"
    crop: int = 112
    non_local: str = _AUTO
    flip: bool = True
    weights: str = NONE

    def __post_init__(self) -> None:
        """Check what can be checked without the network.

        Raises:
            ValueError: a crop below one pixel, or frames that are no schedule.
        """
        if self.crop < 1:
            raise ValueError(f"crop={self.crop}: expected 1 pixel or more")
        parse_schedule(self.frames)


def network(settings: ActionSettings, classes: int) -> nn.Module:
    """The network of these settings, with its blocks and a last layer of so many classes.

    Its weights are random, but for the small network and torchvision's and timm's with weights="imagenet"; see
    `start_from`.

    Raises:
        ValueError: an unknown network, a place that is not there, or a network without a last linear layer.
        ImportError: what it needs is not installed.
    """
    name = settings.network
    if name == SMALL:
        model = inflate(efficientnet_lite0(), at=_SMALL_TIME)
        model.classifier = nn.Linear(1280, classes)  # its scores are means over time
    elif name == DIGITS:
        model = RelationNet()
    elif name.startswith(_OURS):
        from torch_nonlocal.models.registry import create_model

        model = create_model(name.removeprefix(_OURS), num_classes=classes)
    else:
        model = build(name, pretrained=settings.weights == IMAGENET)
        _replace_last_linear(model, classes)
    if settings.non_local != NONE:
        places = settings.non_local if settings.non_local != _AUTO else _AUTO_PLACES.get(name, "paper-5")
        length, _ = parse_schedule(settings.frames)
        channels = 1 if name == DIGITS else 3
        example = torch.zeros(1, channels, length, settings.crop, settings.crop)
        tells = name.startswith(_OURS)  # the modules themselves tell the channels: no need to run 128 frames
        options: BlockOptions = BLOCK if name == DIGITS else {"subsample": 2}
        insert(model, places, None if tells else example, **options)
    return model


def start_from(model: nn.Module, settings: ActionSettings, classes: Sequence[str] = ()) -> str:
    """Give a network of `network` the weights that training starts from, in place. Says in one line what they are.

    Args:
        model: changed in place.
        settings: of the network.
        classes: names of the network's; a last layer of other ones, as a file may tell, is not taken.

    Raises:
        FileNotFoundError: no such file.
        OSError: weights cannot be downloaded.
        ValueError: weights that do not fit; the network is then as it was.
        ImportError: what they need is not installed.
    """
    if settings.network == SMALL and settings.weights in (NONE, IMAGENET):
        return "weights: EfficientNet-Lite0's of ImageNet, inflated; the last layer and blocks are new"
    if settings.weights == NONE:
        return "weights: all random"
    if settings.weights != IMAGENET:
        report = load_weights(model, settings.weights, classes=classes or None)
        return f"weights: {settings.weights}: {report}"
    if settings.network == DIGITS:
        raise ValueError("weights 'imagenet': there are none for the network of moving digits; expected 'none' or FILE")
    if settings.network.startswith(_OURS):
        load_pretrained(model, IMAGENET)  # pyright: ignore[reportArgumentType]
        return "weights: torchvision's of ImageNet, inflated; the last layer and blocks are new"
    return "weights: ImageNet's; the last layer and blocks are new"


def prepare(settings: ActionSettings, clips: Tensor) -> Tensor:
    """Normalize loaded clips (B, C, T, H, W), uint8 or floating point in [0, 1]; see `Inputs.normalize`."""
    if settings.network == DIGITS:
        return GRAY.normalize(clips)
    return inputs_named(PACKAGED if settings.network == SMALL else settings.network).normalize(clips)


def _replace_last_linear(model: nn.Module, classes: int) -> None:
    name = last_linear(model)
    parent, _, child = name.rpartition(".")
    last = model.get_submodule(name)
    setattr(model.get_submodule(parent), child, nn.Linear(last.in_features, classes))  # pyright: ignore[reportArgumentType]
