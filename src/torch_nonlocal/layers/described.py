"""What a block is, apart from what it computes: its options, the widths of its children, and the shapes it takes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from torch_nonlocal.functional import SOFT, Hard, Normalize, Pairwise, Selection
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.config import config_of, shown_options
from torch_nonlocal.layers.groups import Attend, Causal, Groups
from torch_nonlocal.layers.keys import Keys, key_grid
from torch_nonlocal.layers.norm import NormKind
from torch_nonlocal.layers.visibility import why_no_rows
from torch_nonlocal.layers.widths import in_channels, out_channels


class Described(Block):
    """Base class of `NonLocal`, with its options as attributes."""

    takes_keys_from = True
    pairwise: Pairwise
    normalize: Normalize
    norm_kind: NormKind | None
    keys: Keys = "pool"  # defaults of the blocks in pickles of earlier versions
    key_channels: int | None = None
    selection: Selection = SOFT
    regions: int | None = None
    saliency: nn.Module | None

    groups: Groups
    subsample: tuple[int, ...] | None
    pool_first: bool
    checkpoint: bool
    scale: float
    theta: nn.Module
    phi: nn.Module
    g: nn.Module
    norm: nn.Module
    _widths: tuple[int, int]

    @property
    def channels(self) -> int:
        """The number of channels C of the map, which the weights determine."""
        first = self.g if self.key_channels is None or self.pairwise == "gaussian" else self.theta
        return in_channels(first, self.dims) or self._widths[0]

    @property
    def inner_channels(self) -> int:
        """The number of channels of g, which the weights determine."""
        return out_channels(self.g, self.dims) or self._widths[1]

    @property
    def embedding_channels(self) -> int:
        """The number of channels of theta and phi, which the weights determine; C in the form "gaussian"."""
        if self.pairwise == "gaussian":
            return self.channels
        return out_channels(self.theta, self.dims) or self._widths[1]

    @property
    def computed(self) -> Any:
        """What the block computes: its own options."""
        return self

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block; "" if it does."""
        return why_no_rows(self)

    @property
    def attend(self) -> Attend:
        """The option `attend`."""
        return self.groups.attend

    @property
    def causal(self) -> Causal:
        """The option `causal`."""
        return self.groups.causal

    @property
    def window_frames(self) -> int | None:
        """The option `window_frames`."""
        return self.groups.window_frames

    @property
    def windows(self) -> tuple[int | None, ...] | None:
        """The option `windows`, one size or None per axis."""
        return self.groups.window_sizes

    @property
    def interlaced(self) -> bool:
        """The option `interlaced`."""
        return self.groups.interlaced

    @property
    def top_k(self) -> int | None:
        """The option `top_k`."""
        return self.selection.top_k

    @property
    def hard(self) -> Hard:
        """The option `hard`."""
        return self.selection.hard

    @property
    def temperature(self) -> float:
        """The option `temperature`."""
        return self.selection.temperature

    @property
    def selects_keys(self) -> bool:
        """Whether a query has fewer keys than there are."""
        return bool(self.selection) or self.regions is not None

    @property
    def pools_keys(self) -> bool:
        """Whether the keys are not all positions of a map."""
        return self.subsample is not None or self.keys != "pool"

    @property
    def pools_first(self) -> bool:
        """Whether keys are pooled before phi and g. Averages and single positions are the same after them."""
        return self.pool_first or self.keys != "pool"

    @property
    def config(self) -> dict[str, Any]:
        """The options as JSON values; `type(block)(**block.config)` creates an equal block.

        Raises:
            ValueError: if no options describe the block, since theta and phi were pruned to another width than g.
        """
        return config_of(self)

    def key_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the keys of a map of a size (*grid)."""
        return key_grid(self, grid)

    def extra_repr(self) -> str:
        """Return the options that the child modules do not show."""
        return shown_options(self)
