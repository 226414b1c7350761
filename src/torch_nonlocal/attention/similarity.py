"""A block without parameters: the Gaussian form on L2-normalized features of any pretrained network."""

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
    """Similarity of all positions as a record, with weights softmax_j(cos(x_i, x_j) / temperature).

    Args:
        features: a feature map (B, C, *size), such as (1, C, T, H, W) of a clip.
        input_size: size of the network's input on the axes of the map, (T, H, W) in frames and pixels.
        temperature: positive; lower values concentrate the weight on the most similar positions.
        name: name of the record.
        geometry: position of the map in the input, from `probe_geometry`. Default: the map divides the input evenly.

    Raises:
        ValueError: the temperature is not positive, input_size has another number of axes than the map, or the
            geometry is that of another map.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a positive number")
    grid = tuple(features.shape[2:])
    if len(input_size) != len(grid):
        raise ValueError(
            f"input_size={tuple(input_size)}: expected {len(grid)} sizes for features of shape {tuple(features.shape)}"
        )
    if geometry is not None and (geometry.grid, geometry.input_size) != (grid, tuple(input_size)):
        raise ValueError(
            f"geometry has grid {geometry.grid} and input_size {geometry.input_size}: "
            f"expected {grid} and {tuple(input_size)}"
        )
    x_BNC = F.normalize(features.flatten(2).transpose(1, 2), dim=-1)
    weights = PairWeights("gaussian", x_BNC, x_BNC, scale=1 / temperature)
    geometry = geometry or Geometry.evenly(grid, grid, (1,) * len(grid), input_size)
    return BlockRecord(name, weights, geometry, attend="spacetime", batch=features.shape[0])
