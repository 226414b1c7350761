"""Video models by name."""

import fnmatch
import os
from dataclasses import replace
from functools import partial
from typing import Unpack

from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.insertion import insert
from torch_nonlocal.insertion.targets import Places
from torch_nonlocal.layers.options import BlockOptions, check_option_names
from torch_nonlocal.models.fitting import load_pretrained
from torch_nonlocal.models.inputs import IMAGENET, Inputs
from torch_nonlocal.models.video_resnet import C2D_8X8, I3D_8X8, VideoResNet

_BUILDERS = {
    f"{family}_resnet{depth}{suffix}": partial(VideoResNet, depth, kernel=kernel, time=time)
    for depth in (50, 101)
    for family, suffix, kernel, time in (
        ("c2d", "", None, None),
        ("c2d", "_8x8", None, C2D_8X8),
        ("i3d", "", "3x1x1", None),
        ("i3d", "_8x8", "3x1x1", I3D_8X8),
        ("i3d", "_3x3x3", "3x3x3", None),
    )
}


def list_models(filter: str = "*") -> list[str]:
    """Sorted names for `create_model`.

    Args:
        filter: a glob such as "i3d*".

    Example:
        >>> nl.list_models("c2d_resnet50*")
        ['c2d_resnet50', 'c2d_resnet50_8x8']
    """
    return sorted(fnmatch.filter(_BUILDERS, filter))


def create_model(
    name: str,
    *,
    num_classes: int = 400,
    non_local: Places | None = None,
    weights: str | os.PathLike[str] | None = None,
    dropout: float = 0.5,
    **options: Unpack[BlockOptions],
) -> VideoResNet:
    """Create a C2D or I3D ResNet of the paper, with or without non-local blocks.

    "c2d_resnet50" has no kernels over time; "i3d_resnet50" has 3x1x1 kernels; "_3x3x3" inflates the 3x3 kernels; "_8x8"
    reduces time less, for 8 frames 8 apart. resnet101 has the same variants.

    Args:
        name: one of `list_models()`.
        num_classes: width of the last layer.
        non_local: places of the blocks: "paper-1", "paper-5", "paper-10", or places as `insert` takes them; None for no
            blocks.
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

    Raises:
        ValueError: an unknown name; the message suggests the nearest one.
    """
    if name not in _BUILDERS:
        hint = did_you_mean(name, _BUILDERS)
        raise ValueError(f"no model {name!r}; {hint + ' ' if hint else ''}models: {', '.join(list_models())}")
    return replace(IMAGENET, size=(224, 224), frames=8 if name.endswith("_8x8") else 32)
