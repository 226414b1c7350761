"""Gumbel noise of a map that is never held: each part of it can be drawn again.

The rows of a map, its queries, are numbered in parts of `ROWS`. Each part has a seed of its own, which is drawn from
PyTorch's generator for CPUs: `torch.manual_seed` sets all noise. Backward draws the noise of a tile again.

Shapes: B batch, N query positions, M key positions, S parts of the queries, R rows of a tile.
"""

import torch
from torch import Tensor

from torch_nonlocal._common.tracing import has_values
from torch_nonlocal.ops._operator import Operator

ROWS = 64
"""Rows of a part. A tile starts with a part."""

_LEAST = 1e-10  # of the uniform numbers: the logarithm of 0 would be infinite


def draw_seeds(batch: int, queries: int) -> Tensor:
    """Draw the seeds of the parts, (B, S), int64, on the CPU."""
    return torch.randint(2**63 - 1, (batch, (queries + ROWS - 1) // ROWS))


def add_noise_(tile_RM: Tensor, seeds_S: Tensor, start: int) -> None:
    """Add Gumbel noise to a tile of logits whose first row is the query `start`, a multiple of `ROWS`.

    The noise is float32 in every tile, so that it does not depend on the dtype.
    """
    generator = torch.Generator(tile_RM.device)
    seeds = seeds_S[start // ROWS :].tolist()
    for part_RM, seed in zip(tile_RM.split(ROWS), seeds, strict=False):
        uniform_RM = torch.empty(part_RM.shape, device=part_RM.device)
        uniform_RM.uniform_(_LEAST, 1.0, generator=generator.manual_seed(seed))
        part_RM.sub_(uniform_RM.log_().neg_().log_())


def whole_noise(seeds_BS: Tensor, theta_BND: Tensor, phi_BMD: Tensor) -> Tensor:
    """Return the noise of a whole map, (B, N, M), as `add_noise_` adds it in tiles."""
    return torch.ops.torch_nonlocal.gumbel_noise(seeds_BS, theta_BND.detach(), phi_BMD.detach())


@Operator
def _gumbel_noise(seeds: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    noise_BNM = _empty_map(theta, phi).zero_()
    if has_values(seeds):
        for noise_NM, seeds_S in zip(noise_BNM, seeds, strict=True):
            add_noise_(noise_NM, seeds_S, 0)
    return noise_BNM


@_gumbel_noise.register_fake
def _(seeds, theta, phi):
    return _empty_map(theta, phi)


def _empty_map(theta: Tensor, phi: Tensor) -> Tensor:
    dtype = torch.promote_types(theta.dtype, torch.float32)
    return theta.new_empty((theta.shape[0], theta.shape[1], phi.shape[1]), dtype=dtype)


def plain_noise(like_BNM: Tensor) -> Tensor:
    """Return noise by operations that transforms and exported graphs can record: (B, N, M)."""
    return -torch.rand_like(like_BNM).clamp_min(_LEAST).log().neg().log()
