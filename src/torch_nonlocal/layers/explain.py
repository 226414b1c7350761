"""The algorithm that a block uses for an input shape, with the reason."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torch_nonlocal._common.text import megabytes
from torch_nonlocal.functional import CausalFrames
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.layout import expected, fits
from torch_nonlocal.layers.non_local import NonLocal
from torch_nonlocal.layers.operation import computed_by, operation_of
from torch_nonlocal.layers.relatives import Relative
from torch_nonlocal.layers.sizes import Sizes, algorithm_of, counted, sizes_of
from torch_nonlocal.layers.widths import device_and_dtype


def explain(block: nn.Module, shape: Sequence[int], *, dtype: torch.dtype | None = None) -> str:
    """Explain which algorithm a block uses for an input shape: positions, algorithm, reason, and size of the N x M map.

    Args:
        block: a non-local block, or a module that `nl.replace` took over, on the device and in the mode (train or eval)
            in which it will run.
        shape: shape of the input, (B, C, *size) or that of the block's layout.
        dtype: dtype of the features. Defaults to the dtype of the parameters.

    Returns:
        The explanation as one line of text.

    Raises:
        ValueError: if the shape does not fit the block.
        TypeError: if the module is no block.

    Example:
        >>> print(nl.explain(nl.NonLocal3d(512), (1, 512, 16, 28, 28)))
    """
    options = computed_by(block)
    if options is None:
        why = f": {block.hidden_weights}" if isinstance(block, Block) else ""
        raise TypeError(f"explain: expected a non-local block, got {type(block).__name__}{why}")
    sizes = operation_sizes(block, shape)
    frames = causal_frames(block, shape)
    device, own_dtype = _device_and_dtype(block)
    run: dict[str, Any] = {"device": device, "dtype": dtype or own_dtype, "training": block.training}
    algorithm = block.algorithm if isinstance(block, Block) else "auto"
    algorithm, why = algorithm_of(options, algorithm, sizes, frames, **run)
    return (
        f"{options.pairwise.replace('_', ' ')}, {sizes.groups} x ({_shown(options, sizes, frames)}): {algorithm}, "
        f"because {why}. {_map_of(options, sizes)} in float32."
    )


def _shown(options: Any, sizes: Sizes, frames: CausalFrames | None) -> str:
    if options.groups.mixes_channels:
        return f"N = {sizes.queries:,} query channels, M = {sizes.keys:,} key channels, D = {sizes.width:,} positions"
    causal = "" if frames is None else f", causal over {frames.count} frames"
    within = f", within {options.groups.within}" if options.groups.is_cross or options.groups.windows else ""
    smaller = ", and smaller windows at the ends" if sizes.smaller else ""
    return f"N = {sizes.queries:,} queries, M = {sizes.keys:,} keys, D = {sizes.width}{causal}{within}{smaller}"


def _map_of(options: Any, sizes: Sizes) -> str:
    if options.groups.mixes_channels:
        return f"The N x M map takes {megabytes(4 * sizes.pairs)}"
    if options.groups.is_cross:
        return f"The weights take {megabytes(4 * sizes.pairs)}"
    return f"The N x M map would take {megabytes(4 * sizes.pairs)}"


def operation_sizes(block: nn.Module, shape: Sequence[int]) -> Sizes:
    """The sizes of the sums of a block on an input of a shape."""
    if isinstance(block, Relative):
        return counted(block.sizes(block.map_shape(shape)))
    if not isinstance(block, NonLocal):
        operation = operation_of(block)
        assert operation is not None
        return counted(operation.sizes(block, shape))
    if not fits(shape, *block.shape_form):
        count = {"tokens": 3, "frames": 4}.get(block.layout, block.dims + 2)
        where = "second" if block.layout in ("channels_first", "frames") else "last"
        raise ValueError(
            f"shape {tuple(shape)}: expected {count} sizes, the {where} {block.channels} channels, "
            f"{expected(*block.shape_form)}"
        )
    return sizes_of(block, block.map_shape(shape))


def causal_frames(block: nn.Module, shape: Sequence[int]) -> CausalFrames | None:
    """Which frames a query attends to, if the block is causal."""
    options = computed_by(block)
    assert options is not None
    return options.groups.frames(block.map_shape(shape)[2:] if isinstance(block, Block) else shape[2:])


def _device_and_dtype(block: nn.Module) -> tuple[torch.device, torch.dtype]:
    if isinstance(block, Block):
        return device_and_dtype(block)
    found = next((one for one in block.parameters() if one.is_floating_point()), None)
    return (torch.device("cpu"), torch.get_default_dtype()) if found is None else (found.device, found.dtype)
