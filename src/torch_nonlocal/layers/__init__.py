"""The non-local block and its relatives for 1D, 2D and 3D maps."""

from torch_nonlocal.layers.block import Block
from torch_nonlocal.layers.explain import explain
from torch_nonlocal.layers.non_local import NonLocal, NonLocal1d, NonLocal2d, NonLocal3d
from torch_nonlocal.layers.options import AnyBlockOptions, BlockOptions
from torch_nonlocal.layers.registry import list_blocks

__all__ = [
    "AnyBlockOptions",
    "Block",
    "BlockOptions",
    "NonLocal",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "explain",
    "list_blocks",
]
