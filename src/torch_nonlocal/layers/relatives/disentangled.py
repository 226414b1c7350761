"""Disentangled non-local block: a whitened pairwise term and a unary term."""

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, check_counts, pointwise, positions, to_size
from torch_nonlocal.layers.relatives.global_context import pooled


class DisentangledNonLocal(Relative):
    """Disentangled non-local block: z_i = x_i + W sum_j (softmax_j(q'_i . k'_j / t) + softmax_j(m_j)) g_j.

    Queries and keys are whitened, q' = q - mu_q and k' = k - mu_k with the means over the positions, so that the
    pairwise term learns relations alone. The unary term is the same for all queries and learns salience. `theta` is q,
    `phi` is k, `score` gives m, and `out` is W, which starts at zero.

    `torch_nonlocal.watch` shows the pairwise weights; the unary weights, equal for all queries, are added to them.

    Cost: N^2 D time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        inner_channels: inner width D. Defaults to C / 2.
        temperature: t; 1 in the formula, 0.05 in the authors' configurations for segmentation.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Raises:
        ValueError: if the temperature is not positive.

    Reference: Yin et al., Disentangled Non-Local Neural Networks, ECCV 2020, eq. 11.
    """

    name = "dnl"
    form = "embedded_gaussian"
    inner_channels: int
    temperature: float

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        temperature: float = 1.0,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        super().__init__(channels, place, inner_channels=inner, temperature=temperature, algorithm=algorithm)
        check_counts(inner_channels=inner)
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature!r}: expected a positive number")
        self.theta = pointwise(channels, inner, place)
        self.phi = pointwise(channels, inner, place)
        self.g = pointwise(channels, inner, place)
        self.score = pointwise(channels, 1, place)
        self.out = pointwise(inner, channels, place, zero=True)

    @property
    def computed(self) -> Computed:
        """What the pairwise term computes."""
        return Computed(self.dims, "embedded_gaussian", scale=1 / self.temperature)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the pairwise term for a map of shape (B, C, *size)."""
        count = math.prod(shape[2:])
        return shape[0], count, count, self.inner_channels, self.inner_channels

    def _update(self, x: Tensor) -> Tensor:
        maps = project(x, [self.theta, self.phi, self.g, self.score])
        theta, phi, g, score_BN1 = map(positions, maps)
        theta, phi = theta - theta.mean(1, keepdim=True), phi - phi.mean(1, keepdim=True)
        self._show(x, theta, phi)
        pairwise = functional.embedded_gaussian(theta, phi, g, scale=1 / self.temperature, algorithm=self.algorithm)
        return project(to_size(pairwise + pooled(score_BN1, g, self.algorithm), x), [self.out])[0]
