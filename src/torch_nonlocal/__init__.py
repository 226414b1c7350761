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
    from torch_nonlocal.inflation.inflate import inflate
    from torch_nonlocal.models.registry import create_model, list_models
    from torch_nonlocal.planning.plan import plan

__all__ = [
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "__version__",
    "blocks",
    "create_model",
    "explain",
    "functional",
    "inflate",
    "insert",
    "list_models",
    "load_blocks",
    "plan",
    "remove",
    "save_blocks",
    "view",
    "watch",
]


# Imported when they are used: many never look, draw, plan or build a network, and each costs time.
_ON_USE = {
    "create_model": "models.registry",
    "inflate": "inflation.inflate",
    "list_models": "models.registry",
    "plan": "planning.plan",
    "watch": "attention",
}


def __getattr__(name: str) -> Any:
    if name == "view":
        return import_module("torch_nonlocal.view")
    if name in _ON_USE:
        return getattr(import_module(f"torch_nonlocal.{_ON_USE[name]}"), name)
    raise AttributeError(f"module 'torch_nonlocal' has no attribute {name!r}")
