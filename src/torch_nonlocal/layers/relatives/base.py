"""What the relatives share: options, layout, 1x1 convolutions, observers."""

import inspect
import math
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from torch_nonlocal._common.counts import is_count
from torch_nonlocal.functional import ALGORITHMS, Algorithm, Pairwise
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.identity import zero_initialized
from torch_nonlocal.layers.layout import Layout, check_layout, from_map
from torch_nonlocal.layers.observed import show_observers
from torch_nonlocal.layers.operation import Computed
from torch_nonlocal.layers.options import check_option_names
from torch_nonlocal.layers.widths import in_channels

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class PlaceOptions(TypedDict, total=False):
    """Options that all relatives share: axes and layout of the maps, device and dtype.

    Attributes:
        dims: axes of the maps: 1, 2 (the default) or 3.
        layout: order of the axes of input and output, as for `NonLocal`.
        grid: as for `NonLocal`.
        prefix_tokens: as for `NonLocal`.
        device: device of the parameters.
        dtype: dtype of the parameters.
    """

    dims: int
    layout: Layout
    grid: Any
    prefix_tokens: int | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class Relative(Block):
    """Base class of the relatives: z = x + update(x), or a gate, on maps (B, C, *size).

    A class names its options as keyword parameters and passes them on. They become attributes, and `config` reads them.

    Args:
        channels: number of channels C of the map.
        place: the options that all relatives have.
        options: the options of the class.

    Raises:
        TypeError: if an option does not exist; the message lists the options.
        ValueError: if an option has an invalid value.
    """

    name: ClassVar[str]
    form: ClassVar[Pairwise | None] = None
    algorithms: ClassVar[tuple[Algorithm, ...]] = ()  # empty: all those of the form
    least_dims: ClassVar[int] = 1

    def __init__(self, channels: int, place: PlaceOptions, **options: Any) -> None:
        super().__init__()
        names = (*self.option_names(), "dims")
        check_option_names(type(self).__name__, place, names=names, of=f"block {self.name!r}")
        self.dims = place.get("dims", 2)
        if self.dims not in CONVOLUTIONS or self.dims < self.least_dims:
            raise ValueError(f"dims={self.dims!r}: {self.name!r} applies to maps of {self.least_dims} to 3 axes")
        check_counts(channels=channels)
        self._channels = channels
        self.layout = place.get("layout", "channels_first")
        self.grid = check_layout(self.layout, place.get("grid"), place.get("prefix_tokens"), self.dims)
        self.prefix_tokens = place.get("prefix_tokens")
        for option, value in options.items():
            setattr(self, option, value)
        if self.form is not None and self.algorithm not in (known := self.algorithms or ALGORITHMS[self.form]):
            allowed = ", ".join(map(repr, known))
            raise ValueError(f"algorithm={self.algorithm!r}: expected one of {allowed} for {self.name!r}")
        self._awaits_values = torch.empty(0, device=place.get("device")).is_meta

    @classmethod
    def own_options(cls) -> tuple[str, ...]:
        """Names of the options of this class alone."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of all options but `dims`, which the place of a block determines."""
        return (*cls.own_options(), *(name for name in PlaceOptions.__annotations__ if name != "dims"))

    @property
    def channels(self) -> int:
        """The number of channels C of the map, which the weights determine."""
        first = next(self.children(), None)  # a projection of the map, if there is one
        return (None if first is None else in_channels(first, self.dims)) or self._channels

    @property
    def config(self) -> dict[str, Any]:
        """The options as JSON values; `type(block)(**block.config)` creates an equal block."""
        own = {name: getattr(self, name) for name in self.own_options()}
        return {
            "channels": self.channels,
            "dims": self.dims,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()},
            "layout": self.layout,
            "grid": list(self.grid) if self.grid else None,
            "prefix_tokens": self.prefix_tokens,
        }

    @property
    def computed(self) -> Computed | None:
        """What the block computes as an operation of `torch_nonlocal.functional`; None for a gate."""
        return None if self.form is None else Computed(self.dims, self.form)

    def sizes(self, shape: Any) -> tuple[int, int, int, int, int]:
        """Return the sizes (B', N, M, D, V) of the operation for a map of shape (B, C, *size)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a map (B, C, *size), or to a tensor in its `layout`. The shape does not change.

        Raises:
            ValueError: if the number of axes or channels is wrong.
        """
        self._check_input(x)
        return x + from_map(self._update(self.to_map(x)), self.layout, x)

    def _update(self, x: Tensor) -> Tensor:
        """Return what the block adds to a map (B, C, *size)."""
        raise NotImplementedError

    def _last(self) -> nn.Module:
        return self.out  # pyright: ignore[reportReturnType]

    def _show(self, x: Tensor, query_BND: Tensor, key_BND: Tensor) -> None:
        """Show queries and keys of the weights over positions to the observers of this thread."""
        show_observers(self, self.computed, x, (query_BND, key_BND))

    def extra_repr(self) -> str:
        """Return the options that the child modules do not show."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.own_options())


def check_counts(most: float = math.inf, **counts: Any) -> None:
    """Check options that are numbers of something.

    Args:
        most: the largest valid number.
        **counts: the options by name.

    Raises:
        ValueError: if one is not a whole number from 1 to `most`.
    """
    for name, value in counts.items():
        if not is_count(value) or value > most:
            limit = "" if most == math.inf else f" and at most {most}"
            raise ValueError(f"{name}={value!r}: expected a whole number, at least 1{limit}")


def factory(place: PlaceOptions) -> dict[str, Any]:
    """Return the options `device` and `dtype` of a child module."""
    return {"device": place.get("device"), "dtype": place.get("dtype")}


class ZeroScale(nn.Module):
    """A weighted sum of maps with one learned scalar for each, initialized to zero.

    Args:
        count: number of maps.
        place: options of the block.
    """

    def __init__(self, count: int, place: PlaceOptions) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, **factory(place)))

    def reset_parameters(self) -> None:
        """Set the scalars to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the weighted sum of maps of one shape."""
        total = self.weight[0] * maps[0]
        for number, one in enumerate(maps[1:], start=1):
            total = total + self.weight[number] * one
        return total


def pointwise(inputs: int, outputs: int, place: PlaceOptions, *, bias: bool = True, zero: bool = False) -> nn.Module:
    """Return a 1x1 convolution.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        place: options of the block.
        bias: whether it has a bias.
        zero: whether its parameters are initialized to zero.
    """
    conv = CONVOLUTIONS[place.get("dims", 2)](inputs, outputs, 1, bias=bias, **factory(place))
    return zero_initialized(conv) if zero else conv


def positions(map_BCN: Tensor) -> Tensor:
    """Return a map (B, C, *size) as (B, N, C), a view where the strides allow one."""
    return map_BCN.flatten(2).transpose(1, 2)


def to_size(positions_BNC: Tensor, x: Tensor) -> Tensor:
    """Return (B, N, C) as a map (B, C, *size) of the size of x."""
    return positions_BNC.transpose(1, 2).unflatten(2, x.shape[2:])
