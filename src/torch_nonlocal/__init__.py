"""Non-local self-attention for vision networks in PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch_nonlocal import functional
from torch_nonlocal._version import __version__
from torch_nonlocal.insertion import blocks, insert, load_blocks, remove, save_blocks
from torch_nonlocal.layers import NonLocal1d, NonLocal2d, NonLocal3d, explain

if TYPE_CHECKING:
    from torch_nonlocal import view
    from torch_nonlocal.attention import watch

__all__ = [
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "__version__",
    "blocks",
    "explain",
    "functional",
    "insert",
    "load_blocks",
    "remove",
    "save_blocks",
    "view",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "view":  # drawing is an extra: imported when it is used
        return import_module("torch_nonlocal.view")
    if name == "watch":  # half of the import's time, and many never look
        return import_module("torch_nonlocal.attention").watch
    raise AttributeError(f"module 'torch_nonlocal' has no attribute {name!r}")
