"""Networks by name, from several sources, with the description of their inputs."""

import importlib.util
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torch_nonlocal._common.optional import require
from torch_nonlocal._common.text import did_you_mean, nearest
from torch_nonlocal.models.inputs import EFFICIENTNET_LITE0, IMAGENET, RGB, Inputs, inputs_of
from torch_nonlocal.models.packaged import efficientnet_lite0
from torch_nonlocal.models.registry import create_model, inputs_for, list_models

PACKAGED = "packaged"


def build(model: str, *, pretrained: bool = False) -> nn.Module:
    """Build a network by its name.

    Args:
        model: "packaged" (EfficientNet-Lite0 with ImageNet weights), "torchvision:NAME", "timm:NAME", "ours:NAME" (see
            `nl.list_models`) or "FILE.py:FUNCTION" (a function that returns the network; the file is executed).
        pretrained: load the pretrained weights of torchvision or timm, which download them; ours are inflated from
            torchvision's.

    Returns:
        The network, in the mode its source returns it in. Its attribute `inputs` describes its inputs; a network from
        a file keeps the attribute that its function sets, if any. Read it with `inputs_of`.

    Raises:
        ValueError: an unknown source or name, or a file without that function; the message suggests the nearest name.
        ImportError: a package that the model needs is not installed.
    """
    source, _, name = model.rpartition(":")
    if model == PACKAGED:
        return efficientnet_lite0()
    if source == "ours":
        return create_model(name, weights="imagenet" if pretrained else None)
    if source == "torchvision":
        described = _torchvision_inputs(name)
        return _with_inputs(_torchvision_model(name, pretrained), described)
    if source == "timm":
        _check_timm_name(name)
        network = require("timm").create_model(name, pretrained=pretrained)
        return _with_inputs(network, _timm_inputs(network.pretrained_cfg))
    if source.endswith(".py"):
        return _from_file(Path(source), name)
    hint = _source_hint(name)
    raise ValueError(
        f"model {model!r}: {hint + ' ' if hint else ''}expected 'packaged', 'torchvision:resnet50', 'timm:resnet50', "
        "'ours:i3d_resnet50' or 'path/to/file.py:function'"
    )


@cache
def inputs_named(model: str) -> Inputs:
    """The inputs of the network that `build(model)` returns, without building it.

    Only a network from a file is built; the random state is restored afterwards.

    Raises:
        ValueError: as for `build`.
        ImportError: as for `build`.
    """
    source, _, name = model.rpartition(":")
    if model == PACKAGED:
        return EFFICIENTNET_LITE0
    if source == "ours":
        return inputs_for(name)
    if source == "torchvision":
        return _torchvision_inputs(name) or IMAGENET
    if source == "timm":
        _check_timm_name(name)
        return _timm_inputs(require("timm").get_pretrained_cfg(name).to_dict())
    with torch.random.fork_rng(devices=[]):
        return inputs_of(build(model))


def _with_inputs(network: nn.Module, inputs: Inputs | None) -> nn.Module:
    if inputs is not None:
        setattr(network, "inputs", inputs)  # noqa: B010 (nn.Module types its attributes as tensors and modules)
    return network


def _torchvision_model(name: str, pretrained: bool) -> nn.Module:
    models = require("torchvision").models
    if pretrained:
        return models.get_model(name, weights="DEFAULT")
    # Detection and segmentation networks otherwise download the weights of their backbone.
    backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    return models.get_model(name, weights=None, **({"weights_backbone": None} if backbone else {}))


def _torchvision_inputs(name: str) -> Inputs | None:
    """Inputs of torchvision's weights, read from their transforms; None for those without a mean (optical flow)."""
    models = require("torchvision").models
    if name not in models.list_models():
        raise ValueError(_unknown("torchvision", name, models.list_models()))
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    if type(transforms).__name__ == "ObjectDetection":  # these networks normalize their images by themselves
        return RGB
    if not hasattr(transforms, "mean"):
        return None
    size = getattr(transforms, "crop_size", None)  # [side] or [height, width]
    return Inputs(tuple(transforms.mean), tuple(transforms.std), size=(size[0], size[-1]) if size else None)


def _timm_inputs(pretrained_cfg: Any) -> Inputs:
    config = require("timm").data.resolve_data_config({}, pretrained_cfg=pretrained_cfg)
    _, height, width = config["input_size"]
    return Inputs(tuple(config["mean"]), tuple(config["std"]), size=(height, width))


def _check_timm_name(name: str) -> None:
    timm = require("timm")
    if not timm.is_model(name):
        raise ValueError(_unknown("timm", name, timm.list_models()))


def _unknown(source: str, name: str, names: list[str]) -> str:
    hint = did_you_mean(name, names)
    return f"{source} has no model {name!r}" + (f"; {hint}" if hint else "")


def _source_hint(name: str) -> str:
    """A suggestion for a name without its source, such as "did you mean 'torchvision:r3d_18'?", or ""."""
    full_names = {PACKAGED: PACKAGED} | {one: f"ours:{one}" for one in list_models()}
    if importlib.util.find_spec("torchvision") is not None:
        full_names |= {one: f"torchvision:{one}" for one in require("torchvision").models.list_models()}
    near = nearest(name, full_names)
    return "" if near is None else f"did you mean {full_names[near]!r}?"


def _from_file(path: Path, function: str) -> nn.Module:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise ValueError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path} has no function {function!r}")
    network = getattr(module, function)()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{path}:{function} returned {type(network).__name__}, expected a network (nn.Module)")
    return network
