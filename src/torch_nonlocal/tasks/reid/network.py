"""Networks of re-identification: from settings to a network with blocks, and its initial weights."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal._common.text import listed
from torch_nonlocal.inflation.inflate import inflate
from torch_nonlocal.insertion import blocks, insert
from torch_nonlocal.insertion.attachment import attach
from torch_nonlocal.insertion.targets import separated
from torch_nonlocal.layers import BlockOptions
from torch_nonlocal.layers.registry import NON_LOCAL
from torch_nonlocal.models.backbone_weights import for_maps, modules_in_maps
from torch_nonlocal.models.build import build
from torch_nonlocal.models.feature_maps import feature_maps, map_channels, set_last_stride
from torch_nonlocal.models.fitting import limited_to, load_exactly, load_tensors
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.models.tracklet_net import FactorizedConv, TrackletNet, factorize
from torch_nonlocal.tasks.reid.settings import AUTO, IMAGENET, NONE, PERSONS, SMALL, ReidSettings

_AUTO_PLACES = {SMALL: ["network.blocks.2.1", "network.blocks.4.2"], PERSONS: ["conv2"]}
_RESNETS = ["nvan"]
_OWN = "neck.weight"
"""Name of a tensor that every network of this task has."""
_BLOCK: BlockOptions = {"subsample": 2}
_PERSONS_BLOCK: BlockOptions = {"attend": "space"}
"""What the block of the built-in data has to see is in the same frame; see docs/reid-evidence.md."""


def network(settings: ReidSettings, identities: int) -> TrackletNet:
    """Build the network of these settings, with its blocks and a classifier for the given number of identities.

    Its weights are random, except those of the small network, and those of torchvision's and timm's networks with
    weights="imagenet"; `start_from` loads other weights.

    Raises:
        ValueError: the network is unknown, it has no maps before a global pool, or a place for a block does not exist.
        ImportError: a package is not installed; the message names the extra.
    """
    model = _without_blocks(settings, identities)
    if settings.non_local != NONE:
        _insert_blocks(model.backbone, settings)
    return model


def trained_network(settings: ReidSettings, identities: int, tensors: Mapping[str, Tensor], source: str) -> TrackletNet:
    """Build the network that a file of trained weights describes, and load its tensors.

    A network larger than its tensors is refused while it is built.

    Args:
        settings: settings of the file, without initial weights.
        identities: number of identities of the training.
        tensors: tensors of the file by name.
        source: name of the file, for messages.

    Raises:
        ValueError: the settings and the tensors do not fit.
        ImportError: a package is not installed; the message names the extra.
    """
    classifier = tensors.get("classifier.weight")
    if classifier is not None and classifier.shape[:1] != (identities,):
        raise ValueError(f"identities={identities}, but {source} has a classifier of shape {tuple(classifier.shape)}")
    with limited_to(tensors, times=2):  # in 2D, and inflated
        model = _without_blocks(settings, identities)
        if settings.non_local != NONE:
            planned = copy.deepcopy(model.backbone).to("meta")
            _insert_blocks(planned, settings)
            for place, block in blocks(planned).items():
                attach(model.backbone.get_submodule(place), type(block)(**block.config))
    load_exactly(model, tensors, source=source)
    return model


def _example(settings: ReidSettings, device: Any = None) -> Tensor:
    length, _ = settings.schedule
    return torch.zeros(1, 3, length, *settings.size, device=device)


def _without_blocks(settings: ReidSettings, identities: int) -> TrackletNet:
    name = settings.network
    if settings.weights == IMAGENET and (name == PERSONS or name.partition(":")[0].endswith(".py")):
        raise ValueError(f"weights={IMAGENET!r}: the network {name!r} has none; expected {NONE!r} or a file")
    backbone, inputs = _backbone(settings)
    planned, example = copy.deepcopy(backbone).to("meta"), _example(settings, "meta")  # computes nothing, whatever size
    channels = map_channels(planned, example, name)
    if settings.last_stride == 1 and name != PERSONS:
        set_last_stride(planned, example, also=backbone)
    if settings.temporal == "factorized" and not factorize(backbone):
        raise ValueError(f"temporal='factorized': network {name!r} has no bottlenecks of a ResNet; expected 'frames'")
    model = TrackletNet(backbone, channels, identities, pooling=settings.pooling)
    model.inputs = inputs
    return model


def _backbone(settings: ReidSettings) -> tuple[nn.Module, Any]:
    """The backbone for clips, and the description of its inputs."""
    if settings.network == PERSONS:
        from torch_nonlocal.models.person_net import PersonNet

        network = PersonNet()
        return network, inputs_of(network)
    network = _whole_network(settings.network, pretrained=settings.weights == IMAGENET)
    inputs = inputs_of(network)
    maps = feature_maps(network)
    takes_clips = any(isinstance(module, nn.Conv3d) for module in maps.modules())
    return maps if takes_clips else inflate(maps, 1), inputs


def _whole_network(name: str, *, pretrained: bool = False) -> nn.Module:
    if name == SMALL:
        return efficientnet_lite0()
    try:
        return build(name, pretrained=pretrained)
    except OSError as error:  # no network, unknown host, interrupted download
        if not pretrained:
            raise
        raise OSError(
            f"the ImageNet weights of {name} are not on this machine and cannot be downloaded ({error}): copy the file "
            "to this machine and give its path as the weights"
        ) from error


def _insert_blocks(backbone: nn.Module, settings: ReidSettings) -> None:
    places = (
        separated(settings.non_local) if settings.non_local != AUTO else _AUTO_PLACES.get(settings.network, _RESNETS)
    )
    ours = _PERSONS_BLOCK if settings.network == PERSONS else _BLOCK
    options: BlockOptions = ours if settings.block == NON_LOCAL else {}
    device = next(backbone.parameters()).device
    try:
        insert(backbone, places, _example(settings, device), block=settings.block, **options)
    except ValueError as error:
        if places != _RESNETS or settings.non_local != AUTO:
            raise
        raise ValueError(
            f"non_local={AUTO!r} is for ResNets, and network {settings.network!r} is none; expected places such as "
            f"'features.13', or {NONE!r}"
        ) from error


def start_from(model: TrackletNet, settings: ReidSettings) -> str:
    """Load the initial weights into a network built by `network`, in place.

    The weights are those of a run of this task, or of the named network, whose classifier is not used.

    Returns:
        One line that describes the weights.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the weights do not fit; the network is unchanged.
    """
    if settings.weights == NONE and settings.network != SMALL:
        return "weights: all newly initialized"
    if settings.weights in (NONE, IMAGENET):
        name = "EfficientNet-Lite0, ImageNet" if settings.network == SMALL else "ImageNet"
        new = "batch norm and classifier" if settings.non_local == NONE else "batch norm, classifier and blocks"
        return f"weights: {name}; newly initialized: {new}"
    file = read_weights(settings.weights)
    expected = f"expected best.pt of a run of this task, or weights of the network {settings.network}"
    if file.kind == "blocks":
        raise ValueError(f"{settings.weights} holds non-local blocks only; {expected}")
    if _OWN in file.tensors or settings.network == PERSONS:
        report = load_tensors(model, file.tensors, source=settings.weights, same_classes=False)
        return f"weights: {settings.weights}: {report}"
    tensors, others = for_maps(file.tensors, modules_in_maps(lambda: _whole_network(settings.network)))
    try:
        report = load_tensors(model.backbone, _factorized(tensors, model.backbone), source=settings.weights)
    except ValueError as error:
        raise ValueError(f"{error}; {expected}") from error
    beside = {"pool": model.pool, "neck": model.neck, "classifier": model.classifier}
    own = {name: "not in the weights" for name, module in beside.items() if list(module.parameters())}
    report = replace(report, newly_initialized={**report.newly_initialized, **own})
    return f"weights: {settings.weights}: {report}{f'; not used: {listed(others)}' if others else ''}"


def _factorized(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors with those of convolutions that `factorize` replaced; their kernels over time stay the identity."""
    renamed = dict(tensors)
    for place, module in backbone.named_modules():
        if isinstance(module, FactorizedConv) and f"{place}.weight" in renamed:
            renamed[f"{place}.space.weight"] = renamed.pop(f"{place}.weight")
            renamed[f"{place}.time.weight"] = module.time.weight
    return renamed
