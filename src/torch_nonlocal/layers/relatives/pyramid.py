"""Asymmetric non-local blocks: keys and values are averages over a pyramid of regions (APNB, AFNB)."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal._common.counts import is_count
from torch_nonlocal._common.tracing import is_recorded
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.keys import PYRAMID, Pyramid
from torch_nonlocal.layers.layout import fits, from_map
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.layers.options import Scale, softmax_scale
from torch_nonlocal.layers.projection import project
from torch_nonlocal.layers.relatives.base import PlaceOptions, Relative, check_counts, pointwise, positions, to_size
from torch_nonlocal.layers.visibility import why_no_rows

_MOST = 64  # sides, and regions along a side; a block file may name any number


class PyramidNonLocal(Relative):
    """Asymmetric pyramid non-local block (APNB): z_i = x_i + W sum_m softmax_m(theta_i . P(phi)_m) P(g)_m.

    P averages a map over a pyramid of regions: 1, 3 x 3, 6 x 6 and 8 x 8 of an image, which makes M = 110 keys. A
    sequence has 18 keys, and a clip 110 for each frame, as with keys="pyramid" of `NonLocal`. `out` is W, which starts
    at zero. In the authors' code, theta and phi are one convolution.

    Cost: N M D time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        inner_channels: inner width D. Defaults to C / 2.
        psp_size: sides of the levels of the pyramid.
        scale: factor of the logits: None for 1 (the paper), "sqrt" for D^-1/2 (the authors' code), or a number.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Zhu et al., Asymmetric Non-local Neural Networks for Semantic Segmentation, ICCV 2019, eq. 9 to 11.
    """

    name = "apnb"
    form = "embedded_gaussian"
    inner_channels: int
    psp_size: tuple[int, ...]
    scale: float

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        psp_size: Sequence[int] = PYRAMID,
        scale: Scale = None,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        own = asymmetric_options(channels, inner_channels, psp_size, scale)
        super().__init__(channels, place, **own, algorithm=algorithm)
        self._add_projections(channels, place)

    def _add_projections(self, key_channels: int, place: PlaceOptions) -> None:
        inner = self.inner_channels
        self.theta = pointwise(self.channels, inner, place)
        self.phi = pointwise(key_channels, inner, place)
        self.g = pointwise(key_channels, inner, place)
        self.out = pointwise(inner, self.channels, place, zero=True)
        self.pool = Pyramid(self.dims, self.psp_size)

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return why_no_rows(self.computed)

    @property
    def computed(self) -> Computed:
        """What the block computes."""
        return Computed(self.dims, "embedded_gaussian", scale=self.scale, keys="pyramid")

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size)."""
        frames = shape[2] if self.dims == 3 else 1
        keys = frames * sum(side ** min(self.dims, 2) for side in self.psp_size)
        return shape[0], math.prod(shape[2:]), keys, self.inner_channels, self.inner_channels

    def _update(self, x: Tensor) -> Tensor:
        return self._attended(x, *project(x, [self.theta, self.phi, self.g]))

    def _attended(self, x: Tensor, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        operands = (positions(one) for one in (theta, self.pool(phi), self.pool(g)))
        y_BND = functional.embedded_gaussian(*operands, scale=self.scale, algorithm=self.algorithm)
        return project(to_size(y_BND, x), [self.out])[0]


class FusionNonLocal(PyramidNonLocal):
    """Asymmetric fusion non-local block (AFNB): as APNB, with keys and values from a second map.

    z_i = x_i + W sum_m softmax_m(theta(x)_i . P(phi(keys_from))_m) P(g(keys_from))_m. The second map, of another stage
    of the network, may have another size and other channels. Without one, as after `torch_nonlocal.insert`, keys and
    values come from x.

    Cost: N M D time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        key_channels: channels of the second map. Defaults to C.
        inner_channels: inner width D. Defaults to C / 2.
        psp_size: as for `PyramidNonLocal`.
        scale: as for `PyramidNonLocal`.
        algorithm: as for `functional.embedded_gaussian`.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Zhu et al., Asymmetric Non-local Neural Networks for Semantic Segmentation, ICCV 2019, section 3.3.
    """

    name = "afnb"
    takes_keys_from = True
    key_channels: int

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        inner_channels: int | None = None,
        psp_size: Sequence[int] = PYRAMID,
        scale: Scale = None,
        algorithm: Algorithm = "auto",
        **place: Unpack[PlaceOptions],
    ) -> None:
        keys = channels if key_channels is None else key_channels
        own = {"key_channels": keys, **asymmetric_options(channels, inner_channels, psp_size, scale)}
        Relative.__init__(self, channels, place, **own, algorithm=algorithm)
        check_counts(key_channels=keys)
        self._add_projections(keys, place)

    def forward(self, x: Tensor, keys_from: Tensor | None = None) -> Tensor:
        """Apply the block to a map (B, C, *size), or to a tensor in its `layout`. The shape does not change.

        Args:
            x: the map of the queries.
            keys_from: the map of keys and values, (B, key_channels, *other_size); None for x.

        Raises:
            ValueError: if the number of axes or channels of a map is wrong.
        """
        if keys_from is None:
            if self.key_channels != self.channels:
                raise ValueError(
                    f"FusionNonLocal: key_channels={self.key_channels} needs a second map, block(x, keys_from), since "
                    f"x has {self.channels} channels"
                )
            return super().forward(x)
        self._check_input(x)
        query = self.to_map(x)
        if not is_recorded(keys_from):
            form = "channels_first", self.dims, self.key_channels, None, None
            if not fits(keys_from.shape, *form) or keys_from.shape[0] != query.shape[0]:
                raise ValueError(
                    f"FusionNonLocal: expected keys_from of shape (B, {self.key_channels}, *size) with the batch size "
                    f"of x and {self.dims} axes of size, got {tuple(keys_from.shape)}"
                )
        (theta,), (phi, g) = project(query, [self.theta]), project(keys_from, [self.phi, self.g])
        return x + from_map(self._attended(query, theta, phi, g), self.layout, x)


def asymmetric_options(channels: int, inner: int | None, psp_size: Sequence[int], scale: Scale) -> dict[str, Any]:
    """Return the options that both blocks share, checked.

    Raises:
        ValueError: if an option has an invalid value.
    """
    inner = max(channels // 2, 1) if inner is None else inner
    sides = tuple(psp_size) if isinstance(psp_size, Sequence) and not isinstance(psp_size, str) else ()
    if not 1 <= len(sides) <= _MOST or not all(is_count(side) and side <= _MOST for side in sides):
        raise ValueError(f"psp_size={psp_size!r}: expected the sides of the levels, such as {PYRAMID}, at most {_MOST}")
    check_counts(inner_channels=inner)
    return {
        "inner_channels": inner,
        "psp_size": sides,
        "scale": softmax_scale(scale, inner, "embedded_gaussian"),
    }
