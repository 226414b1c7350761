"""Non-local self-attention for vision networks in PyTorch."""

from torch_nonlocal import functional
from torch_nonlocal._version import __version__
from torch_nonlocal.insertion import blocks, insert, load_blocks, remove, save_blocks
from torch_nonlocal.layers import NonLocal1d, NonLocal2d, NonLocal3d

__all__ = [
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "__version__",
    "blocks",
    "functional",
    "insert",
    "load_blocks",
    "remove",
    "save_blocks",
]
