"""What a module computes: a block, or a module of another project that computes through this package.

A generated class of such a module has an `Operation` as the attribute `OPERATION`. `nl.watch` and `nl.explain` treat
these modules as they treat blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from torch_nonlocal.functional import SOFT, Normalize, Pairwise, Selection
from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.groups import Attend, Causal, Groups
from torch_nonlocal.layers.keys import Keys, key_grid
from torch_nonlocal.layers.non_local import NonLocal

OPERATION = "_torch_nonlocal_operation"


@dataclass(frozen=True)
class Computed:
    """What a module computes, as the options of `NonLocal`.

    Attributes:
        dims: axes of its maps: 3 for clips, 2 for images, 1 for sequences.
        pairwise: pairwise form.
        subsample: pooling factors of the keys, one per axis; None for no pooling.
        scale: factor of the logits in the softmax forms.
        normalize: axis over which weights sum to one.
        attend: positions that a position attends to.
        causal: "frames" if a position attends to its own and earlier frames only; None for all frames.
        window_frames: number of frames that a position attends to, its own included; None for all.
        keys: which features of a map are the keys, as for `NonLocal`.
    """

    dims: int
    pairwise: Pairwise = "embedded_gaussian"
    subsample: tuple[int, ...] | None = None
    scale: float = 1.0
    normalize: Normalize = "keys"
    attend: Attend = "spacetime"
    causal: Causal = None
    window_frames: int | None = None
    keys: Keys = "pool"
    selection: ClassVar[Selection] = SOFT
    regions: ClassVar[int | None] = None

    @property
    def groups(self) -> Groups:
        """The groups of positions."""
        return Groups(self.attend, self.dims, self.causal, self.window_frames)

    def key_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The size of the keys of a map of a size (*grid)."""
        return key_grid(self, grid)


class Operation(ABC):
    """The operation of a kind of modules."""

    @abstractmethod
    def computed(self, module: nn.Module) -> Computed:
        """What a module computes."""

    @abstractmethod
    def sizes(self, module: nn.Module, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """The sizes (B', N, M, D, V) of the operation on an input of a shape.

        Raises:
            ValueError: if the shape does not fit the module.
        """


def operation_of(module: nn.Module) -> Operation | None:
    """Return the operation of a module of another project that computes through this package; None for all others."""
    return getattr(type(module), OPERATION, None)


def computed_by(module: nn.Module) -> NonLocal | Computed | None:
    """Return the options of a block or of a module with an operation; None for gates and all other modules."""
    if isinstance(module, Block):
        return module.computed
    operation = operation_of(module)
    return None if operation is None else operation.computed(module)


def is_observable(module: Any) -> bool:
    """Return whether a module shows its theta and phi to observers."""
    if isinstance(module, Block):
        return not module.hidden_weights
    return operation_of(module) is not None
