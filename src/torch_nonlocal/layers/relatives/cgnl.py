"""Compact generalized non-local block: attention among positions and channels together."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor, nn

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.identity import zero_initialized
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import CONVOLUTIONS, PlaceOptions, Relative, check_counts, factory, pointwise


class CompactGeneralizedNonLocal(Relative):
    """Compact generalized non-local block: z = x + GN(W_z vec(theta) (vec(phi) . vec(g))), in groups of channels.

    Every channel at every position attends to all channels of its group at all positions, by the dot product; the
    product vec(phi) . vec(g) is one number for each group, so no pair is ever formed. `out` is W_z, a convolution with
    the same groups. `norm` is the group norm after it, which starts at zero.

    Cost: N C time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        inner_channels: channels of theta, phi and g, "planes" in the authors' code. Defaults to C / 2.
        groups: number of groups of channels, G in the paper, which uses 8 for ImageNet.
        use_scale: divide the sum by the square root of its number of terms, as an option of the authors' code does.
        algorithm: as for `functional.dot_product`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Raises:
        ValueError: if the number of groups does not divide both numbers of channels.

    Reference: Yue et al., Compact Generalized Non-local Network, NeurIPS 2018, eq. 7 and 11.
    """

    name = "cgnl"
    form = "dot_product"
    inner_channels: int
    groups: int
    use_scale: bool

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        groups: int = 1,
        use_scale: bool = False,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        own: dict[str, Any] = {"inner_channels": inner, "groups": groups}
        super().__init__(channels, place, **own, use_scale=use_scale, algorithm=algorithm)
        check_counts(**own)
        if inner % groups or channels % groups:
            raise ValueError(
                f"groups={groups}: expected a divisor of channels={channels} and of inner_channels={inner}"
            )
        self.theta = pointwise(channels, inner, place)
        self.phi = pointwise(channels, inner, place)
        self.g = pointwise(channels, inner, place)
        self.out = CONVOLUTIONS[self.dims](inner, channels, 1, groups=groups, bias=False, **factory(place))
        self.norm = zero_initialized(nn.GroupNorm(groups, channels, **factory(place)))

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return "weights among pairs of positions and channels, none over positions alone"

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size); B' counts groups."""
        count = math.prod(shape[2:]) * (self.inner_channels // self.groups)
        return shape[0] * self.groups, count, count, 1, 1

    def _update(self, x: Tensor) -> Tensor:
        maps = project(x, [self.theta, self.phi, self.g])
        theta, phi, g = (one.unflatten(1, (self.groups, -1)).flatten(2).flatten(0, 1).unsqueeze(2) for one in maps)
        count = theta.shape[1]
        factor = count**0.5 if self.use_scale else count  # the functional form divides by the number of keys
        y = functional.dot_product(theta, phi, g, algorithm=self.algorithm) * factor
        return self.norm(self.out(y.view(maps[0].shape)))

    def _last(self) -> nn.Module:
        return self.norm
