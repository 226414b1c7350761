"""Video models by name."""

import fnmatch
import os
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.insertion import insert
from torch_nonlocal.insertion.targets import Places
from torch_nonlocal.layers.options import BlockOptions, check_option_names
from torch_nonlocal.models.fitting import load_pretrained
from torch_nonlocal.models.inputs import CAFFE2, IMAGENET, Inputs
from torch_nonlocal.models.network_files import load_network
from torch_nonlocal.models.video_resnet import C2D, C2D_8X8, DEPTHS, I3D, I3D_8X8, SLOW, TimePlan, VideoResNet

_FAMILIES = {
    "c2d_resnet{}": (None, C2D),
    "c2d_resnet{}_8x8": (None, C2D_8X8),
    "i3d_resnet{}": ("3x1x1", I3D),
    "i3d_resnet{}_8x8": ("3x1x1", I3D_8X8),
    "i3d_resnet{}_3x3x3": ("3x3x3", I3D),
    "slow_resnet{}": ("3x1x1", SLOW),
}
_POOLED_LESS = {"stem_stride": 2, "pool1_kernel": 1, "pool1_stride": 2, "pool2_kernel": 2}
_OF_PROJECTS: dict[str, dict[str, Any]] = {
    "mmaction2": _POOLED_LESS,
    "gluoncv": _POOLED_LESS,
    "caffe2": {"pool1_padding": 0},
}
ARCHITECTURES: dict[str, tuple[int, str | None, TimePlan]] = {
    name.format(depth): (depth, kernel, time) for depth in DEPTHS for name, (kernel, time) in _FAMILIES.items()
}
"""Depth, kernel and time plan by name. A name such as "i3d_resnet50.mmaction2" is that of the project's own network."""
ARCHITECTURES |= {
    f"{name}.{project}": (depth, kernel, replace(time, **changes))
    for name, (depth, kernel, time) in ARCHITECTURES.items()
    for project, changes in _OF_PROJECTS.items()
    if time is not SLOW and name.endswith("_8x8") == (project == "caffe2")
}
_BUILDERS = {
    name: partial(VideoResNet, depth, kernel=kernel, time=time) for name, (depth, kernel, time) in ARCHITECTURES.items()
}


def list_models(filter: str = "*") -> list[str]:
    """Sorted names for `create_model`.

    Names with a dot, such as "i3d_resnet50.mmaction2", are the networks of other projects where these differ in their
    strides and pools. They are listed only for a filter with a dot.

    Args:
        filter: a glob such as "i3d*" or "*.mmaction2".

    Example:
        >>> nl.list_models("c2d_resnet50*")
        ['c2d_resnet50', 'c2d_resnet50_8x8']
    """
    return sorted(name for name in fnmatch.filter(_BUILDERS, filter) if "." in filter or "." not in name)


def create_model(
    name: str,
    *,
    num_classes: int = 400,
    non_local: Places | None = None,
    weights: str | os.PathLike[str] | None = None,
    dropout: float = 0.5,
    **options: Unpack[BlockOptions],
) -> VideoResNet:
    """Create a C2D, I3D or Slow ResNet, with or without non-local blocks.

    "c2d_resnet50" has no kernels over time; "i3d_resnet50" has 3x1x1 kernels; "_3x3x3" inflates the 3x3 kernels; "_8x8"
    reduces time less, for 8 frames 8 apart; "slow_resnet50" keeps all frames, as the slow pathway of SlowFast.
    resnet101 has the same variants. "i3d_resnet50.mmaction2", ".gluoncv" and ".caffe2" have the strides and pools of
    these projects, whose checkpoints `nonlocal convert` reads.

    Args:
        name: one of `list_models()`, or a file with a whole network that `nonlocal convert` wrote, which states its own
            architecture, blocks and classes.
        num_classes: width of the last layer.
        non_local: places of the blocks: "paper-1", "paper-5", "paper-10", "nvan", or places as `insert` takes them;
            None for no blocks.
        weights: None for random weights; "imagenet" for torchvision's ImageNet weights of the 2D ResNet, inflated
            (torchvision downloads them unless cached); or a file with weights of a 2D ResNet, which are inflated, or of
            this model.
        dropout: dropout probability before the last layer.
        **options: options of `NonLocal3d`. As in the published models, keys are max-pooled by 2 x 2 (`subsample`
            is 2 by default).

    Returns:
        The model in train mode. Its attribute `inputs` describes its inputs.

    Raises:
        ValueError: an unknown name (the message suggests the nearest one), preset, option or weights file.
        TypeError: an unknown block option; the message suggests the nearest one and lists all.
        ImportError: torchvision is needed for "imagenet" and not installed.

    Example:
        >>> model = nl.create_model("i3d_resnet50", num_classes=400, non_local="paper-5")
        >>> model(torch.randn(1, 3, 32, 224, 224)).shape
        torch.Size([1, 400])
    """
    if weights is None and name not in _BUILDERS and os.path.isfile(name):
        if non_local is not None or options:
            raise ValueError(f"{name} states its network and its blocks: non_local and block options do not apply")
        return load_network(name, read_weights(name), dropout)
    inputs = inputs_for(name)
    check_option_names("create_model", options, parameters=("num_classes", "non_local", "weights", "dropout"))
    if options and non_local is None:
        raise ValueError(f"{', '.join(options)}: block options require places, such as non_local='paper-5'")
    model = _BUILDERS[name](num_classes=num_classes, dropout=dropout)
    model.inputs = inputs
    if non_local is not None:
        block_options: BlockOptions = {"subsample": 2, **options}
        insert(model, non_local, **block_options)
    if weights is not None:
        load_pretrained(model, weights)
    return model


def inputs_for(name: str) -> Inputs:
    """The inputs of a model of `list_models()`: ImageNet's mean and std, 224 x 224 pixels, 32 or 8 frames.

    Networks of video-nonlocal-net (".caffe2") have its mean and std.

    Raises:
        ValueError: an unknown name; the message suggests the nearest one.
    """
    if name not in _BUILDERS:
        hint = did_you_mean(name, _BUILDERS)
        raise ValueError(f"no model {name!r}; {hint + ' ' if hint else ''}models: {', '.join(list_models())}")
    inputs = CAFFE2 if name.endswith(".caffe2") else IMAGENET
    return replace(inputs, size=(224, 224), frames=8 if "_8x8" in name or name.startswith("slow") else 32)
