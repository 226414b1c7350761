"""Attention with a softmax on each side of a linear product: double attention (A^2-Net) and efficient attention."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, check_counts, pointwise, to_size


class _TwoSoftmaxes(Relative):
    """y_i = sum_j (softmax_channels(theta_i) . softmax_positions(phi)_j) g_j, with weights that sum to one over j."""

    form = "dot_product"
    head_count: int = 1

    def _add_projections(self, inner: int, values: int, place: PlaceOptions) -> None:
        self.theta = pointwise(self.channels, inner, place)
        self.phi = pointwise(self.channels, inner, place)
        self.g = pointwise(self.channels, values, place)
        self.out = pointwise(values, self.channels, place, zero=True)

    def _update(self, x: Tensor) -> Tensor:
        heads = self.head_count
        theta, phi, g = (one.flatten(2) for one in project(x, [self.theta, self.phi, self.g]))
        query_BDN = torch.softmax(theta.unflatten(1, (heads, -1)), dim=2).flatten(1, 2)
        # The functional form divides by the number of keys, which cancels here; so half types do not underflow.
        key_BDN = torch.softmax(phi, dim=2) * phi.shape[2]
        if heads == 1:
            self._show(x, query_BDN.mT, key_BDN.mT)
        parts = [one.unflatten(1, (heads, -1)).flatten(0, 1).mT for one in (query_BDN, key_BDN, g)]
        y_BNV = functional.dot_product(*parts, algorithm=self.algorithm)
        y_BNV = y_BNV.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
        return project(to_size(y_BNV, x), [self.out])[0]


class DoubleAttention(_TwoSoftmaxes):
    """Double attention block: z = x + W sum_j (softmax_channels(V_i) . softmax_positions(B)_j) A_j.

    The first attention gathers c_n global descriptors, the second distributes them to the positions. `g` is A, `phi` is
    B and `theta` is V of the paper. `out` is W, which starts at zero.

    Cost: N c_m c_n time, O(N + c_m c_n) memory.

    Args:
        channels: number of channels C of the map.
        c_m: channels of the features A. Defaults to C / 4, as in the paper.
        c_n: number of descriptors, the channels of B and V. Defaults to C / 4.
        algorithm: as for `functional.dot_product`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Chen et al., A^2-Nets: Double Attention Networks, NeurIPS 2018, eq. 4 to 6.
    """

    name = "a2"
    c_m: int
    c_n: int

    def __init__(
        self,
        channels: int,
        *,
        c_m: int | None = None,
        c_n: int | None = None,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        usual = max(channels // 4, 1)
        c_m, c_n = usual if c_m is None else c_m, usual if c_n is None else c_n
        super().__init__(channels, place, c_m=c_m, c_n=c_n, algorithm=algorithm)
        check_counts(c_m=c_m, c_n=c_n)
        self._add_projections(c_n, c_m, place)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size)."""
        count = math.prod(shape[2:])
        return shape[0], count, count, self.c_n, self.c_m


class EfficientAttention(_TwoSoftmaxes):
    """Efficient attention: z = x + W concat_h(softmax_channels(Q_h) (softmax_positions(K_h)^T V_h)).

    The operator of double attention with heads. `theta`, `phi` and `g` are Q, K and V. The softmax of the queries runs
    over the channels of a head. `out` is W, which starts at zero.

    Cost: N d_k d_v / heads time, O(N + d_k d_v / heads) memory.

    Args:
        channels: number of channels C of the map.
        key_channels: channels d_k of Q and K, of all heads together. Defaults to C / 2.
        value_channels: channels d_v of V, of all heads together. Defaults to C / 2.
        head_count: number of heads.
        algorithm: as for `functional.dot_product`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Raises:
        ValueError: if the number of heads does not divide `key_channels` and `value_channels`.

    Reference: Shen et al., Efficient Attention: Attention with Linear Complexities, WACV 2021, eq. 3 and 5.
    """

    name = "efficient"
    key_channels: int
    value_channels: int

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        head_count: int = 1,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        usual = max(channels // 2, 1)
        keys = usual if key_channels is None else key_channels
        values = usual if value_channels is None else value_channels
        own = {"key_channels": keys, "value_channels": values, "head_count": head_count}
        super().__init__(channels, place, **own, algorithm=algorithm)
        check_counts(**own)
        if keys % head_count or values % head_count:
            raise ValueError(
                f"head_count={head_count}: expected a divisor of key_channels={keys} and value_channels={values}"
            )
        self._add_projections(keys, values, place)

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block; "" if it does."""
        return "" if self.head_count == 1 else f"weights of {self.head_count} heads, no single map over positions"

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size); B' counts heads."""
        count, heads = math.prod(shape[2:]), self.head_count
        return shape[0] * heads, count, count, self.key_channels // heads, self.value_channels // heads
