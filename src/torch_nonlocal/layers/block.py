"""What all blocks have in common: the layout of their input, and their place after a module of a network.

`NonLocal` and the relatives (`layers.relatives`) derive from `Block`. Insertion, planning and block files use only what
`Block` declares.
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from torch_nonlocal._common.tracing import is_recorded
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.layers.identity import KeepsIdentity
from torch_nonlocal.layers.layout import Layout, expected, fits, map_shape, to_map

_log = logging.getLogger("torch_nonlocal")


class Block(KeepsIdentity):
    """Base class of the blocks, modules that map a tensor to one of the same shape.

    Attributes:
        dims: axes of the maps: 1, 2 or 3.
        inserted: whether `torch_nonlocal.insert` put the block after a module of a network.
        layout: order of the axes of input and output.
        grid: sizes of the map of tokens, or the number of frames.
        prefix_tokens: number of tokens before the map.
        algorithm: how the sums are computed, as in `torch_nonlocal.functional`.
        takes_keys_from: whether `forward` takes another map of keys, `keys_from`, with `key_channels` channels.
    """

    dims: int
    inserted: bool = False
    layout: Layout = "channels_first"
    grid: tuple[int, ...] | None = None
    prefix_tokens: int | None = None
    algorithm: Algorithm = "auto"
    takes_keys_from: ClassVar[bool] = False

    @property
    def channels(self) -> int:
        """The number of channels C of the map."""
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """The options as JSON values; `type(block)(**block.config)` creates an equal block."""
        raise NotImplementedError

    @property
    def computed(self) -> Any:
        """What the block computes: a `NonLocal` or a `Computed` (`layers.operation`); None for a gate."""
        return None

    @property
    def hidden_weights(self) -> str:
        """Why `torch_nonlocal.watch` does not show weights of this block; "" if it does."""
        return ""

    def to_map(self, x: Tensor) -> Tensor:
        """Return the map (B, C, *size) of a tensor in the block's layout: a view without the prefix tokens."""
        return to_map(x, self.layout, self.grid)

    @property
    def shape_form(self) -> tuple[Layout, int, int, tuple[int, ...] | None, int | None]:
        """Layout, axes of a map, channels, grid and prefix tokens: the arguments of `layout.fits` after the shape."""
        return self.layout, self.dims, self.channels, self.grid, self.prefix_tokens

    def map_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (B, C, *size) of the map of a tensor with a shape in the block's layout.

        Raises:
            ValueError: if the number of axes, channels or tokens is wrong.
        """
        if not fits(shape, *self.shape_form):
            raise ValueError(f"{type(self).__name__}: expected {expected(*self.shape_form)}, got {tuple(shape)}")
        return map_shape(shape, self.layout, self.grid)

    def check_size(self, size: Sequence[int]) -> None:
        """Check that the options fit a map of a size, such as their number of keys; by default, all do.

        Raises:
            ValueError: if an option does not fit.
        """

    def _check_input(self, x: Tensor) -> None:
        if not is_recorded(x):
            self.map_shape(x.shape)

    def __prepare_scriptable__(self) -> nn.Module:
        """Raise NotImplementedError: torch.jit.script calls this method before it compiles a module."""
        raise NotImplementedError(
            "torch.jit.script does not support non-local blocks: use torch.jit.trace, torch.export or torch.compile"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Strict loading of a checkpoint of the network without blocks keeps the weights of the block.
        if prefix and not any(key.startswith(prefix) for key in state_dict):
            state_dict.update(self.state_dict(prefix=prefix))
            _log.warning("%s: not in this checkpoint; the block keeps its weights", prefix.rstrip("."))
        else:
            self._awaits_values = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
