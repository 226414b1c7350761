"""Networks of action recognition: from settings to a network with blocks, and its initial weights."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.inflation.inflate import inflate
from torch_nonlocal.insertion import blocks, insert
from torch_nonlocal.insertion.attachment import attach
from torch_nonlocal.insertion.targets import separated
from torch_nonlocal.layers import BlockOptions
from torch_nonlocal.layers.registry import NON_LOCAL
from torch_nonlocal.models.build import build
from torch_nonlocal.models.fitting import limited_to, load_exactly, load_pretrained, load_weights, replace_last_linear
from torch_nonlocal.models.inputs import IMAGENET as IMAGENET_INPUTS
from torch_nonlocal.models.inputs import Inputs, inputs_of
from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.models.relation_net import RelationNet
from torch_nonlocal.models.time_moments import TimeMoments, moment_classifier
from torch_nonlocal.tasks.action.settings import AUTO, DIGITS, IMAGENET, NONE, OURS, SMALL, ActionSettings
from torch_nonlocal.tasks.digits.task import BLOCK

_SMALL_TIME = [f"blocks.{stage}.*.conv_dw" for stage in range(2, 7)]  # small maps, which cost little
_SMALL_CHANNELS = 1280
_AUTO_PLACES = {SMALL: ["blocks.2.1", "blocks.4.2"], DIGITS: ["conv3"]}


def network(settings: ActionSettings, classes: int) -> nn.Module:
    """Build the network of these settings, with its blocks and a last layer for the given number of classes.

    Its weights are random, except those of the small network, and those of torchvision's and timm's networks with
    weights="imagenet"; `start_from` loads other weights.

    Raises:
        ValueError: the network is unknown, a place for a block does not exist, or there is no last linear layer.
        ImportError: a package is not installed; the message names the extra.
    """
    model = _without_blocks(settings, classes)
    if settings.non_local != NONE:
        _insert_blocks(model, settings)
    return model


def trained_network(settings: ActionSettings, classes: int, tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """Build the network that a file of trained weights describes, and load its tensors.

    Settings of a file may describe anything: a network larger than its tensors is refused while it is built, and the
    places of blocks are found without computing, whatever the size of the clips.

    Args:
        settings: settings of the file, without initial weights.
        classes: number of classes.
        tensors: tensors of the file by name.
        source: name of the file, for messages.

    Raises:
        ValueError: the settings and the tensors do not fit.
        ImportError: a package is not installed; the message names the extra.
    """
    with limited_to(tensors):
        model = _without_blocks(settings, classes)
        if settings.non_local != NONE:
            planned = copy.deepcopy(model).to("meta")
            _insert_blocks(planned, settings)
            for place, block in blocks(planned).items():
                attach(model.get_submodule(place), type(block)(**block.config))
    load_exactly(model, tensors, source=source)
    return model


def _without_blocks(settings: ActionSettings, classes: int) -> nn.Module:
    name = settings.network
    if name == SMALL:
        is_separable = settings.temporal == "separable"
        model = inflate(efficientnet_lite0(), at=_SMALL_TIME, separable=is_separable)
        if is_separable:
            model.global_pool = TimeMoments()
            model.classifier = moment_classifier(_SMALL_CHANNELS, classes)
        else:  # as in version 0.1: features are averaged over time
            model.classifier = nn.Linear(_SMALL_CHANNELS, classes)
    elif name == DIGITS:
        model = RelationNet()
    elif name.startswith(OURS):
        from torch_nonlocal.models.registry import create_model

        model = create_model(name.removeprefix(OURS), num_classes=classes)
    else:
        model = build(name, pretrained=settings.weights == IMAGENET)
        replace_last_linear(model, lambda last: nn.Linear(last.in_features, classes))
    return model


def _insert_blocks(model: nn.Module, settings: ActionSettings) -> None:
    name = settings.network
    places = separated(settings.non_local) if settings.non_local != AUTO else _AUTO_PLACES.get(name, ["paper-5"])
    length, _ = settings.schedule
    channels = 1 if name == DIGITS else 3
    device = next(model.parameters()).device
    example = torch.zeros(1, channels, length, settings.crop, settings.crop, device=device)
    known = name.startswith(OURS)  # the modules state their channels: no need to run 128 frames
    options: BlockOptions = BLOCK if name == DIGITS else {"subsample": 2}
    if settings.block != NON_LOCAL:
        options = {}
    insert(model, places, None if known else example, block=settings.block, **options)


def start_from(model: nn.Module, settings: ActionSettings, classes: Sequence[str] = ()) -> str:
    """Load the initial weights into a network built by `network`, in place.

    Args:
        model: changed in place.
        settings: settings of the network.
        classes: class names of the network; the last layer of a file with other classes is not loaded.

    Returns:
        One line that describes the weights.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: weights cannot be downloaded.
        ValueError: the weights do not fit; the network is unchanged.
        ImportError: a package is not installed; the message names the extra.
    """
    if settings.network == SMALL and settings.weights in (NONE, IMAGENET):
        return "weights: EfficientNet-Lite0, ImageNet, inflated; newly initialized: last layer and blocks"
    if settings.weights == NONE:
        return "weights: all newly initialized"
    if settings.weights != IMAGENET:
        report = load_weights(model, settings.weights, classes=classes or None)
        return f"weights: {settings.weights}: {report}"
    if settings.network == DIGITS:
        raise ValueError("weights 'imagenet': the network for moving digits has none; expected 'none' or a file")
    if settings.network.startswith(OURS):
        load_pretrained(model, IMAGENET)  # pyright: ignore[reportArgumentType]
        return "weights: torchvision, ImageNet, inflated; newly initialized: last layer and blocks"
    return "weights: ImageNet; newly initialized: last layer and blocks"


def set_saved_inputs(model: nn.Module, about: Mapping[str, Any]) -> None:
    """Describe a network's inputs as it was trained, in place.

    Args:
        model: a network of `network`; its own description is right for a new run.
        about: what a file of weights or a run says about itself. Version 0.1 did not save the inputs, and normalized
            clips for torchvision's and timm's networks with ImageNet's mean and std.

    Raises:
        ValueError: the saved description is invalid.
    """
    if "inputs" in about:
        setattr(model, "inputs", Inputs.from_dict(about["inputs"]))  # noqa: B010 (typed as a tensor or module)
    elif str(about.get("network")).startswith(("torchvision:", "timm:")):
        own = replace(inputs_of(model), mean=IMAGENET_INPUTS.mean, std=IMAGENET_INPUTS.std)
        setattr(model, "inputs", own)  # noqa: B010
