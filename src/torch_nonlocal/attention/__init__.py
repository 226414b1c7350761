"""What a block attends to: exact weights of chosen positions, computed on demand from theta and phi.

`watch` records a run of a model. A `BlockRecord` answers for one block: rows, column, links, strongest, statistics.
`weights` holds the arithmetic, which `strongest` and `statistics` evaluate tile by tile. `geometry` maps grid positions
to input pixels and back; `receptive` and `locate` find the mapping. `similarity` makes a record without a block.
`attribution` measures how much a block contributes.
"""

from torch_nonlocal.attention.attribution import added_magnitudes, gradient_times_activation
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
    "added_magnitudes",
    "gradient_times_activation",
    "probe_geometry",
    "similarity",
    "watch",
]
