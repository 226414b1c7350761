"""Put non-local blocks into any network, take them out, keep their weights.

`targets` turns names, globs and modules into places; `probe` finds what a place's output looks like;
`blocks` changes the network; `storage` writes and reads block weights.
"""

from torch_nonlocal.insertion.block_files import load_blocks, save_blocks
from torch_nonlocal.insertion.insert import blocks, insert, remove

__all__ = ["blocks", "insert", "load_blocks", "remove", "save_blocks"]
