"""What a block looks at: exact weights of chosen positions, computed on demand from theta and phi, never as a map.

`watch` records a run; a `BlockRecord` answers for one block: rows, columns, links, strongest, statistics.
`weights` holds the arithmetic, streamed by `strongest` and `statistics`; `geometry` is the way from grid positions to
input pixels and back, found by `receptive` and `locate`. `similarity` is a record without a block.
"""

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.links import Link
from torch_nonlocal.attention.locate import probe_geometry
from torch_nonlocal.attention.record import BlockRecord
from torch_nonlocal.attention.similarity import similarity
from torch_nonlocal.attention.statistics import Statistics
from torch_nonlocal.attention.strongest import Strongest
from torch_nonlocal.attention.watch import Seen, watch

__all__ = [
    "BlockRecord",
    "Geometry",
    "Link",
    "Seen",
    "Statistics",
    "Strongest",
    "probe_geometry",
    "similarity",
    "watch",
]
