"""What a place's output looks like: from a run of the example input, or from the module where that is certain."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import capture_outputs, evaluating

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = ((nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3))
# Residual blocks whose output has the channels of their last convolution.
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
    """A channels-first map (B, C, *size): its channels, number of axes in `size`, and where it lives."""

    channels: int
    dims: int
    device: torch.device
    dtype: torch.dtype


def outputs_by_run(model: nn.Module, targets: dict[str, nn.Module], example_input: Any) -> dict[str, Output]:
    """Run the model once on the example, in eval mode and without gradients, and look at each target's output.

    Args:
        model: left as it was: modes, statistics, hooks and random state.
        targets: modules by name.
        example_input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or any other single
            argument (such as a detector's list of images).

    Raises:
        ValueError: a target that did not run, ran more than once, or whose output is not a channels-first map.
    """
    with capture_outputs(targets) as seen, evaluating(model), torch.no_grad():
        call(model, example_input)
    return {name: one_map(name, targets[name], runs) for name, runs in seen.items()}


def output_by_module(name: str, module: nn.Module) -> Output:
    """The output of a convolution, a batch norm or a ResNet block, known without running it.

    Raises:
        ValueError: any other module; the message asks for `example_input`.
    """
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = parameter.dtype if parameter is not None else torch.get_default_dtype()
    for kind, dims in _BATCH_NORMS:
        if isinstance(module, kind):
            return Output(module.num_features, dims, device, dtype)
    conv = module if isinstance(module, _CONVS) else _last_conv(module)
    if conv is None:
        raise ValueError(
            f"the output of {name!r} ({type(module).__name__}) is not certain from the module alone: "
            "pass example_input=, an input that the model can run"
        )
    return Output(conv.out_channels, len(conv.kernel_size), device, dtype)


def _last_conv(module: nn.Module) -> Any:
    if (type(module).__module__, type(module).__name__) not in _RESIDUAL_BLOCKS:
        return None
    last = getattr(module, "conv3", None) or getattr(module, "conv2", None)
    convs = [child for child in last.modules() if isinstance(child, _CONVS)] if last is not None else []
    return convs[-1] if convs else None


def call(model: nn.Module, example_input: Any) -> None:
    """Run the model on an example input as `insert` takes it."""
    if isinstance(example_input, tuple):
        model(*example_input)
    elif isinstance(example_input, dict):
        model(**example_input)
    else:
        model(example_input)


def one_map(name: str, module: nn.Module, runs: list[Any]) -> Output:
    """The one channels-first map that a module returned.

    Raises:
        ValueError: no run, several, or an output of another kind; the message names the module.
    """
    kind = type(module).__name__
    if not runs:
        raise ValueError(f"{name!r} ({kind}) does not run in the example: a block there would never be applied")
    if len(runs) > 1:
        raise ValueError(
            f"{name!r} ({kind}) runs {len(runs)} times in the example: one block would be applied at each. "
            "Choose a module that runs once, such as the one that calls it"
        )
    output = runs[0]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{name!r} ({kind}) returns a {type(output).__name__}, not a tensor: "
            "choose a module whose output is one map"
        )
    if output.ndim not in (3, 4, 5):
        raise ValueError(
            f"{name!r} ({kind}) returns a tensor of {output.ndim} axes, {tuple(output.shape)}: "
            "expected channels first, (B, C, L), (B, C, H, W) or (B, C, T, H, W)"
        )
    if not output.is_floating_point():
        raise ValueError(f"{name!r} ({kind}) returns {output.dtype}: a block needs floating-point features")
    return Output(output.shape[1], output.ndim - 2, output.device, output.dtype)
