"""The algorithm that a block uses for an input shape, with the reason."""

from collections.abc import Sequence

import torch
from torch import nn

from torch_nonlocal import functional
from torch_nonlocal._common.text import megabytes
from torch_nonlocal.functional import CausalFrames
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.layout import expected, fits
from torch_nonlocal.layers.non_local import NonLocal
from torch_nonlocal.layers.operation import computed_by, operation_of
from torch_nonlocal.layers.relatives import Relative
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
    sizes = groups, queries, keys, width, _ = operation_sizes(block, shape)
    frames = causal_frames(block, shape)
    device, own_dtype = _device_and_dtype(block)
    choice = functional.choice(
        options.pairwise,
        sizes,
        algorithm=block.algorithm if isinstance(block, Block) else "auto",
        device=device,
        dtype=dtype or own_dtype,
        training=block.training,
        normalize=options.normalize,
        frames=frames,
    )
    causal = "" if frames is None else f", causal over {frames.count} frames"
    positions = f"N = {queries:,} queries, M = {keys:,} keys, D = {width}{causal}"
    dense_map = megabytes(4 * groups * queries * keys)
    return (
        f"{options.pairwise.replace('_', ' ')}, {groups} x ({positions}): {choice.algorithm}, because {choice.why}. "
        f"The N x M map would take {dense_map} in float32."
    )


def operation_sizes(block: nn.Module, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
    """The sizes (B', N, M, D, V) of the operation of a block on an input of a shape."""
    if isinstance(block, Relative):
        return block.sizes(block.map_shape(shape))
    if not isinstance(block, NonLocal):
        operation = operation_of(block)
        assert operation is not None
        return operation.sizes(block, shape)
    if not fits(shape, *block.shape_form):
        count = {"tokens": 3, "frames": 4}.get(block.layout, block.dims + 2)
        where = "second" if block.layout in ("channels_first", "frames") else "last"
        raise ValueError(
            f"shape {tuple(shape)}: expected {count} sizes, the {where} {block.channels} channels, "
            f"{expected(*block.shape_form)}"
        )
    batch, _, *size = block.map_shape(shape)
    pool = block.subsample or (1,) * len(size)
    key_size = tuple(full // factor for full, factor in zip(size, pool, strict=True))
    groups = batch * block.groups.count(size)
    queries, keys = block.groups.size(size), block.groups.size(key_size)
    return groups, queries, keys, block.embedding_channels, block.inner_channels


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
