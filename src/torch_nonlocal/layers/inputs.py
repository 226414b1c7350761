"""Checks of the maps that a block is called with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import is_recorded
from torch_nonlocal.layers.layout import expected, fits, map_shape
from torch_nonlocal.layers.windows import most_keys


def check_input(block: Any, x: Tensor, keys_from: Tensor | None) -> None:
    """Check the arguments of the forward of a `NonLocal`.

    Raises:
        ValueError: if the number of axes or channels is wrong, or the map is too small for the pooling factors,
            `top_k` or `regions`.
        NotImplementedError: if torch.fx records a block whose graph depends on the size of the map.
    """
    if is_recorded(x):
        if isinstance(x, torch.fx.Proxy) and block.windows is not None:
            raise NotImplementedError(
                f"{type(block).__name__}: torch.fx.symbolic_trace does not know the size of the map, which "
                f"{block.groups.within} depends on: use torch.export"
            )
        return
    grid = block.map_shape(x.shape)[2:]
    if keys_from is None:
        if block.key_channels not in (None, block.channels):
            raise ValueError(
                f"{type(block).__name__}: key_channels={block.key_channels} differs from the {block.channels} channels "
                "of x: expected the map of keys as keys_from"
            )
        check_key_size(block, grid, grid)
    else:
        _check_keys_from(block, x, grid, keys_from)


def is_left_out(keys_from: Any) -> bool:
    """Whether a block is called without another map of keys: None or, where torch.fx records a block, its default."""
    if not isinstance(keys_from, torch.fx.Proxy):
        return keys_from is None
    node = keys_from.node
    return node.op == "placeholder" and node.target == "keys_from" and node.args == (None,)


def check_key_size(block: Any, grid: Sequence[int], source: Sequence[int]) -> None:
    """Check that each query has a key, and as many as are selected.

    Args:
        block: a `NonLocal`.
        grid: the size of the map of queries.
        source: the size of the map that the keys are computed from.

    Raises:
        ValueError: if a pool is larger than the map, or than the last window of an axis, or if `top_k` or `regions`
            exceeds the number of keys.
    """
    if block.selection.top_k is not None or block.regions is not None:
        _check_selected(block, source)
    if block.subsample is None or block.keys != "pool":
        return
    factors = block.subsample
    if any(size < factor for size, factor in zip(source, factors, strict=True)):
        raise ValueError(
            f"{type(block).__name__}: a map of size {tuple(source)} is smaller than the pooling factors "
            f"{factors} of the keys"
        )
    for size, factor, window in zip(grid, factors, block.windows or (), strict=False):
        if window is not None and window < size and 0 < size % window < factor:
            raise ValueError(
                f"{type(block).__name__}: in a map of size {tuple(grid)}, the last of windows={block.windows} has "
                f"{size % window} positions along an axis, fewer than the pooling factor {factor} of its keys"
            )


def _check_selected(block: Any, source: Sequence[int]) -> None:
    if torch.compiler.is_exporting():  # a comparison would restrict dynamic sizes; the exported operation checks them
        return
    for name, count in (("top_k", block.top_k), ("regions", block.regions)):
        if count is not None and count > (keys := most_keys(block, source)):
            what = "channels" if block.groups.mixes_channels else "keys"
            raise ValueError(
                f"{type(block).__name__}: {name}={count}: expected at most the number of {what}, M = {keys}, of a map "
                f"of size {tuple(source)}"
            )


def _check_keys_from(block: Any, x: Tensor, grid: Sequence[int], keys_from: Tensor) -> None:
    name, groups = type(block).__name__, block.groups
    if groups.mixes_channels:
        raise ValueError(
            f"{name}: attend={groups.attend!r} multiplies phi with theta position by position: keys_from has other "
            "positions, expected None"
        )
    layout, dims, channels, tokens, prefix = block.shape_form
    form = layout, dims, block.key_channels or channels, tokens, prefix
    if not fits(keys_from.shape, *form) or keys_from.shape[0] != x.shape[0]:
        raise ValueError(
            f"{name}: expected keys_from {expected(*form)} with the batch size {x.shape[0]}, got "
            f"{tuple(keys_from.shape)}"
        )
    source = map_shape(keys_from.shape, layout, tokens)[2:]
    alike = {*groups.other_axes} | ({0} if groups.causal else set())
    if groups.is_cross:
        alike = set(range(dims))
    elif block.windows is not None:
        alike |= {axis for axis, window in enumerate(block.windows) if window is not None}
    if wrong := [axis for axis in sorted(alike) if source[axis] != grid[axis]]:
        raise ValueError(
            f"{name}: keys_from has the size {tuple(source)} and x {tuple(grid)}: expected equal sizes of axis "
            f"{wrong[0]}, along which a position attends to a part of the keys"
        )
    check_key_size(block, grid, source)
