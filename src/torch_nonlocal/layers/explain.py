"""The algorithm that a block uses for an input shape, with the reason."""

from collections.abc import Sequence

import torch

from torch_nonlocal import functional
from torch_nonlocal._common.text import megabytes
from torch_nonlocal.layers.non_local import NonLocal


def explain(block: NonLocal, shape: Sequence[int], *, dtype: torch.dtype | None = None) -> str:
    """Explain which algorithm a block uses for an input shape: positions, algorithm, reason, and size of the N x M map.

    Args:
        block: a non-local block on the device and in the mode (train or eval) in which it will run.
        shape: shape (B, C, *size) of the input.
        dtype: dtype of the features. Defaults to the dtype of the parameters.

    Returns:
        The explanation as one line of text.

    Raises:
        ValueError: if the shape does not fit the block.

    Example:
        >>> print(nl.explain(nl.NonLocal3d(512), (1, 512, 16, 28, 28)))
    """
    if len(shape) != block.dims + 2 or shape[1] != block.channels:
        raise ValueError(f"shape {tuple(shape)}: expected {block.dims + 2} sizes, the second {block.channels} channels")
    batch, size = shape[0], tuple(shape[2:])
    pool = block.subsample or (1,) * len(size)
    key_size = tuple(full // factor for full, factor in zip(size, pool, strict=True))
    groups = batch * block.groups.count(size)
    queries, keys = block.groups.size(size), block.groups.size(key_size)
    width = block.channels if block.pairwise == "gaussian" else block.inner_channels
    weight = block.g.weight
    choice = functional.choice(
        block.pairwise,
        (groups, queries, keys, width, block.inner_channels),
        algorithm=block.algorithm,
        device=weight.device,
        dtype=dtype or weight.dtype,
        training=block.training,
        normalize=block.normalize,
    )
    dense_map = megabytes(4 * groups * queries * keys)
    return (
        f"{block.pairwise.replace('_', ' ')}, {groups} x (N = {queries:,} queries, M = {keys:,} keys, D = {width}): "
        f"{choice.algorithm}, because {choice.why}. The N x M map would take {dense_map} in float32."
    )
