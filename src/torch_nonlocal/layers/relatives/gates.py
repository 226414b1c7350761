"""Gates: factors in (0, 1) for channels (SE) and for channels and positions (CBAM).

A gate is not the identity when it is new, since a sigmoid does not reach one.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from torch_nonlocal.layers.layout import from_map
from torch_nonlocal.layers.relatives.base import CONVOLUTIONS, PlaceOptions, Relative, check_counts, factory, pointwise


class _Gate(Relative):
    """Base class of the gates: z = x * gate(x)."""

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """A gate has no queries and keys."""
        return shape[0], 0, 0, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate to a map (B, C, *size), or to a tensor in its `layout`. Prefix tokens do not change.

        Raises:
            ValueError: if the number of axes or channels is wrong.
        """
        self._check_input(x)
        gated = from_map(self._gated(self.to_map(x)), self.layout, x)
        prefix = x.shape[1] - math.prod(self.grid or ()) if self.layout == "tokens" else 0
        return torch.cat([x[:, :prefix], gated[:, prefix:]], dim=1) if prefix else gated

    def _gated(self, x: Tensor) -> Tensor:
        """Return x * gate(x) for a map (B, C, *size)."""
        raise NotImplementedError

    @property
    def _axes(self) -> tuple[int, ...]:
        """The axes of the positions of a map."""
        return tuple(range(2, self.dims + 2))

    def _last(self) -> nn.Module:
        return nn.Identity()  # no zero parameters


class SqueezeExcitation(_Gate):
    """Squeeze-and-excitation: z = x * sigmoid(W_2 ReLU(W_1 mean(x))), a factor for each channel.

    `reduce` is W_1 and `out` is W_2.

    Cost: N C time, O(C) memory.

    Args:
        channels: number of channels C of the map.
        reduction: the bottleneck has C / reduction channels; r in the paper.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Reference: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, eq. 2 to 4.
    """

    name = "se"
    reduction: int

    def __init__(self, channels: int, *, reduction: int = 16, **place: Unpack[PlaceOptions]) -> None:
        super().__init__(channels, place, reduction=reduction)
        check_counts(reduction=reduction)
        inner = max(channels // reduction, 1)
        self.reduce = pointwise(channels, inner, place)
        self.out = pointwise(inner, channels, place)

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return "a factor for each channel, no weights over positions"

    def _gated(self, x: Tensor) -> Tensor:
        mean = x.mean(self._axes, keepdim=True)
        return x * torch.sigmoid(self.out(nn.functional.relu(self.reduce(mean))))


class CBAM(_Gate):
    """Convolutional block attention module: a factor for each channel, then a factor for each position.

    x' = x * sigmoid(MLP(mean(x)) + MLP(max(x))) over the positions, z = x' * sigmoid(f([mean(x'), max(x')])) over the
    channels. MLP is `reduce`, ReLU and `out`; f is `spatial`, a convolution with kernel size `kernel_size`.

    Cost: N C time, O(N) memory.

    Args:
        channels: number of channels C of the map.
        reduction: the bottleneck has C / reduction channels; r in the paper.
        kernel_size: kernel size of the convolution over positions, odd.
        **place: `dims`, `layout`, `grid`, `prefix_tokens`, `device` and `dtype`.

    Raises:
        ValueError: if `kernel_size` is even.

    Reference: Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, eq. 1 to 3.
    """

    name = "cbam"
    reduction: int
    kernel_size: int

    def __init__(
        self, channels: int, *, reduction: int = 16, kernel_size: int = 7, **place: Unpack[PlaceOptions]
    ) -> None:
        super().__init__(channels, place, reduction=reduction, kernel_size=kernel_size)
        check_counts(reduction=reduction, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: expected an odd number, which keeps the size of the map")
        inner = max(channels // reduction, 1)
        self.reduce = pointwise(channels, inner, place)
        self.out = pointwise(inner, channels, place)
        padding = kernel_size // 2
        self.spatial = CONVOLUTIONS[self.dims](2, 1, kernel_size, padding=padding, bias=False, **factory(place))

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block."""
        return "a factor for each channel and one for each position, no weights between positions"

    def _gated(self, x: Tensor) -> Tensor:
        pooled = (x.mean(self._axes, keepdim=True), x.amax(self._axes, keepdim=True))
        mean, largest = (self.out(nn.functional.relu(self.reduce(one))) for one in pooled)
        x = x * torch.sigmoid(mean + largest)
        described = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(described))
