"""The output of a place: channels, axes, device and dtype, from a run on the example input or from the module."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import capture_outputs, eager, evaluating
from torch_nonlocal._common.offload import execution_device

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = ((nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3))
# Residual blocks whose last convolution determines the number of output channels.
_RESIDUAL_BLOCKS = {
    (package, name)
    for package in (
        "torchvision.models.resnet",
        "torchvision.models.video.resnet",
        "timm.models.resnet",
        "torch_nonlocal.models.video_resnet",
    )
    for name in ("BasicBlock", "Bottleneck")
}


class Output(NamedTuple):
    """A channels-first map (B, C, *size).

    Attributes:
        channels: C.
        dims: number of axes in `size`: 1, 2 or 3.
        device: device of the map.
        dtype: floating dtype of the map.
    """

    channels: int
    dims: int
    device: torch.device
    dtype: torch.dtype


def outputs_by_run(model: nn.Module, targets: dict[str, nn.Module], example_input: Any) -> dict[str, Output]:
    """Run the model once on the example, in eval mode without gradients, and describe the output of each target.

    Args:
        model: any network. Its modes, batch statistics, hooks and the random state are unchanged afterwards.
        targets: modules by name.
        example_input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or any other single
            argument (such as a detector's list of images).

    Raises:
        ValueError: if a target does not run, runs more than once, or does not return one channels-first map.
    """
    with capture_outputs(targets) as seen, eager(), evaluating(model), torch.no_grad():
        call(model, example_input)
    return {name: one_map(name, targets[name], runs) for name, runs in seen.items()}


def output_by_module(name: str, module: nn.Module) -> Output:
    """Describe the output of a convolution, a batch norm or a ResNet block without running it.

    Raises:
        ValueError: if the module is of any other class. The message asks for `example_input`.
    """
    device, dtype = placement(module)
    for kind, dims in _BATCH_NORMS:
        if isinstance(module, kind):
            return Output(module.num_features, dims, device, dtype)
    conv = module if isinstance(module, _CONVS) else _last_conv(module)
    if conv is None:
        raise ValueError(
            f"the output shape of {name!r} ({type(module).__name__}) is not known from the module: "
            "pass example_input=, an input of the model"
        )
    return Output(conv.out_channels, len(conv.kernel_size), device, dtype)


def placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a module's parameters, for a block that follows it.

    The device of parameters that accelerate has offloaded is the one that runs the module.
    """
    parameter = next((one for one in module.parameters() if one.is_floating_point()), None)
    if parameter is None:
        return torch.device("cpu"), torch.get_default_dtype()
    offloaded = execution_device(module) if parameter.is_meta else None
    return offloaded or parameter.device, parameter.dtype


def _last_conv(module: nn.Module) -> Any:
    if (type(module).__module__, type(module).__name__) not in _RESIDUAL_BLOCKS:
        return None
    last = getattr(module, "conv3", None) or getattr(module, "conv2", None)
    convs = [child for child in last.modules() if isinstance(child, _CONVS)] if last is not None else []
    return convs[-1] if convs else None


def call(model: nn.Module, example_input: Any) -> None:
    """Run the model on an example input: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(example_input, tuple):
        model(*example_input)
    elif isinstance(example_input, dict):
        model(**example_input)
    else:
        model(example_input)


def one_map(name: str, module: nn.Module, runs: list[Any]) -> Output:
    """Describe the one channels-first map that a module returned.

    Args:
        name: name of the module, for messages.
        module: the module.
        runs: its outputs, one per run.

    Raises:
        ValueError: if there is not exactly one run, or the output is not one floating-point map of 3 to 5 axes. The
            message names the module.
    """
    kind = type(module).__name__
    if not runs:
        raise ValueError(f"{name!r} ({kind}) does not run on the example input: a block there is never applied")
    if len(runs) > 1:
        raise ValueError(
            f"{name!r} ({kind}) runs {len(runs)} times on the example input, and a block there would run every time. "
            "Choose a module that runs once, such as the module that calls it"
        )
    output = runs[0]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{name!r} ({kind}) returns a {type(output).__name__}, not a tensor: choose a module that returns one map"
        )
    if output.ndim not in (3, 4, 5):
        raise ValueError(
            f"{name!r} ({kind}) returns a tensor of {output.ndim} axes, {tuple(output.shape)}: "
            "expected (B, C, L), (B, C, H, W) or (B, C, T, H, W)"
        )
    if not output.is_floating_point():
        raise ValueError(f"{name!r} ({kind}) returns {output.dtype}: expected a floating dtype")
    return Output(output.shape[1], output.ndim - 2, output.device, output.dtype)
