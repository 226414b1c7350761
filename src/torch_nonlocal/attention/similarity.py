"""A block without parameters: the gaussian form on L2-normalized features, for any pretrained network."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.weights import PairWeights


@torch.no_grad()
def similarity(
    features: Tensor,
    *,
    input_size: Sequence[int],
    temperature: float = 0.05,
    name: str = "similarity",
    geometry: Geometry | None = None,
) -> BlockRecord:
    """What each position is most like: weights softmax_j(cos(x_i, x_j) / temperature).

    Args:
        features: a map (B, C, *size), such as (1, C, T, H, W) of a clip.
        input_size: sizes of the input on the map's axes, (T, H, W) in frames and pixels.
        temperature: above 0; the smaller, the more the weight gathers on the most similar positions.
        name: what the record calls itself.
        geometry: where the map's positions lie in the input, from `probe_geometry`; None: even cells.

    Raises:
        ValueError: a temperature that is not above 0, sizes on another number of axes, a geometry of another map.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected above 0")
    grid = tuple(features.shape[2:])
    if len(input_size) != len(grid):
        raise ValueError(
            f"input_size={tuple(input_size)}: expected {len(grid)} sizes, as the map {tuple(features.shape)}"
        )
    if geometry is not None and (geometry.grid, geometry.input_size) != (grid, tuple(input_size)):
        raise ValueError(
            f"geometry is of a map {geometry.grid} for an input {geometry.input_size}: "
            f"expected {grid} and {tuple(input_size)}"
        )
    x_BNC = F.normalize(features.flatten(2).transpose(1, 2), dim=-1)
    weights = PairWeights("gaussian", x_BNC, x_BNC, scale=1 / temperature)
    geometry = geometry or Geometry.evenly(grid, grid, (1,) * len(grid), input_size)
    return BlockRecord(name, weights, geometry, attend="spacetime", batch=features.shape[0])
