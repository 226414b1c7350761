"""Criss-cross attention (CCNet): every position attends to its row and its column, twice."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, ZeroScale, pointwise

_MOST_STEPS = 64  # a block file may name any number


class CrissCross(Relative):
    """Criss-cross attention: y_i = gamma * sum_j softmax_j(theta_i . phi_j) g_j + x_i, j in the row and column of i.

    One softmax runs over the H + W - 1 positions of the row and the column; the position itself counts once. The step
    is applied `recurrence` times with the same weights: after two steps, every position has seen all others of its
    frame. gamma is a scalar that starts at zero.

    Cost: N (H + W) C time and N (H + W) memory for each step, without an N x N map.

    Args:
        channels: number of channels C of the map, 2D or, within frames, 3D.
        reduction: theta and phi have C / reduction channels.
        recurrence: number of steps; R in the paper.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019, section 3.2 and 3.3.
    """

    name = "ccnet"
    least_dims = 2
    reduction: int
    recurrence: int

    def __init__(
        self, channels: int, *, reduction: int = 8, recurrence: int = 2, **place: Unpack[PlaceOptions]
    ) -> None:
        super().__init__(channels, place, reduction=reduction, recurrence=recurrence)
        self._check_counts(reduction=reduction)
        self._check_counts(_MOST_STEPS, recurrence=recurrence)
        inner = max(channels // reduction, 1)
        self.theta = pointwise(channels, inner, place)
        self.phi = pointwise(channels, inner, place)
        self.g = pointwise(channels, channels, place)
        self.gamma = ZeroScale(1, place)

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return f"{self.recurrence} steps over rows and columns, no one set of weights between positions"

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of a step for a map of shape (B, C, *size); M is H + W - 1."""
        keys = shape[-1] + shape[-2] - 1
        return shape[0], math.prod(shape[2:]), keys, max(self.channels // self.reduction, 1), self.channels

    def _update(self, x: Tensor) -> Tensor:
        update = self.gamma(self._step(x))
        for _ in range(self.recurrence - 1):
            update = update + self.gamma(self._step(x + update))
        return update

    def _step(self, x: Tensor) -> Tensor:
        """Return the weighted sums of one step, (B, C, *size)."""
        theta, phi, g = (one.movedim(1, -1) for one in project(x, [self.theta, self.phi, self.g]))  # (B, ..., H, W, D)
        rows_HWW = theta @ phi.mT
        columns_WHH = theta.transpose(-3, -2) @ phi.transpose(-3, -2).mT
        own_HH = x.new_ones(columns_WHH.shape[-1]).diag().bool()
        columns_HWH = columns_WHH.masked_fill(own_HH, -torch.inf).transpose(-3, -2)  # the row has the position itself
        weights = torch.cat([rows_HWW, columns_HWH], dim=-1).softmax(-1)
        in_row, in_column = weights.split([rows_HWW.shape[-1], columns_HWH.shape[-1]], dim=-1)
        y = in_row @ g + (in_column.transpose(-3, -2) @ g.transpose(-3, -2)).transpose(-3, -2)
        return y.movedim(-1, 1)

    def _last(self) -> ZeroScale:
        return self.gamma
