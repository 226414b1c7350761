"""Channels, device and dtype of a block, read from its children.

Pruning, adapters and quantization replace children and their weights. What a child is now counts, not what the options
were.
"""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def in_channels(module: nn.Module, dims: int) -> int | None:
    """Return the number of input channels of a convolution over `dims` axes, or None if it is not known."""
    weight = _weight(module, dims)
    if weight is None:
        return _count(module, "in_channels", "in_features")
    return weight.shape[1] * module.__dict__.get("groups", 1)


def out_channels(module: nn.Module, dims: int) -> int | None:
    """Return the number of output channels of a convolution over `dims` axes, or None if it is not known."""
    weight = _weight(module, dims)
    return _count(module, "out_channels", "out_features") if weight is None else weight.shape[0]


def device_and_dtype(block: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating dtype of a block's weights: those of g, or else of any other child.

    The weights of an offloaded block are on the meta device until its children are called.
    """
    children = [one for one in (block._modules.get("g"), block) if one is not None]
    tensors = chain.from_iterable(chain(child.parameters(), child.buffers()) for child in children)
    found = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    return (torch.device("cpu"), torch.get_default_dtype()) if found is None else (found.device, found.dtype)


def _weight(module: nn.Module, dims: int) -> Tensor | None:
    # Not getattr(module, "weight"): a parametrization would compute it, and may change its state.
    weight: Any = module._parameters.get("weight")
    if weight is None:
        weight = module.__dict__.get("weight")
        weight = weight if isinstance(weight, Tensor) else None
    return weight if weight is not None and len(weight.shape) == dims + 2 else None


def _count(module: nn.Module, *names: str) -> int | None:
    counts = (getattr(module, name, None) for name in names)
    return next((count for count in counts if isinstance(count, int)), None)
