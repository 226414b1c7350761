"""Dual attention: DANet's position and channel modules."""

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.options import softmax_scale
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import (
    PlaceOptions,
    Relative,
    ZeroScale,
    check_counts,
    pointwise,
    positions,
    to_size,
)


class DANetPosition(Relative):
    """Position attention module of DANet: z_i = gamma * sum_j softmax_j(theta_i . phi_j) g_j + x_i.

    The embedded Gaussian with values of full width and no W_z; gamma (alpha in the paper) is a scalar that starts at
    zero. theta, phi and g are B, C and D of the paper, `query_conv`, `key_conv` and `value_conv` of its code.

    Cost: N^2 C time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        reduction: theta and phi have C / reduction channels.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019, eq. 1 and 2.
    """

    name = "danet_position"
    form = "embedded_gaussian"
    reduction: int

    def __init__(
        self, channels: int, *, reduction: int = 8, algorithm: Algorithm = "auto", **place: Unpack[PlaceOptions]
    ) -> None:
        super().__init__(channels, place, reduction=reduction, algorithm=algorithm)
        self._add_projections(place)
        self.gamma = ZeroScale(1, place)

    def _add_projections(self, place: PlaceOptions) -> None:
        check_counts(reduction=self.reduction)
        inner = max(self.channels // self.reduction, 1)
        self.theta = pointwise(self.channels, inner, place)
        self.phi = pointwise(self.channels, inner, place)
        self.g = pointwise(self.channels, self.channels, place)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size)."""
        count = math.prod(shape[2:])
        return shape[0], count, count, max(self.channels // self.reduction, 1), self.channels

    def _update(self, x: Tensor) -> Tensor:
        return self.gamma(self._position(x))

    def _position(self, x: Tensor) -> Tensor:
        theta, phi, g = map(positions, project(x, [self.theta, self.phi, self.g]))
        self._show(x, theta, phi)
        return to_size(functional.embedded_gaussian(theta, phi, g, algorithm=self.algorithm), x)

    def _last(self) -> ZeroScale:
        return self.gamma


class DANetChannel(Relative):
    """Channel attention module of DANet: z_c = gamma * sum_d softmax_d(scale * x_c . x_d) x_d + x_c.

    x_c is the map of channel c, all N positions of it; no channels are projected. gamma (beta in the paper) is a scalar
    that starts at zero. The published formula has scale = 1. The code of its authors has the softmax of
    max_d(x_c . x_d) - x_c . x_d, which is scale = -1: a channel attends to the channels that differ most from it.

    Cost: N C^2 time, C^2 memory.

    Args:
        channels: number of channels C of the map.
        scale: factor of x_c . x_d: -1 as in the authors' code, 1 as in the paper.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019, eq. 3 and 4.
    """

    name = "danet_channel"
    form = "embedded_gaussian"
    scale: float

    def __init__(
        self, channels: int, *, scale: float = -1.0, algorithm: Algorithm = "auto", **place: Unpack[PlaceOptions]
    ) -> None:
        super().__init__(
            channels, place, scale=softmax_scale(scale, channels, "embedded_gaussian"), algorithm=algorithm
        )
        self.gamma = ZeroScale(1, place)

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return "weights among channels, none over positions"

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size): N is M is C."""
        count = math.prod(shape[2:])
        return shape[0], self.channels, self.channels, count, count

    def _update(self, x: Tensor) -> Tensor:
        return self.gamma(channel_attention(x, self.scale, self.algorithm))

    def _last(self) -> ZeroScale:
        return self.gamma


class DANet(DANetPosition):
    """Both modules of DANet on one map: z = gamma_0 * position(x) + gamma_1 * channel(x) + x.

    `DANetPosition` and `DANetChannel` describe the two. The network of the paper adds their outputs after one
    convolution each; here both update the same map. The two scalars start at zero.

    Cost: N^2 C + N C^2 time, N + C^2 memory.

    Args:
        channels: number of channels C of the map.
        reduction: as for `DANetPosition`.
        scale: as for `DANetChannel`.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019.
    """

    name = "danet"
    scale: float

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 8,
        scale: float = -1.0,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        scale = softmax_scale(scale, channels, "embedded_gaussian")
        Relative.__init__(self, channels, place, reduction=reduction, scale=scale, algorithm=algorithm)
        self._add_projections(place)
        self.gamma = ZeroScale(2, place)

    def _update(self, x: Tensor) -> Tensor:
        return self.gamma(self._position(x), channel_attention(x, self.scale, self.algorithm))


def channel_attention(x: Tensor, scale: float, algorithm: Algorithm) -> Tensor:
    """Return sum_d softmax_d(scale * x_c . x_d) x_d for every channel c of a map: (B, C, *size)."""
    x_BCN = x.flatten(2)
    y_BCN = functional.embedded_gaussian(x_BCN, x_BCN, x_BCN, scale=scale, algorithm=algorithm)
    return y_BCN.unflatten(2, x.shape[2:])
