"""Weights from files: reading, loading into models, and converting checkpoints of other projects.

`read_weights` reads a file without executing anything, `load_weights` loads it into a model. `convert_weights` turns
another project's checkpoint into non-local blocks and networks of this package: `foreign` has one module per project,
`places` maps its blocks to modules, `assemble` builds blocks, `whole_network` networks, and `refused` recognizes
attention layers without an equivalent.
"""

import warnings
from typing import TYPE_CHECKING, Any

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal._common.tensor_files import WeightsFile, read_weights
    from torch_nonlocal.models.fitting import LoadReport, load_weights
    from torch_nonlocal.weights.convert import Converted, convert_weights
    from torch_nonlocal.weights.foreign import SOURCES
    from torch_nonlocal.weights.whole_network import Network

__all__ = [
    "SOURCES",
    "Converted",
    "LoadReport",
    "Network",
    "WeightsFile",
    "convert_weights",
    "load_weights",
    "read_weights",
]

_get, __dir__ = lazy_exports(
    __name__,
    {
        "SOURCES": ".foreign",
        "Converted": ".convert",
        "LoadReport": "..models.fitting",
        "Network": ".whole_network",
        "WeightsFile": ".._common.tensor_files",
        "convert_weights": ".convert",
        "load_weights": "..models.fitting",
        "read_weights": ".._common.tensor_files",
    },
)


def __getattr__(name: str) -> Any:
    if name == "read":
        warnings.warn("weights.read is deprecated, use weights.convert_weights", DeprecationWarning, stacklevel=2)
        return _get("convert_weights")
    return _get(name)
