"""Non-local self-attention for vision networks in PyTorch.

Public names are imported on first use: `import torch_nonlocal` alone imports neither torch nor any optional package.
"""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports
from torch_nonlocal._version import __version__

if TYPE_CHECKING:
    from torch_nonlocal import functional, view
    from torch_nonlocal.attention import watch
    from torch_nonlocal.inflation.inflate import inflate
    from torch_nonlocal.insertion import blocks, insert, load_blocks, remove, save_blocks
    from torch_nonlocal.layers import NonLocal1d, NonLocal2d, NonLocal3d, explain, list_blocks
    from torch_nonlocal.models.registry import create_model, list_models
    from torch_nonlocal.optimization import optimize
    from torch_nonlocal.planning.plan import plan
    from torch_nonlocal.replacing import replace, restore
    from torch_nonlocal.streaming import stream
    from torch_nonlocal.tasks.loading import load
    from torch_nonlocal.weights import load_weights, read_weights

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
    "list_blocks",
    "list_models",
    "load",
    "load_blocks",
    "load_weights",
    "optimize",
    "plan",
    "read_weights",
    "remove",
    "replace",
    "restore",
    "save_blocks",
    "stream",
    "view",
    "watch",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "NonLocal1d": ".layers",
        "NonLocal2d": ".layers",
        "NonLocal3d": ".layers",
        "blocks": ".insertion",
        "create_model": ".models.registry",
        "explain": ".layers",
        "functional": ".functional:",
        "inflate": ".inflation.inflate",
        "insert": ".insertion",
        "list_blocks": ".layers",
        "list_models": ".models.registry",
        "load": ".tasks.loading",
        "load_blocks": ".insertion",
        "load_weights": ".weights",
        "optimize": ".optimization",
        "plan": ".planning.plan",
        "read_weights": ".weights",
        "remove": ".insertion",
        "replace": ".replacing",
        "restore": ".replacing",
        "save_blocks": ".insertion",
        "stream": ".streaming",
        "view": ".view:",
        "watch": ".attention",
    },
)
