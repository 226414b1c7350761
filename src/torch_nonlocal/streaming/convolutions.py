"""Convolutions over time in a stream: the frames before a chunk are those of the chunk before, not padding.

A convolution that is causal in time gets its padding from the code around it: F.pad, a padding layer, a copy of the
first frame. At the first chunk this is right. At later ones, the padding is replaced by the last frames of the chunk
before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ADVICE = (
    "expected padding with earlier frames only, such as F.pad(x, (0, 0, 0, 0, 2, 0)) before a convolution with "
    "padding=(0, 1, 1)"
)


class ConvolutionCache:
    """The last frames of the inputs of the convolutions of a network, in the order in which they run.

    Args:
        names: names of modules, by the `id` of their weights.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names
        self.inputs: dict[int, Tensor] = {}


class CachedConvolutions(TorchFunctionMode):
    """Inside the context, convolutions over time take the frames before a chunk from the cache.

    Args:
        cache: the cache.
        frames: the number of frames of the chunk.
    """

    def __init__(self, cache: ConvolutionCache, frames: int) -> None:
        super().__init__()
        self._cache, self._frames, self._number = cache, frames, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv3d:
            return self._convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _convolve(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        name = self._cache.names.get(id(weight), "a convolution")
        check_time_axis(name, "conv3d", weight.shape[2], stride, padding)
        reach = of_time(dilation) * (weight.shape[2] - 1)
        if reach:
            input = self._with_earlier_frames(name, input, reach)
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)

    def _with_earlier_frames(self, name: str, x: Tensor, reach: int) -> Tensor:
        if x.shape[-3] != self._frames + reach:
            raise ValueError(
                f"nl.stream: {name!r} convolves {x.shape[-3]} frames for {self._frames} frames of the video; with a "
                f"reach of {reach} earlier frames, {ADVICE}"
            )
        earlier = self._cache.inputs.get(self._number)
        if earlier is not None:
            x = torch.cat([earlier, x.narrow(-3, reach, self._frames)], -3)
        self._cache.inputs[self._number] = x.narrow(-3, self._frames, reach).clone()
        self._number += 1
        return x


def check_time_axis(name: str, kind: str, kernel: int, stride: Any, padding: Any) -> None:
    """Check that a convolution keeps the frames and pads no later ones.

    Raises:
        ValueError: if not.
    """
    if of_time(stride) != 1:
        raise ValueError(
            f"nl.stream: {name!r} ({kind}) has a stride of {of_time(stride)} on the time axis: expected 1, one output "
            "for each frame"
        )
    both_ends = kernel > 1 if padding == "same" else padding != "valid" and of_time(padding) > 0
    if both_ends:
        raise ValueError(
            f"nl.stream: {name!r} ({kind}) pads both ends of the time axis, so that frames depend on later ones: "
            f"{ADVICE}"
        )


def convolution_names(modules: Mapping[str, nn.Module]) -> dict[int, str]:
    """Return the names of modules by the `id` of their weights."""
    return {
        id(weight): name or type(module).__name__
        for name, module in modules.items()
        if isinstance(weight := module._parameters.get("weight"), Tensor)
    }


def of_time(sizes: Any) -> Any:
    """Return the size on the time axis of one size for all axes, None included, or of one per axis."""
    return sizes if isinstance(sizes, int) or sizes is None else sizes[0]
