"""The geometry of a feature map, from a run of the network."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import capture_outputs, find_module
from torch_nonlocal._common.deprecation import renamed_arguments
from torch_nonlocal._common.structural_copy import NotCopiedError
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.receptive import AxisRule, Example, pixel_rules
from torch_nonlocal.attention.undisturbed import undisturbed


@renamed_arguments(place="at")
@torch.no_grad()
def probe_geometry(
    model: nn.Module, at: str, input_size: Sequence[int], *, channels: int = 3, per_frame: bool = False
) -> Geometry:
    """Return the geometry of a module's output, for `similarity` and for drawing.

    Finds the centers of receptive fields by running a copy of the network, which shares its parameters, on thin strips.
    The model is unchanged at all times, also for other threads. If an operation over the whole map precedes the module,
    there are no such centers: the geometry then assumes a grid that divides the input evenly, and its `probed` is
    False.

    Args:
        model: takes (B, channels, *input_size), or with `per_frame` images (B, channels, H, W).
        at: name of the module whose output is the feature map.
        input_size: (T, H, W), (H, W) or (L,), in frames and pixels.
        channels: number of input channels.
        per_frame: the model is a 2D network that runs on each frame of a clip. input_size is then (T, H, W), and the
            map (T, H', W') keeps all frames.

    Raises:
        ValueError: the model has no such module, the module does not run, or its output is not a single map with as
            many axes as the input.

    Example:
        >>> geometry = probe_geometry(resnet, "layer3", clip.shape[1:4], per_frame=True)
    """
    size = tuple(input_size)
    image_size = size[1:] if per_frame else size
    module = find_module(model, at)
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.zeros(0))
    example = Example(channels, image_size, like.dtype, like.device, lambda network, x: network(x))
    output = _output(model, module, example)
    if output is None or output.ndim != len(image_size) + 2:
        found = "no tensor" if output is None else f"{tuple(output.shape)}"
        raise ValueError(f"{at!r}: expected its output to be a map (B, C, {len(image_size)} axes), got {found}")
    grid = tuple(output.shape[2:])
    even = Geometry.evenly(grid, grid, (1,) * len(grid), image_size)
    image = located(even, pixel_rules(model, {at: module}, example)[at])
    return image if not per_frame else _with_frames(image, size[0])


def located(even: Geometry, rules: Sequence[AxisRule | None]) -> Geometry:
    """Return the geometry given by the rules of the last axes, or `even` if a rule is missing or does not fit."""
    last = rules[-len(even.grid) :]
    if len(last) != len(even.grid):
        return even
    found = [
        rule
        for rule, pixels, cells in zip(last, even.input_size, even.grid, strict=True)
        if rule is not None and rule.fits(pixels, cells)
    ]
    if len(found) != len(even.grid):
        return even
    offset, stride = tuple(rule.offset for rule in found), tuple(rule.stride for rule in found)
    return replace(even, offset=offset, stride=stride, probed=True)


def _output(model: nn.Module, module: nn.Module, example: Example) -> Tensor | None:
    """Return the module's output for an input of zeros of the example's size."""
    x = torch.zeros(1, example.channels, *example.size, dtype=example.dtype, device=example.device)
    try:
        with undisturbed(model) as copy, capture_outputs({"": copy[module]}) as seen:
            example.call(copy.model, x)
    except NotCopiedError as error:
        if any(one.training for one in model.modules()):
            raise ValueError(f"{error}; call model.eval(), so that a run does not change the model") from error
        with capture_outputs({"": module}) as seen:
            example.call(model, x)
    outputs = seen[""]
    return outputs[-1] if outputs and isinstance(outputs[-1], Tensor) else None


def _with_frames(image: Geometry, frames: int) -> Geometry:
    """Return the geometry of a clip from that of its frames."""
    return Geometry(
        (frames, *image.grid),
        (frames, *image.key_grid),
        (1, *image.pool),
        (frames, *image.input_size),
        (0.0, *image.offset),
        (1.0, *image.stride),
        probed=image.probed,
    )
