"""The strongest links of every position, computed tile by tile: memory grows with N K, never with N M."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_nonlocal._common.top_indices import top_indices
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.links import Link, make_link
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.layers.groups import flat_index

_TILE_BYTES = 96 * 2**20
_COLUMNS = 4096  # columns of a tile exponentiated at once, to stay in cache

KeyRuns = Callable[[Tensor], tuple[Tensor, int]]  # queries (R,) -> first excluded key of each (R,), number of keys


@dataclass(frozen=True)
class Strongest:
    """The K strongest links of every position.

    Attributes:
        indices: (N, K), flat indices into the grid of keys (`geometry.key_grid`), strongest first. N enumerates the
            block's grid in row-major order.
        weights: (N, K), the weights of these links; signed for the dot product. NaN where the attention is NaN; such
            links come first.
        geometry: position of both grids in the input.
    """

    indices: Tensor
    weights: Tensor
    geometry: Geometry

    def __repr__(self) -> str:
        share = float((~self.weights.isfinite()).any(1).float().mean())
        broken = f"; weights are NaN or infinite at {share:.1%} of them" if share else ""
        return f"<Strongest: {self.indices.shape[1]} links for each of {self.indices.shape[0]:,} positions{broken}>"

    def links(self, point: Sequence[float], *, pixels: bool = False) -> list[Link]:
        """Return the links of one position, strongest first.

        Args:
            point: a position of the block's grid.
            pixels: the point is an input pixel, not a grid position.

        Raises:
            ValueError: the point is outside; the message gives the valid range.
        """
        here = self.geometry.find(point, pixels=pixels)
        row = flat_index(here, self.geometry.grid)
        found = zip(self.target_points()[row].tolist(), self.weights[row].tolist(), strict=True)
        return [make_link(self.geometry, here, tuple(target), weight) for target, weight in found]

    def target_points(self) -> Tensor:
        """Grid positions of the target keys: (N, K, axes), int64."""
        return torch.stack(torch.unravel_index(self.indices, self.geometry.key_grid), dim=-1)

    def target_pixels(self) -> Tensor:
        """Input pixels, (frame, y, x), of the centers of the target keys: (N, K, axes), float64."""
        axes = len(self.geometry.key_grid)
        first = torch.tensor(self.geometry.key_pixel((0,) * axes), dtype=torch.float64)
        second = torch.tensor(self.geometry.key_pixel((1,) * axes), dtype=torch.float64)
        return first + (second - first) * self.target_points().cpu()


def strongest_keys(weights: PairWeights, group: int, k: int, exclude: KeyRuns | None = None) -> tuple[Tensor, Tensor]:
    """Return indices and weights, both (N, K), of the k strongest keys by absolute value of every query of a group.

    Args:
        weights: weights of the block.
        group: index of the group.
        k: at most the number of keys that are not excluded.
        exclude: for each query, a run of consecutive keys that are not candidates.
    """
    # Results kept beside the temporary tensors of every tile would break up the heap.
    index_NK = torch.empty(weights.queries, k, dtype=torch.int64, device=weights.query.device)
    value_NK = torch.empty_like(index_NK, dtype=torch.promote_types(weights.query.dtype, torch.float32))
    per_key = weights.log_sum(group) if weights.is_softmax and weights.normalize == "queries" else None
    for start, scores_RM in weights.score_tiles(group, reuse=True, tile_bytes=_TILE_BYTES):
        if per_key is not None:
            scores_RM.sub_(per_key)
        log_sum_R = _row_log_sum(scores_RM) if weights.is_softmax and per_key is None else None
        strength_RM = scores_RM.abs() if weights.pairwise == "dot_product" else scores_RM
        if exclude is not None:
            rows = torch.arange(start, start + len(scores_RM))
            _mask_runs(strength_RM, *exclude(rows))
        part = slice(start, start + len(scores_RM))
        index_NK[part] = index_RK = top_indices(strength_RM, k)
        value_RK = scores_RM.gather(1, index_RK)
        if weights.is_softmax:
            value_RK = (value_RK if log_sum_R is None else value_RK - log_sum_R).exp_()
        value_NK[part] = value_RK
    return index_NK, value_NK


def _row_log_sum(scores_RM: Tensor) -> Tensor:
    """Logsumexp over keys, (R, 1), without memory for a second tile."""
    top_R1 = scores_RM.amax(1, keepdim=True)
    total_R1 = torch.zeros_like(top_R1)
    for columns in scores_RM.split(_COLUMNS, dim=1):
        total_R1 += (columns - top_R1).exp_().sum(1, keepdim=True)
    return top_R1 + total_R1.log()


def _mask_runs(strength_RM: Tensor, first_R: Tensor, length: int) -> None:
    """Set `length` keys of each row to -inf, from the row's first; masks rows with the same first key together."""
    for first in first_R.unique().tolist():
        rows = (first_R == first).nonzero()[:, 0]
        a, b = int(rows[0]), int(rows[-1]) + 1
        if b - a == len(rows):
            strength_RM[a:b, first : first + length] = -math.inf
        else:
            strength_RM[rows, first : first + length] = -math.inf
