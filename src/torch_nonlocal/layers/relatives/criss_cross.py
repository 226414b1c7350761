"""Criss-cross attention (CCNet): every position attends to its row and its column, twice."""

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.criss_cross import criss_cross
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, ZeroScale, check_counts, pointwise

_MOST_STEPS = 64  # a block file may name any number


class CrissCross(Relative):
    """Criss-cross attention: y_i = gamma * sum_j softmax_j(theta_i . phi_j) g_j + x_i, j in the row and column of i.

    One softmax runs over the H + W - 1 positions of the row and the column; the position itself counts once. The step
    is applied `recurrence` times with the same weights: after two steps, every position has seen all others of its
    frame. gamma is a scalar that starts at zero. `torch_nonlocal.watch` shows the weights of the last step.

    Cost: N (H + W) C time and N (H + W) memory for each step, without an N x N map.

    Args:
        channels: number of channels C of the map, 2D or, within frames, 3D.
        reduction: theta and phi have C / reduction channels.
        recurrence: number of steps; R in the paper.
        algorithm: "auto", or "dense" for the definition with a mask of all pairs.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019, section 3.2 and 3.3.
    """

    name = "ccnet"
    form = "embedded_gaussian"
    algorithms = ("auto", "dense")
    least_dims = 2
    reduction: int
    recurrence: int

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 8,
        recurrence: int = 2,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        super().__init__(channels, place, reduction=reduction, recurrence=recurrence, algorithm=algorithm)
        check_counts(reduction=reduction)
        check_counts(_MOST_STEPS, recurrence=recurrence)
        inner = max(channels // reduction, 1)
        self.theta = pointwise(channels, inner, place)
        self.phi = pointwise(channels, inner, place)
        self.g = pointwise(channels, channels, place)
        self.gamma = ZeroScale(1, place)

    @property
    def computed(self) -> Computed:
        """What a step computes."""
        return Computed(self.dims, "embedded_gaussian", attend="criss_cross")

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of a step for a map of shape (B, C, *size); M is H + W - 1."""
        inner, (height, width) = max(self.channels // self.reduction, 1), shape[-2:]
        return shape[0] * math.prod(shape[2:-2]), height * width, height + width - 1, inner, self.channels

    def _update(self, x: Tensor) -> Tensor:
        update = self.gamma(self._step(x))
        for _ in range(self.recurrence - 1):
            update = update + self.gamma(self._step(x + update))
        return update

    def _step(self, x: Tensor) -> Tensor:
        """Return the weighted sums of one step, (B, C, *size)."""
        computed, grid = self.computed, x.shape[2:]
        query, key, g_BMV = map(computed.groups.to_positions, project(x, [self.theta, self.phi, self.g]))
        self._show(x, query, key)
        dense = self.algorithm == "dense"
        y_BNV = criss_cross(computed, query, key, g_BMV, (grid[-2], grid[-1]), dense=dense)
        return computed.groups.to_map(y_BNV, grid)

    def _last(self) -> ZeroScale:
        return self.gamma
