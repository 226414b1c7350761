"""Inputs of other sizes than that of an example."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

_SMALLEST = 32  # pixels that remain of a halved axis


def at_other_sizes(example_input: Any) -> Iterator[Any]:
    """Return inputs like an example with the axes after the channels halved or doubled.

    Args:
        example_input: a tensor, or tensors in a tuple, dict or list. A list holds tensors without a batch axis.
    """
    first = 1 if isinstance(example_input, list) else 2
    maps = [one for one in tree_leaves(example_input) if _is_map(one, first)]
    if not maps:
        return
    axes = [range(first, max(one.ndim for one in maps))]
    if first == 2 and max(one.ndim for one in maps) == 3:
        axes.append(range(1, 2))  # a sequence (B, L, C)
    for chosen in axes:
        if any(_can_halve(one.shape[axis]) for one in maps for axis in chosen if axis < one.ndim):
            yield tree_map_only(Tensor, lambda one, chosen=chosen: _halved(one, chosen), example_input)
        yield tree_map_only(Tensor, lambda one, chosen=chosen: _doubled(one, chosen), example_input)


def _is_map(one: Any, first: int) -> bool:
    return isinstance(one, Tensor) and one.is_floating_point() and one.ndim > first


def _can_halve(size: int) -> bool:
    return size % 2 == 0 and size // 2 >= _SMALLEST


def _halved(tensor: Tensor, axes: range) -> Tensor:
    for axis in axes:
        if _is_map(tensor, axis) and _can_halve(tensor.shape[axis]):
            tensor = tensor.narrow(axis, 0, tensor.shape[axis] // 2)
    return tensor


def _doubled(tensor: Tensor, axes: range) -> Tensor:
    for axis in axes:
        if _is_map(tensor, axis):
            tensor = torch.cat([tensor, tensor], axis)
    return tensor
