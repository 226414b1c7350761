"""The non-local block for 1D, 2D and 3D maps."""

from torch_nonlocal.layers.explain import explain
from torch_nonlocal.layers.non_local import NonLocal, NonLocal1d, NonLocal2d, NonLocal3d
from torch_nonlocal.layers.options import BlockOptions

__all__ = ["BlockOptions", "NonLocal", "NonLocal1d", "NonLocal2d", "NonLocal3d", "explain"]
