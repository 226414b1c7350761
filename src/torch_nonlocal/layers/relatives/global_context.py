"""Global context block (GCNet)."""

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.norm import ChannelLayerNorm
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, check_counts, factory, pointwise, positions


class GlobalContext(Relative):
    """Global context block: z_i = x_i + W_v2 ReLU(LN(W_v1 sum_j softmax_j(w_k . x_j) x_j)).

    All queries have the same weights, so one weighted sum serves all positions. `score` is w_k, `reduce` W_v1, `norm`
    the layer norm over its channels, and `out` W_v2, which starts at zero.

    Cost: N C time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        ratio: the bottleneck has C / ratio channels; r in the paper. It has at least two, since the layer norm would
            make a single one constant.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCV Workshops 2019,
    eq. 5.
    """

    name = "gcnet"
    form = "embedded_gaussian"

    def __init__(
        self, channels: int, *, ratio: int = 16, algorithm: Algorithm = "auto", **place: Unpack[PlaceOptions]
    ) -> None:
        super().__init__(channels, place, ratio=ratio, algorithm=algorithm)
        check_counts(ratio=ratio)
        inner = max(channels // ratio, 2)
        self.score = pointwise(channels, 1, place)
        self.reduce = pointwise(channels, inner, place)
        self.norm = ChannelLayerNorm(inner, **factory(place))
        self.out = pointwise(inner, channels, place, zero=True)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size): one query."""
        return shape[0], 1, math.prod(shape[2:]), 1, self.channels

    def _update(self, x: Tensor) -> Tensor:
        key_BN1 = positions(project(x, [self.score])[0])
        self._show(x, key_BN1.new_ones(1, 1, 1).expand_as(key_BN1), key_BN1)
        context_B1C = pooled(key_BN1, positions(x), self.algorithm)
        context = context_B1C.transpose(1, 2).unflatten(2, (1,) * self.dims)
        return self.out(nn.functional.relu(self.norm(self.reduce(context)))).expand_as(x)


def pooled(key_BN1: Tensor, g_BNV: Tensor, algorithm: Algorithm) -> Tensor:
    """Return sum_j softmax_j(key_j) g_j, the weighted sum that all queries share: (B, 1, V)."""
    query_B11 = key_BN1.new_ones(1, 1, 1).expand(key_BN1.shape[0], 1, 1)
    return functional.embedded_gaussian(query_B11, key_BN1, g_BNV, algorithm=algorithm)
