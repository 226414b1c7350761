"""Other projects' checkpoints: their non-local blocks and, where ours match, whole networks.

`reading` and `pickles` turn a file into tensors without running anything; `sources` has one module a project; `places`
says where its blocks go, `assemble` makes ours of them, `network` does so for whole networks; `refused` knows layers
that look alike and are not.
"""

from torch_nonlocal.weights.convert import Converted, read
from torch_nonlocal.weights.foreign import SOURCES
from torch_nonlocal.weights.whole_network import Network

__all__ = ["SOURCES", "Converted", "Network", "read"]
