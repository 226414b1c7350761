"""What a block looks at: exact weights of chosen positions, computed on demand from theta and phi, never as a map.

`watch` records a run; a `BlockRecord` answers for one block: rows, columns, links, strongest, statistics.
`weights` holds the arithmetic, `geometry` the way from grid positions to input pixels and back.
"""

from torch_nonlocal.attention.record import BlockRecord, Link
from torch_nonlocal.attention.similarity import similarity
from torch_nonlocal.attention.watch import Seen, watch

__all__ = ["BlockRecord", "Link", "Seen", "similarity", "watch"]
